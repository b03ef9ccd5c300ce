package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/postgres"
)

const runbookPage = "../../docs/runbook.md"

// restored is a service that has lived before and after the moment that its database is restored to.
type restored struct {
	*plant
	server *devpg.Server
	dir    string            // that the server's user can enter
	env    map[string]string // of the runbook's commands
	ran    map[string]int    // commands of each section that ran

	gateway                       string
	alice                         string // access token
	user                          string // alice's id
	stays, removed, edited, later string // clients; the last is created after the backup
}

// Each command of the runbook's section "Backup and restore" runs as it is there, against a real server, and shows what
// the section says.
func TestTheRunbooksBackups(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("40 s, three servers, seven starts of the program: the nightly run has it")
	}
	t.Run("base backup and WAL", func(t *testing.T) {
		t.Parallel()
		r := newRestored(t)
		r.before()
		r.contains(r.run("Connections", 0), "iam-service facts", "iam-service feed")
		r.contains(r.run("Disk", 0), "bytes_per_row", " audit ", " memberships ")
		r.run("Base backup and WAL", 0)
		r.moment()
		r.after()
		r.archive()
		r.server.Kill()
		lost := filepath.Join(r.server.Dir, "cluster")
		r.ok(os.Rename(lost, lost+".lost"))
		r.env["PGDATA"] = lost
		r.run("Base backup and WAL", 1)
		r.owned(lost)
		server, err := devpg.Start(r.ctx, devpg.Options{Dir: r.server.Dir, Port: r.port(), Settings: r.archiving()})
		r.ok(err)
		t.Cleanup(server.Stop)
		r.until("the server has recovered", func() bool {
			var standby bool
			return r.pool.QueryRow(r.ctx, `SELECT pg_is_in_recovery()`).Scan(&standby) == nil && !standby
		})
		back := time.Now()
		r.until("the replica that went on running serves the restored facts", func() bool { return r.enrich() == http.StatusOK })
		if took := time.Since(back); took > 15*time.Second {
			t.Errorf("it took %s", took)
		}
		r.until("it reports the lost activation", func() bool { return strings.Contains(r.logged(), "policy activation lost by the database") })
		r.afterRestore()
	})
	t.Run("dump", func(t *testing.T) {
		t.Parallel()
		r := newRestored(t)
		r.before()
		r.run("Dump", 0)
		r.moment()
		r.after()
		r.kill()
		r.server.Stop()

		other, err := devpg.Start(r.ctx, devpg.Options{Dir: filepath.Join(r.dir, "other"), Settings: []string{"fsync=off"}})
		r.ok(err)
		t.Cleanup(other.Stop)
		r.env["RESTORED_URL"] = other.URL
		r.run("Dump", 1)
		r.env["OWNER_URL"] = other.URL
		if out, err := r.sh(`DATABASE_URL="$RESTORED_URL" iam-service instance show`); err == nil || !strings.Contains(out, "copied or moved") {
			t.Errorf("a restored dump: %v %s", err, out)
		}
		r.run("Dump", 2)
		r.use(other.URL)
		r.pool, err = pgxpool.New(r.ctx, other.URL)
		r.ok(err)
		t.Cleanup(r.pool.Close)
		r.start()
		r.until("it serves the restored facts", func() bool { return r.enrich() == http.StatusOK })
		r.afterRestore()
	})
}

func newRestored(t *testing.T) *restored {
	t.Helper()
	dir, err := os.MkdirTemp("", "iam-restore-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover does no harm
	r := &restored{dir: dir, env: map[string]string{}, ran: map[string]int{}}
	for _, d := range []string{dir, filepath.Join(dir, "backups"), filepath.Join(dir, "backups", "wal")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil { // PostgreSQL may run as another user
			t.Fatal(err)
		}
	}
	r.env["BACKUPS"] = filepath.Join(dir, "backups")
	r.server, err = devpg.Start(t.Context(), devpg.Options{Dir: filepath.Join(dir, "server"), Settings: r.archiving()})
	if err != nil {
		t.Fatalf("this test needs PostgreSQL: %v", err)
	}
	t.Cleanup(r.server.Stop)
	if _, err := postgres.Migrate(t.Context(), r.server.URL, postgres.Up); err != nil {
		t.Fatal(err)
	}
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	r.gateway = addrs[0]
	bin := filepath.Join(dir, "bin")
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(bin, "iam-service")); err != nil {
		t.Fatal(err)
	}
	r.env["SERVICE_PASSWORD"], r.env["SERVICE_LOG"] = "secret", filepath.Join(dir, "service.log")
	r.env["OWNER_URL"], r.env["REPLICATION_URL"] = r.server.URL, r.server.URL
	r.plant = newPlantAt(t, r.server.URL, func(p *plant) {
		_, err := p.pool.Exec(p.ctx, `CREATE ROLE iam_service LOGIN PASSWORD 'secret'; SELECT iam_grant('iam_service')`)
		p.ok(err)
		r.plant = p
		r.use(p.proxy.URL)
	})
	r.env["RAUTH_URL"], r.env["RAUTH_ADMIN_URL"], r.env["RAUTH_AUDIENCES"], r.env["PATH"] = r.issuer, r.issuer, "iam-gateway", bin+":"+postgresPrograms(t)+":"+os.Getenv("PATH")
	r.env["POLICY_ALLOW_UNSIGNED"] = "1"
	return r
}

// postgresPrograms is the folder of pg_basebackup and the rest; in PATH there may be pg_dump alone.
func postgresPrograms(t testing.TB) string {
	t.Helper()
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dirs)
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "pg_basebackup")); err == nil {
			return dir
		}
	}
	if path, err := exec.LookPath("pg_basebackup"); err == nil {
		return filepath.Dir(path)
	}
	t.Fatal("this test needs pg_basebackup, pg_dump, pg_restore and psql of PostgreSQL")
	return ""
}

// use has the program connect to a database as the service's role, from its next start on.
func (r *restored) use(database string) {
	u, err := url.Parse(database)
	r.ok(err)
	u.User = url.UserPassword("iam_service", "secret")
	r.env["SERVICE_URL"] = u.String()
	r.settings = []string{"DATABASE_URL=" + u.String(), "GATEWAY_ADDR=" + r.gateway, "POLICY_ACTIVATION=managed", "POLICY_ALLOW_UNSIGNED=1", "STATE_DIR=" + filepath.Join(r.dir, "state")}
}

func (r *restored) archiving() []string {
	return []string{"fsync=off", "archive_mode=on", "archive_command=cp %p " + filepath.Join(r.dir, "backups", "wal", "%f")}
}

func (r *restored) port() int { return int(portOf(r, r.server.URL)) }

func portOf(r *restored, database string) uint16 {
	c, err := pgx.ParseConfig(database)
	r.ok(err)
	return c.Port
}

// owned gives what the commands have copied to the user of the server, who runs them in production.
func (r *restored) owned(folder string) {
	r.Helper()
	out, err := exec.Command("chown", "-R", "--reference="+r.server.Dir, folder).CombinedOutput()
	if err != nil {
		r.Fatalf("%v: %s", err, out)
	}
}

// before is what happens before the backup.
func (r *restored) before() {
	r.Helper()
	r.want(201, r.call("POST", "/v1/tenants", map[string]any{"id": "acme", "slug": "acme", "name": "Acme"}))
	r.want(201, r.call("POST", "/v1/tenants/acme/roles", map[string]any{"name": "reader", "permissions": []string{"document:read"}}))
	r.user = r.want(201, r.call("POST", "/v1/users", map[string]any{"issuer": r.issuer, "subject": "alice"})).text("id")
	r.want(201, r.call("POST", "/v1/tenants/acme/members", map[string]any{"subject": "alice", "roles": []string{"reader"}}))
	for _, c := range []struct {
		name string
		id   *string
	}{{name: "stays", id: &r.stays}, {name: "removed", id: &r.removed}, {name: "edited", id: &r.edited}} {
		*c.id = r.client(c.name)
	}
	r.activate(1)
	var err error
	r.alice, err = r.rauth.Mint("ES256", map[string]any{"sub": "alice", "client_id": "web", "iat": time.Now().Add(-time.Minute).Unix()})
	r.ok(err)
	r.until("alice is authorized", func() bool { return r.enrich() == http.StatusOK })
	r.kill() // a start publishes the heads of the audit chains
	r.start()
	r.checkpointed()
}

// after is what the restore loses.
func (r *restored) after() {
	r.Helper()
	r.want(200, r.call("PATCH", "/v1/users/"+r.user, map[string]any{"status": "blocked"}))
	r.until("alice is denied", func() bool { return r.enrich() != http.StatusOK })
	r.want(204, r.call("DELETE", "/v1/clients/"+r.removed, nil))
	r.want(200, r.call("PUT", "/v1/clients/"+r.edited, r.metadata("edited again"), "If-Match: *"))
	r.later = r.client("later")
	r.activate(2)
	r.kill()
	r.start()
	r.checkpointed()
}

func (*restored) metadata(name string) map[string]any {
	return map[string]any{"client_name": name, "grant_types": []string{"client_credentials"}, "roles": []string{"reader"}}
}

func (r *restored) client(name string) string {
	r.Helper()
	body := r.metadata(name)
	body["tenant"] = "acme"
	return r.want(201, r.call("POST", "/v1/clients", body)).text("client_id")
}

// activate pushes the n-th policy and activates it.
func (r *restored) activate(n int) {
	r.Helper()
	folder := filepath.Join(r.dir, fmt.Sprint("policy-", n))
	r.ok(os.CopyFS(folder, os.DirFS("../../policies")))
	rule := fmt.Sprintf("package iam.claims\n\n# METADATA\n# title: Never fires\n# description: For the test.\n# custom:\n#   code: never\ndenials contains _reason(rego.metadata.rule()) if _tenant.id == \"nothing-%d\"\n", n)
	r.ok(os.WriteFile(filepath.Join(folder, "iam", "claims", "never.rego"), []byte(rule), 0o600))
	r.env["BUNDLE"] = folder + ".tar.gz"
	out := r.must(`iam-service policy build ` + folder + ` -o "$BUNDLE" && DATABASE_URL="$OWNER_URL" iam-service policy push "$BUNDLE"`)
	m := regexp.MustCompile(`(?m)^revision (\w+) stored`).FindStringSubmatch(out)
	if m == nil {
		r.Fatalf("pushed: %s", out)
	}
	r.env["REVISION"] = m[1]
	r.until("it is activated", func() bool {
		_, err := r.sh(`DATABASE_URL="$OWNER_URL" iam-service policy activate "$REVISION"`)
		return err == nil
	})
}

// moment is the one that is restored to.
func (r *restored) moment() {
	r.Helper()
	var at time.Time
	r.ok(r.pool.QueryRow(r.ctx, `SELECT clock_timestamp()`).Scan(&at))
	r.env["MOMENT"] = at.UTC().Format("2006-01-02T15:04:05.000000+00:00")
}

// archive waits until all that was written is in the archive.
func (r *restored) archive() {
	r.Helper()
	var segment string
	r.ok(r.pool.QueryRow(r.ctx, `SELECT pg_walfile_name(pg_switch_wal())`).Scan(&segment))
	r.until("the WAL is archived", func() bool {
		_, err := os.Stat(filepath.Join(r.env["BACKUPS"], "wal", segment))
		return err == nil
	})
}

var checkpointLine = regexp.MustCompile(`"msg":"audit checkpoint","chain":"([^"]*)","seq":(\d+)`)

// checkpointed waits until the log has the heads of all chains as they are now, and events are sent, and stores the log.
func (r *restored) checkpointed() {
	r.Helper()
	rows, err := r.pool.Query(r.ctx, `SELECT chain, seq FROM audit_heads`)
	r.ok(err)
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Chain string
		Seq   int
	}])
	r.ok(err)
	r.until("the heads of all chains are in the log", func() bool {
		logged := map[string]int{}
		for _, m := range checkpointLine.FindAllStringSubmatch(r.logged(), -1) {
			seq, err := strconv.Atoi(m[2])
			r.ok(err)
			logged[m[1]] = max(logged[m[1]], seq)
		}
		for _, h := range heads {
			if logged[h.Chain] < h.Seq {
				return false
			}
		}
		return r.count(`SELECT count(*) FROM outbox WHERE sent_at IS NULL`) == 0
	})
	r.ok(os.WriteFile(r.env["SERVICE_LOG"], []byte(r.logged()), 0o600))
}

func (r *restored) want(status int, got said) said {
	r.Helper()
	if got.status != status {
		r.Fatalf("answered %d %v, want %d; %s", got.status, got.body, status, r.logged())
	}
	return got
}

// enrich asks as a gateway does for alice.
func (r *restored) enrich() int {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.gateway+"/system/enrich-token", nil)
	r.ok(err)
	req.Header.Set("Authorization", "Bearer "+r.alice)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close() // the status says it
	return resp.StatusCode
}

// sh runs a script with the runbook's variables, and returns both its outputs.
func (r *restored) sh(script string) (string, error) {
	ctx, cancel := context.WithTimeout(r.ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = r.dir
	cmd.Env = []string{"HOME=" + r.dir}
	for name, value := range r.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *restored) must(script string) string {
	r.Helper()
	out, err := r.sh(script)
	if err != nil {
		r.Fatalf("%s\n%v: %s", script, err, out)
	}
	return out
}

// block is a block of commands of a section of the runbook.
func (r *restored) block(section string, n int) string {
	r.Helper()
	text, err := os.ReadFile(runbookPage)
	r.ok(err)
	_, below, found := strings.Cut(string(text), "\n### "+section+"\n")
	below, _, _ = strings.Cut(below, "\n### ")
	below, _, _ = strings.Cut(below, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(below, -1)
	if !found || n >= len(blocks) {
		r.Fatalf("docs/runbook.md, %s: there is no block %d of commands", section, n)
	}
	r.ran[section]++
	if n == len(blocks)-1 && r.ran[section] != len(blocks) {
		r.Errorf("docs/runbook.md, %s: %d of %d blocks ran", section, r.ran[section], len(blocks))
	}
	return blocks[n][1]
}

// run runs a block, which must succeed.
func (r *restored) run(section string, n int) string {
	r.Helper()
	return r.must(r.block(section, n))
}

// afterRestore runs what comes after any restore, with a replica that runs.
func (r *restored) afterRestore() {
	r.Helper()
	const section = "After any restore"
	changed := r.run(section, 0)
	for _, want := range []string{"/v1/users/", "/v1/clients/"} {
		if !strings.Contains(changed, want) {
			r.Errorf("the log names no change of %s: %s", want, changed)
		}
	}
	r.want(200, r.call("PATCH", "/v1/users/"+r.user, map[string]any{"status": "blocked"}))
	r.until("what was revoked is denied again", func() bool { return r.enrich() != http.StatusOK })

	r.contains(r.run(section, 1), "granted to iam_service", "2 chains compared with an anchor")
	r.env["DATABASE_URL"] = r.env["OWNER_URL"] // as it exports
	out, err := r.sh(r.block(section, 2))
	if err == nil || !regexp.MustCompile(`\(platform\): it ends at entry \d+, and an anchor is of entry \d+`).MatchString(out) {
		r.Errorf("the audit against its newest anchors: %v %s", err, out)
	}

	before := len(r.messages())
	r.contains(r.run(section, 3), "will be published again")
	r.until("the events since are announced again", func() bool { return len(r.messages()) > before })

	r.run(section, 4)
	r.until("no activation is lost any more", func() bool {
		out, err := r.sh(`curl -s "` + r.ops + `/readyz?verbose"`)
		return err == nil && !strings.Contains(out, "has lost activation")
	})

	out, err = r.sh(r.block(section, 5))
	if err == nil || !strings.Contains(out, "3 clients differ") {
		r.Errorf("the comparison: %v %s", err, out)
	}
	r.contains(out, r.later+" of acme: orphan", r.removed+" of acme: missing", r.edited+" of acme: changed")
	if name := r.rauth.Provisioned()[r.edited]["client_name"]; name != "edited again" {
		r.Errorf("before an operator has confirmed, a client in R-Auth became %v", name)
	}
	r.must(`curl -sf -X DELETE "$RAUTH_ADMIN_URL/admin/clients/` + r.later + `"`)
	r.want(204, r.call("DELETE", "/v1/clients/"+r.removed, nil))
	r.contains(r.run(section, 6), r.edited+" of acme: changed", "repaired")
	r.contains(r.must(r.block(section, 5)), "0 differ")
	there := r.rauth.Provisioned()
	if len(there) != 2 || there[r.stays] == nil || there[r.edited]["client_name"] != "edited" {
		r.Errorf("R-Auth has %v", there)
	}
	if out, err := r.sh(`DATABASE_URL="$SERVICE_URL" iam-service doctor --timeout 10s`); !strings.Contains(out, "ok       instance") || !strings.Contains(out, "can do what the service needs, and not more") {
		r.Errorf("doctor: %v %s", err, out)
	}
}

func (r *restored) contains(text string, parts ...string) {
	r.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			r.Errorf("no %q in %s", part, text)
		}
	}
}
