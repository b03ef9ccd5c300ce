package authzen_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
)

// find runs a search through all of its pages, and returns the ids and the number of pages.
func (a *api) find(t *testing.T, kind, body string) (found []string, pages int) {
	t.Helper()
	at := "search/" + kind
	found, pages = a.all(t, at, body, a.ask(at, body))
	slices.Sort(found)
	return found, pages
}

func subjectSearch(subject, more string) string {
	return `{"subject": ` + subject + `, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}` + more + `}`
}

// A search of subjects finds those whom an evaluation allows, on as many pages as it takes, each once.
func TestASearchFindsWhomAnEvaluationAllows(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	ctx := context.Background()
	want := map[string]string{} // subject → our id
	for i := range 23 {
		name := fmt.Sprintf("reader-%02d", i)
		want[name] = a.member(name, "records", nil, "reader")
		a.member(fmt.Sprintf("guest-%02d", i), "records", nil)
	}
	id := a.member("blocked", "records", nil, "reader")
	_, err := a.DB.PutUser(ctx, iam.User{Issuer: a.RAuth.Issuer, Subject: "blocked", Status: iam.UserBlocked})
	a.OK(err)
	a.OK(a.DB.PutMembership(ctx, iam.Membership{Tenant: "records", User: id, Status: iam.MembershipActive, Roles: []string{"reader"}}))
	suspended := a.member("suspended", "records", nil, "reader")
	a.OK(a.DB.PutMembership(ctx, iam.Membership{Tenant: "records", User: suspended, Status: iam.MembershipSuspended, Roles: []string{"reader"}}))
	a.client("bot", "records", "record:read")
	a.client("dumb", "records")
	a.client("elsewhere", "acme", "record:read")

	var subjects, ids []string
	for subject, id := range want {
		subjects, ids = append(subjects, subject), append(ids, id)
	}
	slices.Sort(subjects)
	slices.Sort(ids)
	for name, c := range map[string]struct {
		body  string
		want  []string
		pages int
	}{
		"all at once":        {body: subjectSearch(`{"type": "user"}`, ""), want: subjects, pages: 1},
		"pages of 5":         {body: subjectSearch(`{"type": "user"}`, `, "page": {"limit": 5}`), want: subjects, pages: 5},
		"pages of 1":         {body: subjectSearch(`{"type": "user"}`, `, "page": {"limit": 1}`), want: subjects, pages: 23},
		"more than are made": {body: subjectSearch(`{"type": "user"}`, `, "page": {"limit": 5000}`), want: subjects, pages: 1},
		"an id is ignored":   {body: subjectSearch(`{"type": "user", "id": "reader-01"}`, ""), want: subjects, pages: 1},
		"by our ids":         {body: subjectSearch(`{"type": "iam_user"}`, `, "page": {"limit": 10}`), want: ids, pages: 3},
		"of the issuer":      {body: subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.RAuth.Issuer+`"}}`, ""), want: subjects, pages: 1},
		"of another issuer":  {body: subjectSearch(`{"type": "user", "properties": {"issuer": "`+a.Other.Issuer+`"}}`, ""), pages: 1},
		"clients":            {body: subjectSearch(`{"type": "client"}`, ""), want: []string{"bot"}, pages: 1},
		"clients by pages":   {body: subjectSearch(`{"type": "client"}`, `, "page": {"limit": 1}`), want: []string{"bot"}, pages: 2},
		"another type":       {body: subjectSearch(`{"type": "device"}`, ""), pages: 1},
	} {
		t.Run(name, func(t *testing.T) {
			found, pages := a.find(t, "subject", c.body)
			if !slices.Equal(found, c.want) || pages > c.pages+1 || pages < c.pages {
				t.Errorf("%d pages of %d: %q", pages, c.pages, found)
			}
		})
	}
	t.Run("each result is allowed, and no other member", func(t *testing.T) {
		for _, subject := range []string{"reader-00", "reader-22", "guest-00", "blocked", "suspended"} {
			got := a.ask("evaluation", question(subject, "read", "record", "record-1"))
			if got.decision() != slices.Contains(subjects, subject) {
				t.Errorf("%s: %s", subject, got.text)
			}
		}
	})
	t.Run("a result can be sent back", func(t *testing.T) {
		got := a.ask("search/subject", subjectSearch(`{"type": "user"}`, `, "page": {"limit": 1}`))
		first, err := json.Marshal(got.body["results"].([]any)[0])
		a.OK(err)
		if got := a.ask("evaluation", subjectSearch(string(first), "")); got.decision() != true {
			t.Errorf("%s: %s", first, got.text)
		}
	})
	t.Run("the page comes first", func(t *testing.T) {
		if got := a.ask("search/subject", subjectSearch(`{"type": "user"}`, `, "page": {"limit": 1}`)); !strings.HasPrefix(got.text, `{"page":{"next_token":"`) {
			t.Errorf("%s", got.text)
		}
	})
	t.Run("a limit of 0", func(t *testing.T) {
		got := a.ask("search/subject", subjectSearch(`{"type": "user"}`, `, "page": {"limit": 0}`))
		if page, _ := got.body["page"].(map[string]any); got.status != 200 || page["next_token"] == "" || len(got.body["results"].([]any)) != 0 {
			t.Errorf("%d: %s", got.status, got.text)
		}
	})
}

// A token continues one search: with other entities or another limit, or made up, it is 400.
func TestATokenContinuesItsOwnSearchAlone(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	for i := range 3 {
		a.member(fmt.Sprintf("reader-%d", i), "records", nil, "reader")
	}
	a.client("platform", "", "authzen")
	body := func(subject, page string) string { return subjectSearch(subject, `, "page": `+page) }
	got := a.ask("search/subject", body(`{"type": "user"}`, `{"limit": 1}`))
	token, _ := got.body["page"].(map[string]any)["next_token"].(string)
	if token == "" {
		t.Fatal(got.text)
	}
	forged := func(edit func(map[string]any)) string {
		text, err := base64.RawURLEncoding.DecodeString(token)
		a.OK(err)
		var p map[string]any
		a.OK(json.Unmarshal(text, &p))
		edit(p)
		text, err = json.Marshal(p)
		a.OK(err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	after := func(p map[string]any) map[string]any { return p["a"].(map[string]any) }
	for name, c := range map[string]struct {
		kind, body string
		status     int
	}{
		"as it was":                   {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+token+`", "limit": 1}`), status: 200},
		"without the limit":           {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+token+`"}`), status: 200},
		"an empty token":              {kind: "subject", body: body(`{"type": "user"}`, `{"token": ""}`), status: 200},
		"another limit":               {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+token+`", "limit": 2}`), status: 400},
		"another type":                {kind: "subject", body: body(`{"type": "iam_user"}`, `{"token": "`+token+`"}`), status: 400},
		"another kind of search":      {kind: "resource", body: body(`{"type": "user", "id": "reader-1"}`, `{"token": "`+token+`"}`), status: 400},
		"made up":                     {kind: "subject", body: body(`{"type": "user"}`, `{"token": "bm9uc2Vuc2U"}`), status: 400},
		"not base64":                  {kind: "subject", body: body(`{"type": "user"}`, `{"token": "%%%"}`), status: 400},
		"no string":                   {kind: "subject", body: body(`{"type": "user"}`, `{"token": 1}`), status: 400},
		"a limit that is negative":    {kind: "subject", body: body(`{"type": "user"}`, `{"limit": -1}`), status: 400},
		"a limit that is no integer":  {kind: "subject", body: body(`{"type": "user"}`, `{"limit": 1.5}`), status: 400},
		"a limit that is a string":    {kind: "subject", body: body(`{"type": "user"}`, `{"limit": "1"}`), status: 400},
		"a page that is no object":    {kind: "subject", body: body(`{"type": "user"}`, `5`), status: 400},
		"a larger limit than allowed": {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+forged(func(p map[string]any) { p["l"] = 100000 })+`"}`), status: 400},
		"a position that is no id":    {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+forged(func(p map[string]any) { after(p)["i"] = "'; DROP TABLE users" })+`"}`), status: 400},
		"a position of a client":      {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+forged(func(p map[string]any) { after(p)["i"], after(p)["s"] = "bot", "https://x" })+`"}`), status: 400},
		"a member that is none":       {kind: "subject", body: body(`{"type": "user"}`, `{"token": "`+forged(func(p map[string]any) { p["tenant"] = "acme" })+`"}`), status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			if got := a.ask("search/"+c.kind, c.body); got.status != c.status {
				t.Errorf("%d, want %d: %s", got.status, c.status, got.text)
			}
		})
	}
	t.Run("another client's", func(t *testing.T) {
		got := a.ask("search/subject", subjectSearch(`{"type": "user"}`, `, "context": {"tenant": "acme"}, "page": {"token": "`+token+`"}`), a.as("platform"))
		if got.status != 400 {
			t.Errorf("%d: %s", got.status, got.text)
		}
	})
}

// Actions are those that the configuration lists for the type and those that permissions name; resources are those
// that it lists, and the tenant and its roles. Of a type that it does not list, it says so.
func TestActionsAndResourcesAreWhatThePolicyNames(t *testing.T) {
	t.Parallel()
	a := certified(t)
	a.member("carol", "records", nil, "reader")
	for name, c := range map[string]struct {
		kind, body string
		want       []string
		unlisted   bool
	}{
		"actions of an author":       {kind: "action", body: `{"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "record-1"}}`, want: []string{"read", "write"}},
		"of an archived record":      {kind: "action", body: `{"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "record-2"}}`, want: []string{"read"}},
		"of a reader":                {kind: "action", body: `{"subject": {"type": "user", "id": "carol"}, "resource": {"type": "record", "id": "record-1"}}`, want: []string{"read"}},
		"on a type that no one has":  {kind: "action", body: `{"subject": {"type": "user", "id": "carol"}, "resource": {"type": "invoice", "id": "1"}}`},
		"records to write":           {kind: "resource", body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "write"}, "resource": {"type": "record"}}`, want: []string{"record-1"}},
		"records to read, by pages":  {kind: "resource", body: `{"subject": {"type": "user", "id": "carol"}, "action": {"name": "read"}, "resource": {"type": "record"}, "page": {"limit": 1}}`, want: []string{"record-1", "record-2"}},
		"an id is ignored":           {kind: "resource", body: `{"subject": {"type": "user", "id": "carol"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-2"}}`, want: []string{"record-1", "record-2"}},
		"a type that is not listed":  {kind: "resource", body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "invoice"}}`, unlisted: true},
		"roles that no one may read": {kind: "resource", body: `{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "role"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("search/"+c.kind, c.body)
			found, _ := a.find(t, c.kind, c.body)
			if !slices.Equal(found, c.want) || strings.Contains(got.text, "resources_not_listed") != c.unlisted {
				t.Errorf("%q: %s", found, got.text)
			}
		})
	}
}
