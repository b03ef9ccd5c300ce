package gameday

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// database is PostgreSQL with the sample data, and users whom no replica has looked up.
type database struct {
	testing.TB
	server *devpg.Server
	super  *pgx.Conn // opened before the outage, and still there where the outage leaves sessions alone
}

const serviceRole = "iam" // the role that the service connects as

func startDatabase(t testing.TB) *database {
	t.Helper()
	dir, err := os.MkdirTemp("", "iam-gameday-pg-")
	ok(t, err)
	server, err := devpg.Start(t.Context(), devpg.Options{Dir: dir})
	ok(t, err)
	d := &database{TB: t, server: server}
	t.Cleanup(func() {
		d.server.Stop()
		_ = os.RemoveAll(server.Dir) // a leftover in the temporary folder does no harm
	})
	d.connect()
	d.exec("CREATE ROLE " + serviceRole + " LOGIN PASSWORD 'gameday'")
	return d
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d *database) connect() {
	d.Helper()
	conn, err := pgx.Connect(d.Context(), d.server.URL)
	ok(d, err)
	d.super = conn
	d.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone
}

func (d *database) exec(sql string, args ...any) {
	d.Helper()
	_, err := d.super.Exec(d.Context(), sql, args...)
	if err != nil {
		d.Fatalf("%s: %v", sql, err)
	}
}

// strings returns the first column of a query, over a connection of its own.
func (d *database) strings(sql string, args ...any) []string {
	d.Helper()
	conn, err := pgx.Connect(d.Context(), d.server.URL)
	ok(d, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(d.Context(), sql, args...)
	ok(d, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	ok(d, err)
	return all
}

// host is where the server listens.
func (d *database) host() string {
	d.Helper()
	u, err := url.Parse(d.server.URL)
	ok(d, err)
	return u.Host
}

// service is the URL of the service's role at hosts.
func service(hosts ...string) string {
	return "postgres://" + serviceRole + ":gameday@" + strings.Join(hosts, ",") + "/iam?sslmode=disable&target_session_attrs=read-write"
}

const users = 30_000 // whom no replica has looked up

// fill migrates, and writes the facts.
func (d *database) fill(program, issuer string) {
	d.Helper()
	cmd := exec.Command(program, "migrate", "up", "--grant-to", serviceRole)
	cmd.Env = []string{"DATABASE_URL=" + d.server.URL}
	if out, err := cmd.CombinedOutput(); err != nil {
		d.Fatalf("migrate: %v: %s", err, out)
	}
	db, err := postgres.Open(d.Context(), postgres.Config{URL: d.server.URL, Issuers: iam.Issuers{{URL: issuer, Tenants: []string{"*"}, Platform: true}}}, slog.New(slog.DiscardHandler), nil)
	ok(d, err)
	defer db.Close()
	ok(d, devstack.LoadSample(d.Context(), db, issuer))
	d.exec(`INSERT INTO users (issuer, subject, default_tenant) SELECT $1, 'user-' || i, 'acme' FROM generate_series(1, $2::int) i`, issuer, users)
	d.exec(`INSERT INTO users (issuer, subject, default_tenant) VALUES ($1, 'removed', 'acme')`, issuer)
	d.exec(`INSERT INTO memberships (user_id, tenant, roles) SELECT id, 'acme', '{viewer}' FROM users WHERE subject LIKE 'user-%'`)
	d.exec(`INSERT INTO memberships (user_id, tenant, roles) SELECT id, 'acme', '{editor}' FROM users WHERE subject = 'removed'`)
}

// removeRole leaves the user "removed" without the role editor.
const removeRole = `UPDATE memberships SET roles = '{viewer}' WHERE user_id = (SELECT id FROM users WHERE subject = 'removed')`

// kill ends the server as a crash would.
func (d *database) kill() { d.server.Kill() }

func (d *database) restart() {
	d.Helper()
	again, err := d.server.Restart(d.Context())
	ok(d, err)
	d.server = again
	d.connect()
}

// signal sends one to all processes of the server.
func (d *database) signal(s syscall.Signal) {
	d.Helper()
	for _, pid := range d.processes() {
		_ = syscall.Kill(pid, s) // a session may have ended
	}
}

// processes are the server and its children.
func (d *database) processes() []int {
	d.Helper()
	text, err := os.ReadFile(filepath.Join(d.server.Dir, "cluster", "postmaster.pid"))
	ok(d, err)
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	ok(d, err)
	all := []int{postmaster}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	ok(d, err)
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && fields[1] == first {
			all = append(all, pid)
		}
	}
	return all
}

// set changes a setting of the server, for sessions that are open, too.
func (d *database) set(setting, value string) {
	d.Helper()
	d.exec("ALTER SYSTEM SET " + setting + " = " + value)
	d.exec("SELECT pg_reload_conf()")
}

// occupy is another client that takes every connection that the server has for ordinary roles, those of the service first.
func (d *database) occupy() (release func()) {
	d.Helper()
	d.exec("CREATE ROLE another LOGIN PASSWORD 'gameday'")
	another := "postgres://another:gameday@" + d.host() + "/iam?sslmode=disable"
	var taken []*pgx.Conn
	ctx := context.WithoutCancel(d.Context())
	// The service gets no connection in between, which would clear its caches: it is over its own limit at first, which is the
	// same error.
	d.exec("ALTER ROLE " + serviceRole + " CONNECTION LIMIT 0")
	d.exec(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1`, serviceRole)
	// An attempt of the service that is about to fail takes a place for a moment, so one failure is not the end.
	for failures := 0; failures < 100; {
		conn, err := pgx.Connect(ctx, another)
		if err != nil {
			failures++
			time.Sleep(5 * time.Millisecond)
			continue
		}
		taken = append(taken, conn)
		failures = 0
	}
	d.exec("ALTER ROLE " + serviceRole + " CONNECTION LIMIT -1")
	return func() {
		for _, conn := range taken {
			_ = conn.Close(ctx) // the server notices either way
		}
	}
}

// small moves the tables to a file system of their own that has no room beyond spare; fill takes that, too.
func (d *database) small() (fill, free func()) {
	d.Helper()
	dir, err := os.MkdirTemp("", "iam-gameday-small-")
	ok(d, err)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=120m"); err != nil {
		d.Fatalf("this game day mounts a small tmpfs, which only root may: %v", err)
	}
	var owner syscall.Stat_t
	ok(d, syscall.Stat(filepath.Join(d.server.Dir, "cluster"), &owner))
	ok(d, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	ok(d, os.Chmod(filepath.Dir(dir), 0o1777)) // #nosec G302 -- the server's user must pass the temporary folder
	d.Cleanup(func() {
		d.server.Stop()
		_ = syscall.Unmount(dir, syscall.MNT_DETACH) // the machine of a test does not last
		_ = os.Remove(dir)
	})
	admin, err := pgx.Connect(d.Context(), strings.Replace(d.server.URL, "/iam?", "/postgres?", 1))
	ok(d, err)
	defer admin.Close(context.Background())
	ok(d, d.super.Close(d.Context()))
	for _, sql := range []string{"CREATE TABLESPACE small LOCATION '" + dir + "'", "ALTER DATABASE iam SET TABLESPACE small"} {
		_, err := admin.Exec(d.Context(), sql)
		ok(d, err)
	}
	d.connect()
	ballast := filepath.Join(dir, "ballast")
	return func() {
			file, err := os.Create(ballast)
			ok(d, err)
			defer file.Close()
			for _, size := range []int{1 << 20, 4 << 10} {
				for block := make([]byte, size); err == nil; {
					_, err = file.Write(block)
				}
				err = nil
			}
		}, func() {
			ok(d, os.Remove(ballast))
		}
}

// standby starts a synchronous standby of the server.
func (d *database) standby() *devpg.Server {
	d.Helper()
	dir, err := os.MkdirTemp("", "iam-gameday-standby-")
	ok(d, err)
	var owner syscall.Stat_t
	ok(d, syscall.Stat(filepath.Join(d.server.Dir, "cluster"), &owner))
	ok(d, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	cmd := exec.Command(filepath.Join(binFolder(d), "pg_basebackup"), "-D", filepath.Join(dir, "cluster"), "-R", "-X", "stream", "-c", "fast", "-d", d.server.URL)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		d.Fatalf("pg_basebackup: %v: %s", err, out)
	}
	password, err := os.ReadFile(filepath.Join(d.server.Dir, "password"))
	ok(d, err)
	ok(d, os.WriteFile(filepath.Join(dir, "password"), password, 0o600))
	standby, err := devpg.Start(d.Context(), devpg.Options{Dir: dir})
	ok(d, err)
	d.Cleanup(func() { standby.Stop(); _ = os.RemoveAll(dir) })
	d.set("synchronous_standby_names", "'*'")
	return standby
}

// binFolder is where the newest PostgreSQL has its programs.
func binFolder(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	ok(t, err)
	if path, err := exec.LookPath("pg_basebackup"); err == nil && len(found) == 0 {
		return filepath.Dir(path)
	}
	if len(found) == 0 {
		t.Fatal("pg_basebackup is missing: install PostgreSQL")
	}
	slices.SortFunc(found, func(a, b string) int { return major(a) - major(b) })
	return found[len(found)-1]
}

func major(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // not a number: 0
	return n
}

// promote makes the standby the primary.
func (d *database) promote(standby *devpg.Server) {
	d.Helper()
	d.server = standby
	d.connect()
	var promoted bool
	ok(d, d.super.QueryRow(d.Context(), "SELECT pg_promote(true, 30)").Scan(&promoted))
	if !promoted {
		d.Fatal(fmt.Errorf("the standby was not promoted"))
	}
}
