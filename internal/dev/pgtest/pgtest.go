// Package pgtest provides each test with its own PostgreSQL schema, with all migrations applied, in a
// private server that the tests of a package share. Its Proxy injects network failures.
//
// Without PostgreSQL a test fails; it is never skipped. The package does not know what is tested: the
// rows of a test are the test's.
package pgtest

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/migrations"
)

// Run runs the tests of a package and then stops the server that they share. TestMain calls it.
func Run(m *testing.M) int {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.server != nil {
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
}

// Server starts a server for one test, such as a test that stops it.
func Server(t testing.TB) *devpg.Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatalf("this test needs PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		s.Stop()
		_ = os.RemoveAll(s.Dir) // a leftover does no harm
	})
	return s
}

func start() (*devpg.Server, error) {
	dir, err := os.MkdirTemp("", "iam-pg-")
	if err != nil {
		return nil, fmt.Errorf("folder for the server: %w", err)
	}
	return devpg.Start(context.Background(), devpg.Options{
		Dir: dir, Settings: []string{"fsync=off", "full_page_writes=off", "max_connections=200"},
	})
}

// EmptyURL creates an empty schema in the shared server and returns a URL whose connections use it.
func EmptyURL(t testing.TB) string {
	t.Helper()
	shared.Lock()
	if shared.server == nil {
		s, err := start()
		if err != nil {
			shared.Unlock()
			t.Fatalf("this test needs PostgreSQL: %v", err)
		}
		shared.server = s
	}
	server := shared.server
	shared.Unlock()

	ctx := context.Background()
	schema := "t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	conn, err := pgx.Connect(ctx, server.URL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
		t.Fatalf("create a schema: %v", err)
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// URL is EmptyURL with all migrations applied. The first schema of a test binary is migrated by goose,
// as the program migrates. The others run the same statements in one round trip: to parse all migrations
// costs goose more than PostgreSQL takes to apply them.
func URL(t testing.TB) string {
	t.Helper()
	u := EmptyURL(t)
	migrated.Lock()
	statements := migrated.statements
	if statements == "" {
		defer migrated.Unlock()
		var err error
		if migrated.statements, err = migrate(u); err != nil {
			t.Fatalf("migrate: %v", err)
		}
		return u
	}
	migrated.Unlock()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		t.Fatalf("migrate: %v", err)
	}
	return u
}

var migrated struct {
	sync.Mutex
	statements string // what migrates an empty schema
}

// migrate migrates the schema at u, and returns the statements that do the same to another schema of its database.
func migrate(u string) (statements string, err error) {
	steps, err := postgres.Migrate(context.Background(), u, postgres.Up)
	if err != nil {
		return "", err
	}
	parsed, err := url.Parse(u)
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, s := range steps {
		text, err := fs.ReadFile(migrations.FS, s.File)
		if err != nil {
			return "", err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		all.WriteString(up + "\n")
	}
	versions := parsed.Query().Get("search_path") + ".goose_db_version"
	all.WriteString("CREATE TABLE goose_db_version (LIKE " + versions + " INCLUDING ALL);\n")
	all.WriteString("INSERT INTO goose_db_version (version_id, is_applied, tstamp) SELECT version_id, is_applied, tstamp FROM " + versions + " ORDER BY id;\n")
	return all.String(), nil
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
