package doctor_test

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
	"iam-service/internal/server/doctor"
)

// pooler runs PgBouncer in transaction mode in front of a server of its own. Tracks reports whether this version tracks
// prepared statements (1.21 or newer).
func pooler(t *testing.T) (direct, pooled string, tracks bool) {
	t.Helper()
	program := os.Getenv("POOLER") // set by "make test-pooler"
	required := program != ""
	if !required {
		program = "pgbouncer"
	}
	if _, err := exec.LookPath(program); err != nil {
		program = filepath.Join("/usr/sbin", program) // of Debian, and not in everybody's PATH
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil && !required {
		t.Skip("PgBouncer is not installed (Debian, Ubuntu: apt-get install pgbouncer): poolers are not tested")
	}
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`PgBouncer (\d+)\.(\d+)`).FindSubmatch(out)
	if version == nil {
		t.Fatalf("unexpected version: %s", out)
	}
	major, _ := strconv.Atoi(string(version[1])) // digits
	minor, _ := strconv.Atoi(string(version[2]))
	tracks = major > 1 || minor >= 21

	direct = pgtest.Server(t).URL
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse("postgres://" + addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	settings := ""
	if tracks {
		settings = "max_prepared_statements = 200\n"
	}
	file := filepath.Join(t.TempDir(), "pgbouncer.ini")
	text := fmt.Sprintf("[databases]\niam = host=%s port=%s dbname=iam user=postgres password=%s\n"+
		"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nunix_socket_dir =\n%s",
		u.Hostname(), u.Port(), password, at.Port(), settings)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil { // PgBouncer's user reads it
		t.Fatal(err)
	}
	args := []string{file}
	if os.Geteuid() == 0 { // it refuses to run as root
		args = []string{"--user", "nobody", file}
	}
	cmd := exec.Command(program, args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	u.Host = addrs[0]
	pooled = u.String()
	if !await.Until(await.Limit, 20*time.Millisecond, func() bool { return postgres.CheckSchemaAt(t.Context(), pooled) != nil }) {
		t.Fatal("PgBouncer does not answer")
	}
	return direct, pooled, tracks
}

// A pooler in transaction mode delivers no notifications, and one that does not track prepared statements breaks any
// statement. Both are found, and what to do is said; the rest works.
func TestAPoolerIsRecognized(t *testing.T) {
	t.Parallel()
	direct, pooled, tracks := pooler(t)
	if _, err := postgres.Migrate(t.Context(), direct, postgres.Up); err != nil {
		t.Fatal(err)
	}
	for range 3 { // what one run leaves in the pooler's connections does not change the next
		got := results(t, "DATABASE_URL="+pooled, "DATABASE_LISTEN_URL="+direct)
		if tracks {
			got.want(t, "prepared statements", doctor.OK, "", "")
			got.want(t, "change notifications", doctor.OK, "", "")
			got = results(t, "DATABASE_URL="+pooled)
			got.want(t, "change notifications", doctor.Fail, "did not arrive", "DATABASE_LISTEN_URL must lead to the same database past any pooler")
			continue
		}
		got.want(t, "prepared statements", doctor.Fail, "does not track prepared statements", "set max_prepared_statements")
		got.want(t, "change notifications", doctor.Skipped, "", "")
	}
	got := results(t, "DATABASE_URL="+direct, "DATABASE_LISTEN_URL="+pooled)
	got.want(t, "prepared statements", doctor.OK, "", "")
	got.want(t, "change notifications", doctor.Fail, "did not arrive", "DATABASE_LISTEN_URL must lead to the same database past any pooler")
}
