// Package devpg runs a private PostgreSQL for development and tests: it finds
// the binaries (or has them fetched), makes a cluster, starts a server on a
// free loopback port and stops it again, also when our own process is killed.
//
// PostgreSQL refuses to run as root; there, an unprivileged user owns the
// cluster and runs the server. The package knows nothing of schemas.
package devpg

import (
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
	Dir      string    // where the cluster lives; made if absent
	Port     int       // 0: a free one
	Settings []string  // more settings of postgres, as "fsync=off"
	Progress io.Writer // what takes long is said here; nil: nowhere
}

// Server is a running PostgreSQL.
type Server struct {
	URL string // superuser's connection URL; the database is "iam"
	Dir string // where the cluster lives: not Options.Dir where the server's user cannot reach that

	cmd   *exec.Cmd
	stdin io.Closer // closing it stops the server
	done  chan struct{}
	log   string
}

// Start makes the cluster in o.Dir if there is none, starts a server on it and
// returns when it answers.
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
	password, err := s.init(ctx, bin, who, o.Progress)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, bin, who, o, password); err != nil {
		return nil, err
	}
	return s, nil
}

// start runs the server and waits until the database "iam" answers.
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
	// The shell ends the server when its standard input ends, which the kernel
	// sees to even when we are killed. SIGINT is PostgreSQL's fast shutdown.
	const nurse = `exec 3<&0; "$@" </dev/null 3<&- & pg=$!
{ read -r _ <&3; kill -INT $pg; } & nurse=$!
wait $pg; kill $nurse`
	s.cmd = exec.Command("/bin/sh", append([]string{"-c", nurse, "sh", filepath.Join(bin, "postgres")}, args...)...)
	s.cmd.Dir = s.Dir
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	s.cmd.Env = environment()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who} // Ctrl-C is ours to handle, in order
	s.stdin, err = s.cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // its end is what matters; why stands in the log
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

// await returns when the server answers, having made the database.
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
				return nil // made now; duplicate_database: by an earlier start; read_only_sql_transaction: a standby
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w; its log ends: %s", err, s.logTail())
		case <-s.done:
			return fmt.Errorf("PostgreSQL ended at once; its log ends: %s", s.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop shuts the server down and waits for its end.
func (s *Server) Stop() {
	_ = s.stdin.Close() // the shell reads the end of its input and stops the server
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // the whole group; nothing else is left to try
		<-s.done
	}
}

// Kill ends the server as a crash would, without a shutdown.
func (s *Server) Kill() {
	pid := s.postmaster()
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // gone already is as good
	<-s.done
	// The shell's end is not yet the server's.
	for until := time.Now().Add(10 * time.Second); pid > 0 && syscall.Kill(pid, 0) == nil && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
}

// postmaster is the server's process id, as it notes it itself; 0: not known.
func (s *Server) postmaster() int {
	b, err := os.ReadFile(filepath.Join(s.Dir, "cluster", "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(first) // not a number: not known
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

// init makes the cluster if it is not there and returns the superuser's
// password.
func (s *Server) init(ctx context.Context, bin string, who *syscall.Credential, progress io.Writer) (string, error) {
	passwordFile := filepath.Join(s.Dir, "password")
	cluster := filepath.Join(s.Dir, "cluster")
	if _, err := os.Stat(filepath.Join(cluster, "PG_VERSION")); err == nil {
		password, err := os.ReadFile(passwordFile)
		if err != nil {
			return "", fmt.Errorf("read the password of the cluster in %s: %w", s.Dir, err)
		}
		return string(password), nil
	}
	fmt.Fprintln(progress, "making a PostgreSQL cluster in", s.Dir)
	password := rand.Text()
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("write the password of the cluster: %w", err)
	}
	if who != nil {
		if err := os.Chown(passwordFile, int(who.Uid), int(who.Gid)); err != nil {
			return "", fmt.Errorf("hand the cluster to its user: %w", err)
		}
	}
	// Created under another name and renamed, so that an interrupted initdb leaves nothing that looks whole.
	half := cluster + ".new"
	if err := os.RemoveAll(half); err != nil {
		return "", fmt.Errorf("clear %s: %w", half, err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", half, "-U", "postgres", "-A", "scram-sha-256",
		"--pwfile", passwordFile, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.Env = s.Dir, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Rename(half, cluster); err != nil {
		return "", fmt.Errorf("put the cluster in its place: %w", err)
	}
	return password, nil
}

// environment is ours without the PG… variables, which would steer the server.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PG") })
}

// serverUser says as whom PostgreSQL runs: ourselves, or, where we are root,
// the user postgres, else nobody.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no credential means: as ourselves
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

// reachable makes dir for the server's user and returns it. Where that user
// may not pass the folders above (a clone in /root, or under mktemp -d), it is
// a folder of the same purpose in /var/tmp.
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
			return "", fmt.Errorf("hand the folder of PostgreSQL to its user: %w", err)
		}
	}
	return dir, nil
}

// passable asks the system whether who can pass dir, once it exists.
func passable(dir string, who *syscall.Credential) bool {
	if err := os.MkdirAll(dir, 0o755); err != nil { // the server's user must pass it
		return false
	}
	cmd := exec.Command("/bin/sh", "-c", `cd "$1"`, "sh", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	return cmd.Run() == nil
}

// Where installations put the binaries, in addition to PATH, and where embedded-postgres
// fetches them from ("": its default). Variables for the test alone.
var (
	places     = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"}
	repository string
)

// binaries finds the folder that holds initdb and postgres: the newest of those
// installed, else what embedded-postgres fetches.
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

// version is the major version of the server in dir; 0 where there is none.
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
	v, _ := strconv.Atoi(major) // not a number: 0, so not taken
	return v
}

// fetch has embedded-postgres download the binaries. Its own server is started
// only because that is its one way to unpack them; as root that fails after
// the unpacking, which does not matter.
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
	fmt.Fprintln(progress, "PostgreSQL is not installed here: fetching its binaries")
	tmp, err := os.MkdirTemp("", "iam-dev-fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // in the temporary folder: a leftover does no harm
	cfg := embeddedpostgres.DefaultConfig()
	if repository != "" {
		cfg = cfg.BinaryRepositoryURL(repository)
	}
	pg := embeddedpostgres.NewDatabase(cfg.
		BinariesPath(dir).RuntimePath(filepath.Join(tmp, "run")).CachePath(filepath.Join(tmp, "cache")).
		Port(1).StartTimeout(time.Second).Logger(io.Discard))
	startErr := pg.Start()
	if startErr == nil {
		_ = pg.Stop() // only its binaries are wanted
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
