package adminapi_test

import (
	"context"
	"flag"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/await"
)

// crowd adds members to the tenant, and returns their ids.
func (p *provisioner) crowd(n int) []string {
	p.Helper()
	_, err := p.sql().Exec(ctx, `INSERT INTO users (issuer, subject) SELECT $1, 'large-' || i FROM generate_series(1, $2::int) AS i`, p.RAuth.Issuer, n)
	p.OK(err)
	_, err = p.sql().Exec(ctx, `INSERT INTO memberships (user_id, tenant) SELECT id, $1 FROM users WHERE subject LIKE 'large-%'`, p.tenant)
	p.OK(err)
	rows, err := p.sql().Query(ctx, `SELECT id::text FROM users WHERE subject LIKE 'large-%'`)
	p.OK(err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	p.OK(err)
	return ids
}

var scimMembers = flag.Int("scim.members", 4500, "members of the large group; 50,000 nightly")

// A change of a large group is one transaction of bounded memory, in which each member gets the role, an audit entry and an
// event. It notifies the tenant, and not everything.
func TestALargeGroupIsChangedInOneTransactionOfBoundedMemory(t *testing.T) {
	t.Parallel()
	n := *scimMembers
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ids := p.crowd(n)
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

// The erasure of a user locks the membership, then the head of the audit. A large change of a group waits for it before it holds
// the head, or the group: neither can wait for the other.
func TestAChangeOfAGroupLocksMembershipsBeforeItsAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	ids := p.crowd(2100) // two chunks
	p.role("many")
	g := p.group("Many")
	p.maps(g, "many")
	whileErased := func(what string, change func() reply) {
		t.Helper()
		erasure, err := w.sql().Begin(ctx)
		w.OK(err)
		defer func() { _ = erasure.Rollback(ctx) }()
		_, err = erasure.Exec(ctx, `SELECT FROM memberships WHERE tenant = 'acme' AND user_id = $1::uuid FOR UPDATE`, slices.Max(ids))
		w.OK(err)
		done := make(chan reply, 1)
		go func() { done <- change() }()
		await.True(t, "the change waits", func() (waits bool) {
			w.OK(erasure.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks l WHERE NOT l.granted AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid)))`).Scan(&waits))
			return waits
		})
		var heads, groups int
		w.OK(erasure.QueryRow(ctx, `WITH h AS (SELECT FROM audit_heads WHERE chain = 'acme' FOR UPDATE SKIP LOCKED) SELECT count(*) FROM h`).Scan(&heads))
		w.OK(erasure.QueryRow(ctx, `WITH g AS (SELECT FROM scim_groups WHERE id = $1::uuid FOR UPDATE SKIP LOCKED) SELECT count(*) FROM g`, g).Scan(&groups))
		if heads != 1 || groups != 1 {
			t.Errorf("%s: the erasure can lock %d heads and %d groups", what, heads, groups)
		}
		w.OK(erasure.Rollback(ctx))
		if r := <-done; r.status >= 400 {
			t.Errorf("%s: %s", what, r)
		}
	}
	whileErased("join", func() reply {
		return p.send("PATCH", "/Groups/"+g, patchOps(op("replace", "displayName", "All"), op("add", "members", refs(ids...))))
	})
	tag := w.want(200, "root", "GET", "/v1/tenants/acme/scim-groups/"+g, nil).header.Get("ETag")
	whileErased("unmap", func() reply {
		return w.call("root", "PUT", "/v1/tenants/acme/scim-groups/"+g, map[string]any{"roles": []string{}}, "If-Match: "+tag)
	})
	whileErased("delete", func() reply { return p.send("DELETE", "/Groups/"+g, nil) })
}
