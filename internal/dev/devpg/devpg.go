// Package devpg runs a private PostgreSQL for development and tests: it finds the binaries (or downloads
// them), creates a cluster, starts a server on a free loopback port, and stops it again, even if its own
// process is killed.
//
// PostgreSQL refuses to run as root; there, an unprivileged user owns the cluster and runs the server.
// The package does not know schemas.
package devpg

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/freeport"
)

// Oldest is the oldest major version that the schema runs on
// (UNIQUE NULLS NOT DISTINCT).
const Oldest = 15

// Options of Start. Dir is needed; the rest has usable zero values.
type Options struct {
	Dir      string    // folder of the cluster; created if absent
	Port     int       // 0: a free one
	Settings []string  // further settings of the server, as "fsync=off"
	Auth     string    // how a new cluster authenticates (initdb --auth); "": scram-sha-256
	Progress io.Writer // receives messages before long steps; nil: none
}

// Server is a running PostgreSQL.
type Server struct {
	URL string // superuser's connection URL; the database is "iam"
	Dir string // folder of the cluster; another one than Options.Dir if the server's user cannot reach that

	cmd   *exec.Cmd
	stdin io.Closer // closing it stops the server
	done  chan struct{}
	log   string
}

// Start creates the cluster in o.Dir if there is none, starts a server on it and returns when the
// server responds.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	bin, err := binaries(o.Progress)
	if err != nil {
		return nil, err
	}
	who, err := serverUser()
	if err != nil {
		return nil, err
	}
	dir, err := reachable(o.Dir, who)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, log: filepath.Join(dir, "server.log"), done: make(chan struct{})}
	password, err := s.init(ctx, bin, who, o)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, bin, who, o, password); err != nil {
		return nil, err
	}
	return s, nil
}

// start runs the server and waits until the database "iam" exists.
func (s *Server) start(ctx context.Context, bin string, who *syscall.Credential, o Options, password string) error {
	port := o.Port
	if port == 0 {
		var err error
		if port, err = freeport.Port(); err != nil {
			return err
		}
	}
	logFile, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of PostgreSQL: %w", err)
	}
	defer logFile.Close()

	args := []string{
		"-D", filepath.Join(s.Dir, "cluster"), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}
	for _, setting := range o.Settings {
		args = append(args, "-c", setting)
	}
	// The shell stops the server when its standard input ends. The kernel closes the pipe even if this
	// process is killed. SIGINT is PostgreSQL's fast shutdown.
	const supervisor = `exec 3<&0; "$@" </dev/null 3<&- & pg=$!
{ read -r _ <&3; kill -INT $pg; } & watch=$!
wait $pg; kill $watch`
	s.cmd = exec.Command("/bin/sh", append([]string{"-c", supervisor, "sh", filepath.Join(bin, "postgres")}, args...)...)
	s.cmd.Dir = s.Dir
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	s.cmd.Env = environment()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who} // this process handles Ctrl-C, in its own order
	s.stdin, err = s.cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // the reason is in the log
		close(s.done)
	}()

	s.URL = (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/iam", RawQuery: "sslmode=disable",
	}).String()
	if err := s.await(ctx); err != nil {
		s.Stop()
		return err
	}
	return nil
}

// await creates the database as soon as the server responds.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	admin := strings.Replace(s.URL, "/iam?", "/postgres?", 1)
	for {
		conn, err := pgx.Connect(ctx, admin)
		if err == nil {
			_, err = conn.Exec(ctx, "CREATE DATABASE iam")
			_ = conn.Close(ctx)
			if err == nil || strings.Contains(err.Error(), "42P04") || strings.Contains(err.Error(), "25006") {
				return nil // created; duplicate_database: by an earlier start; read_only_sql_transaction: a standby
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not respond: %w; its log ends: %s", err, s.logTail())
		case <-s.done:
			return fmt.Errorf("PostgreSQL ended at once; its log ends: %s", s.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop shuts the server down and waits for its end.
func (s *Server) Stop() {
	_ = s.stdin.Close() // the shell then stops the server
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // the whole process group
		<-s.done
	}
}

// Kill ends the server as a crash would, without a shutdown.
func (s *Server) Kill() {
	pid := s.postmaster()
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
	<-s.done
	// The server may outlive the shell by a moment.
	for until := time.Now().Add(10 * time.Second); pid > 0 && syscall.Kill(pid, 0) == nil && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
}

// postmaster returns the server's process id from its pid file; 0: unknown.
func (s *Server) postmaster() int {
	b, err := os.ReadFile(filepath.Join(s.Dir, "cluster", "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(first) // not a number: unknown
	return pid
}

// Restart starts the server again on the same port, after Kill or Stop.
func (s *Server) Restart(ctx context.Context) (*Server, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, fmt.Errorf("restart PostgreSQL: %w", err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, fmt.Errorf("restart PostgreSQL: %w", err)
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		again, err := Start(ctx, Options{Dir: s.Dir, Port: port})
		// Processes of one that was killed may not be gone yet.
		if err == nil || !strings.Contains(err.Error(), "pre-existing shared memory block") || time.Now().After(until) {
			return again, err
		}
	}
}

func (s *Server) logTail() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-500):])
}

// init creates the cluster if there is none, and returns the superuser's password.
func (s *Server) init(ctx context.Context, bin string, who *syscall.Credential, o Options) (string, error) {
	passwordFile := filepath.Join(s.Dir, "password")
	cluster := filepath.Join(s.Dir, "cluster")
	if _, err := os.Stat(filepath.Join(cluster, "PG_VERSION")); err == nil {
		password, err := os.ReadFile(passwordFile)
		if err != nil {
			return "", fmt.Errorf("read the password of the cluster in %s: %w", s.Dir, err)
		}
		return string(password), nil
	}
	fmt.Fprintln(o.Progress, "creating a PostgreSQL cluster in", s.Dir)
	password := rand.Text()
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("write the password of the cluster: %w", err)
	}
	if who != nil {
		if err := os.Chown(passwordFile, int(who.Uid), int(who.Gid)); err != nil {
			return "", fmt.Errorf("change the owner of the cluster: %w", err)
		}
	}
	// Created under another name and renamed, so that an interrupted initdb leaves nothing that looks whole.
	half := cluster + ".new"
	if err := os.RemoveAll(half); err != nil {
		return "", fmt.Errorf("clear %s: %w", half, err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", half, "-U", "postgres", "-A", cmp.Or(o.Auth, "scram-sha-256"),
		"--pwfile", passwordFile, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.Env = s.Dir, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Rename(half, cluster); err != nil {
		return "", fmt.Errorf("rename the cluster: %w", err)
	}
	return password, nil
}

// environment is the environment of this process without PG… variables, which would configure the server.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PG") })
}

// serverUser returns the user who runs PostgreSQL; nil: the current one. For root it is postgres, or
// else the user nobody.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no credential means: the current user
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and neither a user postgres nor nobody exists: add one, or run this as an ordinary user")
}

// reachable creates dir for the server's user and returns it. If that user cannot pass a folder above it
// (a clone in /root, or under mktemp -d), it creates and returns a folder in /var/tmp instead.
func reachable(dir string, who *syscall.Credential) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("folder of PostgreSQL: %w", err)
	}
	if who != nil && !passable(filepath.Dir(dir), who) {
		sum := sha256.Sum256([]byte(dir))
		dir = filepath.Join("/var/tmp", "iam-dev-"+hex.EncodeToString(sum[:6]))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder of PostgreSQL: %w", err)
	}
	if who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			return "", fmt.Errorf("change the owner of the folder of PostgreSQL: %w", err)
		}
	}
	return dir, nil
}

// passable creates dir and reports whether a user can enter it.
func passable(dir string, who *syscall.Credential) bool {
	if err := os.MkdirAll(dir, 0o755); err != nil { // the server's user must pass it
		return false
	}
	cmd := exec.Command("/bin/sh", "-c", `cd "$1"`, "sh", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	return cmd.Run() == nil
}

// Folders of installed binaries, in addition to PATH, and the repository from which embedded-postgres
// downloads them ("": its default). The test changes these variables.
var (
	places     = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"}
	repository string
)

// binaries returns the folder of initdb and postgres: the newest installed version, else one that
// embedded-postgres downloads.
func binaries(progress io.Writer) (string, error) {
	var found []string
	if p, err := exec.LookPath("initdb"); err == nil {
		if file, err := filepath.EvalSymlinks(p); err == nil {
			found = append(found, filepath.Dir(file))
		}
	}
	for _, pattern := range places {
		dirs, _ := filepath.Glob(pattern) // the patterns are well-formed
		found = append(found, dirs...)
	}
	best, bestVersion := "", Oldest-1
	for _, dir := range found {
		if v := version(dir); v > bestVersion {
			best, bestVersion = dir, v
		}
	}
	if best != "" {
		return best, nil
	}
	return fetch(progress)
}

// version returns the major version of the server in dir; 0: none.
func version(dir string) int {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	words := strings.Fields(string(out)) // "postgres (PostgreSQL) 15.18 (Debian …)"
	if len(words) < 3 {
		return 0
	}
	major, _, _ := strings.Cut(words[2], ".")
	v, _ := strconv.Atoi(major) // not a number: 0, so it is not used
	return v
}

// fetch downloads the binaries with embedded-postgres. It starts a server only because embedded-postgres
// unpacks them on a start; as root the start fails after the unpacking, which does no harm.
func fetch(progress io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil || os.Geteuid() == 0 {
		cache = "/var/tmp" // where the server's user can reach it
	}
	dir := filepath.Join(cache, "iam-dev-postgres")
	bin := filepath.Join(dir, "bin")
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err == nil {
		return bin, nil
	}
	fmt.Fprintln(progress, "PostgreSQL is not installed: fetching its binaries")
	tmp, err := os.MkdirTemp("", "iam-dev-fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // a leftover in the temporary folder does no harm
	cfg := embeddedpostgres.DefaultConfig()
	if repository != "" {
		cfg = cfg.BinaryRepositoryURL(repository)
	}
	pg := embeddedpostgres.NewDatabase(cfg.
		BinariesPath(dir).RuntimePath(filepath.Join(tmp, "run")).CachePath(filepath.Join(tmp, "cache")).
		Port(1).StartTimeout(time.Second).Logger(io.Discard))
	startErr := pg.Start()
	if startErr == nil {
		_ = pg.Stop() // only the binaries are needed
	}
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return "", fmt.Errorf("PostgreSQL %d or newer is needed and was not found on PATH or in /usr/lib/postgresql/*/bin, "+
			"and its binaries could not be fetched (%w): install it (%s)", Oldest, startErr, howToInstall())
	}
	return bin, nil
}

func howToInstall() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	return "Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; Alpine: apk add postgresql"
}
