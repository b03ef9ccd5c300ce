package devpg

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestRestartRecoversTheData(t *testing.T) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "iam-devpg-") // not t.TempDir: PostgreSQL's user must reach it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := Start(ctx, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	exec := func(s *Server, sql string) {
		t.Helper()
		conn, err := pgx.Connect(ctx, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(s, "CREATE TABLE stored (x int)")
	s.Kill() // a crash: the next start recovers
	s, err = s.Restart(ctx)
	if err != nil {
		t.Fatal(err)
	}
	exec(s, "SELECT x FROM stored")
	s.Stop()
	if _, err := os.Stat(filepath.Join(s.Dir, "cluster", "postmaster.pid")); !os.IsNotExist(err) {
		t.Errorf("the lock file is left behind: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "cluster", "PG_VERSION")); err != nil {
		t.Errorf("the cluster is missing: %v", err)
	}
}

// If PostgreSQL is neither installed nor downloadable, the error says how to install it.
func TestAMissingPostgresErrorExplainsHowToInstall(t *testing.T) {
	nowhere := httptest.NewServer(http.NotFoundHandler())
	defer nowhere.Close()
	places, repository = nil, nowhere.URL
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := os.Stat("/var/tmp/iam-dev-postgres"); err == nil {
		t.Fatal("/var/tmp/iam-dev-postgres exists from an earlier download: this test needs a machine without it")
	}
	var progress strings.Builder
	_, err := Start(context.Background(), Options{Dir: t.TempDir(), Progress: &progress})
	if err == nil || !strings.Contains(err.Error(), "install it (") || !strings.Contains(err.Error(), "PostgreSQL 15 or newer") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(progress.String(), "fetching") {
		t.Errorf("progress %q", progress.String())
	}
}
