package adminapi_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
)

// summed adds up the buckets of a summary.
func summed(r reply) (allowed, denied float64, codes map[string]float64) {
	codes = map[string]float64{}
	list, _ := r.field("buckets").([]any)
	for _, x := range list {
		b, _ := x.(map[string]any)
		a, _ := b["allowed"].(float64)
		d, _ := b["denied"].(float64)
		allowed, denied = allowed+a, denied+d
		by, _ := b["codes"].(map[string]any)
		for code, n := range by {
			n, _ := n.(float64)
			codes[code] += n
		}
	}
	return allowed, denied, codes
}

// counted stores a decision as it is counted.
func (w *adminWorld) counted(at time.Time, tenant string, allow bool, repeated bool, codes ...string) {
	w.Helper()
	_, err := w.sql().Exec(ctx, `
		INSERT INTO decisions (id, at, revision, allow, issuer, subject, client_id, tenant, codes, repeated, event)
		VALUES (gen_random_uuid()::text, $1, '', $2, '', '', '', $3, $4, $5, '{}')`, at, allow, tenant, codes, repeated)
	w.OK(err)
}

func TestDecisionsAreCountedOverTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	at := time.Now().UTC().Truncate(time.Minute).Add(-10 * time.Minute)
	w.counted(at, "acme", true, false, "member")
	w.counted(at.Add(59*time.Second), "acme", false, false, "membership_suspended", "tenant_suspended")
	w.counted(at.Add(time.Minute), "acme", false, false, "membership_suspended")
	w.counted(at.Add(time.Minute), "acme", false, true, "membership_suspended") // from the cache
	w.counted(at.Add(time.Minute), "globex", true, false, "member")
	w.counted(at.Add(-2*time.Hour), "acme", true, false, "member")

	r := w.want(200, "audrey", "GET", "/v1/decisions/summary", nil)
	buckets, _ := r.field("buckets").([]any)
	allowed, denied, codes := summed(r)
	if len(buckets) < 60 || len(buckets) > 61 || r.field("step_seconds") != 60.0 || allowed != 2 || denied != 2 || codes["membership_suspended"] != 2 || codes["tenant_suspended"] != 1 || codes["member"] != 0 {
		t.Errorf("%s", r)
	}
	for _, x := range buckets {
		b, _ := x.(map[string]any)
		if b["at"] == at.Format(time.RFC3339) && (b["allowed"] != 1.0 || b["denied"] != 1.0) || b["at"] == at.Add(time.Minute).Format(time.RFC3339) && (b["allowed"] != 1.0 || b["denied"] != 1.0) {
			t.Errorf("%v of %s", b, r)
		}
	}

	// A span of its own: from is rounded down to a step, to is not.
	span := func(from, to time.Time, step int, more string) string {
		q := url.Values{"from": {from.Format(time.RFC3339)}, "to": {to.Format(time.RFC3339)}}
		if step > 0 {
			q.Set("step", fmt.Sprint(step))
		}
		return "/v1/decisions/summary?" + q.Encode() + more
	}
	r = w.want(200, "audrey", "GET", span(at.Add(30*time.Second), at.Add(time.Minute), 60, "&tenant=acme"), nil)
	if allowed, denied, _ := summed(r); allowed != 1 || denied != 1 || r.field("from") != at.Format(time.RFC3339) || len(r.field("buckets").([]any)) != 1 {
		t.Errorf("%s", r)
	}
	if r = w.want(200, "audrey", "GET", span(at.Add(-24*time.Hour), at.Add(time.Hour), 0, ""), nil); r.field("step_seconds") != 1800.0 {
		t.Errorf("%s", r)
	}
	for pointer, path := range map[string]string{
		"step": span(at, at.Add(time.Hour), 1, ""), "from": span(at, at, 60, ""), "to": "/v1/decisions/summary?to=1999-01-01T00:00:00Z&from=2026-01-01T00:00:00Z", "tenant": "/v1/decisions/summary?tenant=%00",
	} {
		if r := w.want(422, "audrey", "GET", path, nil); len(r.pointers()) != 1 || r.pointers()[0] != pointer {
			t.Errorf("%s: %s", path, r)
		}
	}
	w.want(422, "audrey", "GET", span(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), 0, ""), nil)
}

// Who lists decisions counts them, and of them as many.
func TestACountShowsNoMoreThanTheList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	tokens := w.cast()
	w.decidedOf("alice", "acme")
	w.decidedOf("bob", "acme") // no member: a denial, whose subject is not named
	w.decidedOf("bob", "globex")
	for who, may := range callers {
		for where, query := range map[string]string{"": "", "own": "?tenant=acme", "foreign": "?tenant=globex"} {
			r := w.want(may("decision:list", where), tokens[who], "GET", "/v1/decisions/summary"+query, nil)
			if r.status != 200 {
				continue
			}
			list := w.want(200, tokens[who], "GET", "/v1/decisions"+query, nil)
			allowed, denied, _ := summed(r)
			if int(allowed+denied) != len(list.items()) || len(list.items()) == 0 {
				t.Errorf("%s%s counts %v and lists %d", who, query, allowed+denied, len(list.items()))
			}
		}
	}
	// By way of a tenant's own client, only that tenant is counted.
	theirs := w.client("globex", nil)
	through := w.Mint("audrey", map[string]any{"aud": devstack.AdminAudience, "client_id": theirs})
	w.want(403, through, "GET", "/v1/decisions/summary", nil)
	w.want(404, through, "GET", "/v1/decisions/summary?tenant=acme", nil)
	if allowed, denied, _ := summed(w.want(200, through, "GET", "/v1/decisions/summary?tenant=globex", nil)); allowed+denied != 1 {
		t.Errorf("got %v and %v", allowed, denied)
	}
}

func TestWithoutADecisionLogNothingIsCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	if r := w.want(409, "audrey", "GET", "/v1/decisions/summary", nil); r.field("code") != "decisions_off" {
		t.Errorf("%s", r)
	}
	w.want(403, "alice", "GET", "/v1/decisions/summary", nil) // before that is said
}

// A count that takes too long is ended by the server, and is no empty one; a third one at once is not begun.
func TestACountThatTakesTooLongIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `LOCK TABLE decisions`)
	w.OK(err)
	audrey := w.Mint("audrey", map[string]any{"aud": devstack.AdminAudience})
	codes := make(chan any, 3)
	for range 3 {
		go func() {
			r := w.call(audrey, "GET", "/v1/decisions/summary", nil)
			if r.status != 503 {
				t.Errorf("%s", r)
			}
			codes <- r.field("code")
		}()
	}
	got := map[any]int{<-codes: 1}
	got[<-codes]++
	got[<-codes]++
	if got["decisions_busy"] != 1 || got["decisions_timeout"] != 2 {
		t.Errorf("got %v", got)
	}
}
