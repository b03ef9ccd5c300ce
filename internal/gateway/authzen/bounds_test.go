package authzen_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/enrich/pdp"
	"iam-service/internal/gateway/authzen"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/problem"
)

// endless is a tenant of members of another issuer, without an end.
type endless struct {
	pdp.Subjects
	reads atomic.Int64
	then  func() // after each read
}

func (e *endless) UsersIn(ctx context.Context, q iam.MembersQuery) (iam.MembersPart, error) {
	if ctx.Err() != nil {
		return iam.MembersPart{}, ctx.Err()
	}
	n := e.reads.Add(1)
	e.then()
	return iam.MembersPart{Read: q.Limit, Last: fmt.Sprintf("%08x-0000-0000-0000-000000000000", n)}, nil
}

// with serves the API with other settings of the decision point.
func (a *api) with(edit func(*pdp.Config)) {
	a.Helper()
	cfg := pdp.Config{
		Identify: a.Enricher.Identify, Directory: a.Facts, Engine: a.Engine, Issuers: a.Issuers, Subjects: a.DB,
		Deadline: 10 * time.Second, Record: a.Decisions.Record,
	}
	edit(&cfg)
	a.PDP = pdp.New(cfg)
	a.serve(a.PDP)
}

// A page reads 1,000 members, or for a second, also where none of them is of the issuer that is searched; its token
// continues there.
func TestAPageEndsWhereNobodyIsOfTheIssuer(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	var late atomic.Int64
	subjects := &endless{Subjects: a.DB, then: func() {}}
	a.with(func(c *pdp.Config) {
		c.Subjects, c.Now = subjects, func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	})
	search := subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.RAuth.Issuer+`"}}`, "")
	next := func(got *response) string {
		t.Helper()
		page, _ := got.body["page"].(map[string]any)
		token, _ := page["next_token"].(string)
		if got.status != 200 || token == "" {
			t.Fatalf("%d: %s", got.status, got.text)
		}
		return token
	}
	first := next(a.ask("search/subject", search))
	if n := subjects.reads.Swap(0); n != 5 {
		t.Errorf("%d reads of 200 members", n)
	}
	subjects.then = func() { late.Add(int64(time.Second)) }
	second := next(a.ask("search/subject", subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.RAuth.Issuer+`"}}`, `, "page": {"token": "`+first+`"}`)))
	if n := subjects.reads.Load(); n != 1 || second == first {
		t.Errorf("%d reads after the time is over, %q, %q", n, first, second)
	}
}

// Of an issuer, the search reads the facts of its members alone, and none where the issuer does not reach the tenant.
func TestASearchOfAnIssuerFindsItsMembersAlone(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	ctx := context.Background()
	a.client("globex-pep", "globex", pdp.Scope)
	a.role("globex", "reader", []string{"record:read"}, nil)
	for i := range 450 {
		issuer := a.RAuth.Issuer
		if i%200 == 7 {
			issuer = a.Other.Issuer
		}
		id, err := a.DB.PutUser(ctx, iam.User{Issuer: issuer, Subject: fmt.Sprintf("reader-%d", i), Status: iam.UserActive})
		a.OK(err)
		a.OK(a.DB.PutMembership(ctx, iam.Membership{Tenant: "globex", User: id, Status: iam.MembershipActive, Roles: []string{"reader"}}))
	}
	var found []string
	got := a.ask("search/subject", subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.Other.Issuer+`"}}`, ""), a.as("globex-pep"))
	for _, x := range got.body["results"].([]any) {
		found = append(found, x.(map[string]any)["id"].(string))
	}
	if len(found) != 3 {
		t.Errorf("%q: %s", found, got.text)
	}
	subjects := &endless{Subjects: a.DB, then: func() {}}
	a.with(func(c *pdp.Config) { c.Subjects = subjects })
	got = a.ask("search/subject", subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.Other.Issuer+`"}}`, ""))
	if n := subjects.reads.Load(); n != 0 || got.status != 200 || len(got.body["results"].([]any)) != 0 {
		t.Errorf("%d reads: %s", n, got.text)
	}
}

// One tenant's searches leave a place for those of another one.
func TestSearchesOfATenantLeaveAPlaceForOthers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	a.client("acme-pep", "acme", pdp.Scope)
	release, began := make(chan struct{}), make(chan struct{}, 1)
	var first atomic.Bool
	subjects := &endless{Subjects: a.DB, then: func() {
		if first.CompareAndSwap(false, true) {
			began <- struct{}{}
			<-release
		}
	}}
	a.with(func(c *pdp.Config) { c.Subjects = subjects })
	search := subjectSearch(`{"type": "user"}`, "")
	var running sync.WaitGroup
	running.Go(func() { a.ask("search/subject", search) })
	<-began
	got := a.ask("search/subject", search)
	if code := got.body["code"]; got.status != 503 || code != "busy" {
		t.Errorf("a second one: %d: %s", got.status, got.text)
	}
	if got := a.ask("search/subject", search, a.as("acme-pep")); got.status != 200 {
		t.Errorf("another tenant's: %d: %s", got.status, got.text)
	}
	close(release)
	running.Wait()
}

// rulesByIssuer allow by the issuer in the subject's properties alone.
const rulesByIssuer = `# METADATA
# scope: package
# schemas:
#   - input: schema.authzen
package iam.authzen

default decision := {"allow": false, "reasons": []}

decision := {"allow": true, "reasons": []} if input.subject.properties.issuer
`

// A policy sees a candidate as it sees the result that is sent back.
func TestAResultSentBackIsDecidedAsItsCandidateWas(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	a.rules(rulesByIssuer)
	a.member("alice", "records", nil)
	issuer := `, "properties": {"issuer": "` + a.RAuth.Issuer + `"}`
	for name, c := range map[string]struct {
		subject string
		found   int
	}{
		"users":                     {subject: `{"type": "user"}`, found: 1},
		"users of an issuer":        {subject: `{"type": "user"` + issuer + `}`, found: 1},
		"users by our id":           {subject: `{"type": "iam_user"}`},
		"of an issuer by our id":    {subject: `{"type": "iam_user"` + issuer + `}`},
		"clients":                   {subject: `{"type": "client"}`, found: 1},
		"clients of the issuer too": {subject: `{"type": "client"` + issuer + `}`, found: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("search/subject", subjectSearch(c.subject, ""))
			results, _ := got.body["results"].([]any)
			if got.status != 200 || len(results) != c.found {
				t.Fatalf("%d: %s", got.status, got.text)
			}
			for _, x := range results {
				text, err := json.Marshal(x)
				a.OK(err)
				if got := a.ask("evaluation", subjectSearch(string(text), "")); got.decision() != true {
					t.Errorf("%s: %s", text, got.text)
				}
			}
		})
	}
}

// counted counts the look-ups of our ids.
type counted struct {
	pdp.Subjects
	reads atomic.Int64
}

func (c *counted) UserByID(ctx context.Context, id string) (issuer, subject string, found bool, err error) {
	c.reads.Add(1)
	return c.Subjects.UserByID(ctx, id)
}

// After an erasure our id means no user, also where another user has got the subject and the id was cached.
func TestTheIDOfAnErasedUserMeansNobody(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	subjects := &counted{Subjects: a.DB}
	a.with(func(c *pdp.Config) { c.Subjects = subjects })
	ask := func(id string) *response {
		t.Helper()
		return a.ask("evaluation", subjectSearch(`{"type": "iam_user", "id": "`+id+`"}`, ""))
	}
	erased := a.member("eve", "records", nil, "reader")
	for range 2 {
		if got := ask(erased); got.decision() != true {
			t.Fatalf("%s", got.text)
		}
	}
	if n := subjects.reads.Load(); n != 1 {
		t.Errorf("the id was read %d times", n)
	}
	a.OK(a.DB.Change(a.Context(), func(ctx context.Context, tx *postgres.Tx) error { return tx.DeleteUser(ctx, erased) }))
	other := a.member("eve", "records", nil, "reader")
	for name, c := range map[string]struct {
		id   string
		want bool
	}{
		"the id of the erased user": {id: erased},
		"the other user's":          {id: other, want: true},
	} {
		for range 2 {
			if got := ask(c.id); got.status != 200 || got.decision() != c.want {
				t.Errorf("%s: %d: %s", name, got.status, got.text)
			}
		}
	}
	if n := subjects.reads.Load(); n != 3 {
		t.Errorf("ids were read %d times: the erased user's is cached", n)
	}
}

// leaving decides until its client has left.
type leaving struct {
	authzen.Decider
	leave context.CancelFunc
	n     int
}

func (l *leaving) Evaluate(context.Context, *pdp.Caller, pdp.Request) (pdp.Decision, error) {
	l.n++
	l.leave()
	return pdp.Decision{Allow: true}, nil
}

// A batch ends with its time, also where each decision is cached.
func TestABatchOfCachedDecisionsEndsInTime(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	a.Settle()
	ctx, leave := context.WithCancel(t.Context())
	decider := &leaving{Decider: a.PDP, leave: leave}
	service, err := authzen.New(authzen.Config{URL: publicURL, Decider: decider, Log: a.Logger, Observe: func(context.Context, problem.Observation) {}})
	a.OK(err)
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/access/v1/evaluations", strings.NewReader(batch("", "read", "read", "read")))
	r.Header["Authorization"], r.Header["Content-Type"] = []string{"Bearer " + a.token("pep", nil)}, []string{"application/json"}
	w := httptest.NewRecorder()
	service.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
	if decider.n != 1 || w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d evaluations, %d: %s", decider.n, w.Code, w.Body)
	}
}
