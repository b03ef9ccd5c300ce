// Package pgtest provides each test with a PostgreSQL database of its own, with all migrations applied, in a
// private server that the tests of a package share. Its Proxy injects network failures.
//
// Without PostgreSQL a test fails; it is never skipped. The package does not know what is tested: the
// rows of a test are the test's.
package pgtest

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Run runs the tests of a package and then stops the server that they share. TestMain calls it. Such tests wait for
// PostgreSQL and for other programs, so that twice as many as usual run at once.
func Run(m *testing.M) int {
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = parallel.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))) // it is a number
	}
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.server != nil {
			_ = shared.conn.Close(context.Background()) // the server ends
			shared.server.Stop()
			_ = os.RemoveAll(shared.server.Dir) // a leftover in the temporary folder does no harm
		}
	}()
	return m.Run()
}

// Main runs tests as Run does, for goleak.VerifyTestMain.
type Main struct{ *testing.M }

// Run implements goleak.TestingM.
func (m Main) Run() int { return Run(m.M) }

var shared struct {
	sync.Mutex
	server *devpg.Server
	conn   *pgx.Conn // creates and drops databases
}

// Server starts a server for one test, such as a test that stops it.
func Server(t testing.TB) *devpg.Server {
	t.Helper()
	s, err := start(nil)
	if err != nil {
		t.Fatalf("this test needs PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		s.Stop()
		_ = os.RemoveAll(s.Dir) // a leftover does no harm
	})
	return s
}

func sharedServer(t testing.TB) *devpg.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := start(disposable)
		if err != nil {
			t.Fatalf("this test needs PostgreSQL: %v", err)
		}
		conn, err := pgx.Connect(context.Background(), s.URL)
		if err != nil {
			s.Stop()
			t.Fatalf("connect: %v", err)
		}
		shared.server, shared.conn = s, conn
	}
	return shared.server
}

// disposable are settings of the shared server: no row outlives its test, so that there is nothing to recover, to
// vacuum or to send to a standby; and its databases are small.
var disposable = []string{
	"autovacuum=off", "track_counts=off", "jit=off", "checkpoint_timeout=1h", "wal_level=minimal", "max_wal_senders=0",
	"synchronous_commit=off", "shared_buffers=24MB",
}

func start(settings []string) (*devpg.Server, error) {
	in := folder()
	removeLeftovers(in)
	dir, err := os.MkdirTemp(in, prefix)
	if err != nil {
		return nil, fmt.Errorf("folder for the server: %w", err)
	}
	return devpg.Start(context.Background(), devpg.Options{
		Dir:      dir,
		Auth:     "md5", // SCRAM costs the client or the server milliseconds of CPU for each connection
		Settings: append([]string{"fsync=off", "full_page_writes=off", "max_connections=200"}, settings...),
	})
}

// folder is where a server's files are: in memory where Linux has 2 GB free for them, since each database is some
// seven hundred files; else the temporary folder.
func folder() string {
	const memory = "/dev/shm"
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < 2<<30 {
		return os.TempDir()
	}
	return memory
}

const prefix = "iam-pg-" // of the names of the servers' folders

// removeLeftovers removes what test binaries that were killed have left in memory. Their servers have stopped: a
// server that runs has a postmaster.pid, and one that is being created or restarted has changed its folder lately.
func removeLeftovers(in string) {
	dirs, _ := filepath.Glob(filepath.Join(in, prefix+"*")) // the pattern is well-formed
	for _, dir := range dirs {
		cluster := filepath.Join(dir, "cluster")
		if _, err := os.Stat(filepath.Join(cluster, "postmaster.pid")); err == nil {
			continue
		}
		if changed, err := os.Stat(cluster); err == nil && time.Since(changed.ModTime()) > 10*time.Minute {
			_ = os.RemoveAll(dir) // the next start tries again
		}
	}
}

// EmptyURL creates a database with an empty schema in the shared server, and returns a URL whose connections use
// that. The database ends with the test.
func EmptyURL(t testing.TB) string {
	t.Helper()
	server := sharedServer(t)
	name := database(t, "template0")
	u := within(t, server.URL, name, name)
	execute(t, u, "CREATE SCHEMA "+name)
	return u
}

// URL is EmptyURL with all migrations applied. The database is a copy of one that goose migrated, as the program
// migrates: a copy takes PostgreSQL a fifth of the time, and the system tables stay small.
func URL(t testing.TB) string {
	t.Helper()
	return FilledURL(t, "", nil, "")
}

// FilledURL is URL with the rows that fill writes, which runs once for all tests of a package that give the same
// name. In each copy, the statements of adapt run without triggers.
func FilledURL(t testing.TB, name string, fill func(url string) error, adapt string) string {
	t.Helper()
	server := sharedServer(t)
	template := templateOf(name)
	template.Do(func() { template.err = createTemplate(t, server, template.database, fill) })
	if template.err != nil {
		t.Fatalf("create the database that is copied: %v", template.err)
	}
	u := within(t, server.URL, database(t, template.database), schemaName)
	// A copy is the same instance of the service, in another place. Each test has an instance of its own.
	execute(t, u, "SET session_replication_role = replica; UPDATE instance SET id = gen_random_uuid(), home = iam_home(); "+adapt)
	return u
}

// database creates a database as a copy of another one, for as long as the test runs, and returns its name.
func database(t testing.TB, of string) string {
	t.Helper()
	name := "t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	administer(t, "CREATE DATABASE "+name+" TEMPLATE "+of+" STRATEGY file_copy")
	t.Cleanup(func() { administer(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return name
}

// schemaName is the schema in each migrated database.
const schemaName = "iam_test"

// A template is a database that is copied.
type template struct {
	sync.Once
	database string
	err      error
}

var templates = struct {
	sync.Mutex
	byName map[string]*template
}{byName: map[string]*template{}}

func templateOf(name string) *template {
	templates.Lock()
	defer templates.Unlock()
	t, known := templates.byName[name]
	if !known {
		t = &template{database: fmt.Sprintf("iam_template_%d", len(templates.byName))}
		templates.byName[name] = t
	}
	return t
}

// createTemplate creates the database that FilledURL copies. It is not connected to again: PostgreSQL copies no
// database that is in use.
func createTemplate(t testing.TB, server *devpg.Server, name string, fill func(url string) error) error {
	t.Helper()
	administer(t, "CREATE DATABASE "+name)
	u := within(t, server.URL, name, schemaName)
	execute(t, u, "CREATE SCHEMA "+schemaName)
	if _, err := postgres.Migrate(context.Background(), u, postgres.Up); err != nil || fill == nil {
		return err
	}
	return fill(u)
}

// within returns the URL of a schema in a database of the server.
func within(t testing.TB, server, database, schema string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// administer runs a statement in the shared server.
func administer(t testing.TB, statement string) {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if _, err := shared.conn.Exec(context.Background(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// execute runs a statement on a connection of its own.
func execute(t testing.TB, url, statement string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Issuer is trusted with the platform and all tenants, LimitedIssuer with the tenant globex only.
const (
	Issuer        = "https://rauth.test"
	LimitedIssuer = "https://limited.test"
)

// Issuers are the trusted issuers of a store.
var Issuers = iam.Issuers{
	{URL: Issuer, Tenants: []string{"*"}, Platform: true},
	{URL: LimitedIssuer, Tenants: []string{"globex"}},
}

// Open returns a store on a fresh schema with all migrations applied.
func Open(t testing.TB) *postgres.DB {
	t.Helper()
	return OpenURL(t, URL(t))
}

// OpenURL returns a store at url.
func OpenURL(t testing.TB, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(context.Background(), postgres.Config{
		URL:          url,
		Issuers:      Issuers,
		Conns:        4,
		FactsAcquire: 10 * time.Second,
		FactsLimit:   10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(db.Close)
	return db
}
