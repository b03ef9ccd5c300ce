package adminapi_test

import (
	"context"
	"flag"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
)

var scimMembers = flag.Int("scim.members", 4500, "members of the large group; 50,000 nightly")

// A change of a large group is one transaction of bounded memory, in which each member gets the role, an audit entry and an
// event. It notifies the tenant, and not everything.
func TestALargeGroupIsChangedInOneTransactionOfBoundedMemory(t *testing.T) {
	t.Parallel()
	n := *scimMembers
	w := newWorld(t, settings{})
	p := w.provision("acme")
	_, err := w.sql().Exec(ctx, `INSERT INTO users (issuer, subject) SELECT $1, 'large-' || i FROM generate_series(1, $2::int) AS i`, w.RAuth.Issuer, n)
	w.OK(err)
	_, err = w.sql().Exec(ctx, `INSERT INTO memberships (user_id, tenant) SELECT id, 'acme' FROM users WHERE subject LIKE 'large-%'`)
	w.OK(err)
	rows, err := w.sql().Query(ctx, `SELECT id::text FROM users WHERE subject LIKE 'large-%'`)
	w.OK(err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	w.OK(err)
	t.Cleanup(func() {
		if t.Failed() {
			for line := range strings.Lines(w.Logs.String()) {
				if strings.Contains(line, `"err"`) || strings.Contains(line, "slow") {
					t.Logf("%.600s", line)
				}
			}
		}
	})
	p.role("many")
	g := p.group("Many")
	p.maps(g, "many")

	listener, err := pgx.Connect(ctx, w.DatabaseURL)
	w.OK(err)
	defer listener.Close(ctx)
	var schema string
	w.OK(listener.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema))
	_, err = listener.Exec(ctx, `LISTEN `+pgx.Identifier{"iam_directory_" + schema}.Sanitize())
	w.OK(err)

	holders := func() (held int) {
		t.Helper()
		w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM memberships WHERE tenant = 'acme' AND roles @> '{many}'`).Scan(&held))
		return held
	}
	step := func(what string, want int, do func()) {
		t.Helper()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		stop := make(chan uint64)
		go func() { // the largest heap meanwhile
			most := uint64(0)
			for {
				select {
				case stop <- most:
					return
				case <-time.After(20 * time.Millisecond):
					runtime.ReadMemStats(&after)
					most = max(most, after.HeapAlloc)
				}
			}
		}()
		began := time.Now()
		do()
		took, most := time.Since(began), <-stop
		t.Logf("%s: %d members in %s, heap %d MB more at most", what, n, took.Round(time.Millisecond), (max(most, before.HeapAlloc)-before.HeapAlloc)>>20)
		if got := holders(); got != want {
			t.Fatalf("%s: %d hold the role, want %d", what, got, want)
		}
		if took > time.Minute {
			t.Errorf("%s took %s", what, took)
		}
	}
	step("all join", n, func() { p.must(204, "PATCH", "/Groups/"+g, patchOps(op("add", "members", refs(ids...)))) })
	step("the mapping is emptied", 0, func() { p.maps(g) })
	step("the mapping is back", n, func() { p.maps(g, "many") })
	step("all but ten leave", 10, func() {
		p.must(200, "PUT", "/Groups/"+g+"?excludedAttributes=members", map[string]any{"displayName": "Many", "members": refs(ids[:10]...)})
	})
	step("the group is deleted", 0, func() { p.must(204, "DELETE", "/Groups/"+g, nil) })

	var entries, events int
	w.OK(w.sql().QueryRow(ctx, `SELECT (SELECT count(*) FROM audit WHERE chain = 'acme' AND kind = 'member'), (SELECT count(*) FROM outbox WHERE type = 'UserRolesAssigned.v1')`).Scan(&entries, &events))
	if want := 4 * n; entries != want || events != want { // joined, unmapped, mapped, left or deleted
		t.Errorf("%d audit entries and %d events of members, want %d", entries, events, want)
	}
	total := 0
	for {
		wait, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		notification, err := listener.WaitForNotification(wait)
		cancel()
		if err != nil {
			break
		}
		if total++; strings.HasSuffix(notification.Payload, " all") {
			t.Error("a change of one tenant clears everything")
		}
	}
	if total == 0 || total > 5*1100 { // of each step, the last chunk by user
		t.Errorf("%d notifications", total)
	}
	w.OK(w.service.Verify(ctx, nil, func(v admin.Verdict) {
		if v.Fault != "" {
			t.Errorf("the audit: %s", v.Fault)
		}
	}))
}
