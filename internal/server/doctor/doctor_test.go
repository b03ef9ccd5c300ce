package doctor_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/server/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

// found are the results of a run, by check.
type found map[string]doctor.Result

// results checks a deployment with these settings, and others that open nothing.
func results(t *testing.T, settings ...string) found {
	t.Helper()
	environ := append([]string{"RAUTH_URL=http://127.0.0.1:1", "RAUTH_AUDIENCES=platform", "GATEWAY_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0"}, settings...)
	if !strings.Contains(strings.Join(environ, " "), "DATABASE_URL=") {
		environ = append(environ, "DATABASE_URL=postgres://127.0.0.1:1/iam")
	}
	got := found{}
	for _, r := range doctor.Run(t.Context(), environ, doctor.Options{Limit: 2 * time.Second}).Results {
		got[r.Check] = r
	}
	return got
}

// want compares a result: its state, and what its detail and its next step say.
func (f found) want(t *testing.T, check, state, detail, next string) {
	t.Helper()
	r, known := f[check]
	if !known || r.State != state || !strings.Contains(r.Detail, detail) || !strings.Contains(r.Next, next) {
		t.Errorf("%s is %+v, want %s with %q and %q", check, r, state, detail, next)
	}
}

// issuer serves a provider whose clock is ahead.
func issuer(t *testing.T, ahead time.Duration) *devrauth.Server {
	t.Helper()
	var p *devrauth.Server
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		p.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p, err := devrauth.NewShared(srv.URL, "platform", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestClockSkewOfAnIssuerIsReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		ahead         time.Duration
		state, detail string
	}{
		{name: "right", ahead: 0, state: doctor.OK, detail: "agrees"},
		{name: "a little ahead", ahead: 6 * time.Second, state: doctor.Warn, detail: "s ahead of this host's"},
		{name: "a minute ahead", ahead: time.Minute, state: doctor.Fail, detail: "s ahead of this host's"},
		{name: "a minute behind", ahead: -time.Minute, state: doctor.Fail, detail: "s behind this host's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := issuer(t, c.ahead)
			next := ""
			if c.state != doctor.OK {
				next = "NTP"
			}
			results(t, "RAUTH_URL="+p.Issuer).want(t, "clock of "+strings.TrimPrefix(p.Issuer, "http://"), c.state, c.detail, next)
		})
	}
}

func TestClockSkewOfTheDatabaseIsReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, ahead, state, detail string }{
		{name: "ten seconds ahead", ahead: "10 s", state: doctor.Warn, detail: "10s ahead of this host's"},
		{name: "five minutes behind", ahead: "-5 min", state: doctor.Fail, detail: "5m0s behind this host's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.URL(t)
			u, err := url.Parse(database)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := pgx.Connect(t.Context(), database)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			// The schema before pg_catalog: what is asked for the time is this function.
			if _, err := conn.Exec(t.Context(), `CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.clock_timestamp() + interval '`+c.ahead+`' $$`); err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			q.Set("search_path", q.Get("search_path")+",pg_catalog")
			u.RawQuery = q.Encode()
			results(t, "DATABASE_URL="+u.String()).want(t, "clock of the database", c.state, c.detail, "NTP")
		})
	}
}

func TestACopiedDatabaseIsFound(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	results(t, "DATABASE_URL="+database).want(t, "instance", doctor.OK, "", "")
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// A schema by another name is elsewhere, as a restored dump is: docs/runbook.md restores one for real.
	if _, err := conn.Exec(t.Context(), `UPDATE instance SET home = '7000000000000000000/16384/2200'`); err != nil {
		t.Fatal(err)
	}
	results(t, "DATABASE_URL="+database).want(t, "instance", doctor.Fail, "copied or moved", `"iam-service instance renew" if this is a copy`)
}

func TestAnIndexOfRolesThatDiffersIsFound(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	results(t, "DATABASE_URL="+database).want(t, "index of roles", doctor.OK, "equals memberships", "")
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `INSERT INTO membership_roles (tenant, role, user_id) VALUES ('acme', 'viewer', gen_random_uuid())`); err != nil {
		t.Fatal(err)
	}
	results(t, "DATABASE_URL="+database).want(t, "index of roles", doctor.Fail, "has 1 that no membership has", "docs/doctor.md, the index of roles")
}

func TestIntrospectionIsTried(t *testing.T) {
	t.Parallel()
	p := issuer(t, 0)
	p.Clients = []devrauth.Client{{ID: "iam", Secret: "right"}}
	as := func(secret string, more ...string) found {
		return results(t, append([]string{"RAUTH_URL=" + p.Issuer, "RAUTH_INTROSPECTION_CLIENT_ID=iam", "RAUTH_INTROSPECTION_CLIENT_SECRET=" + secret}, more...)...)
	}
	check := "introspection at " + p.Issuer
	as("right").want(t, check, doctor.OK, "is not active", "")
	for _, c := range []struct {
		name, secret, detail, next string
		more                       []string
	}{
		{name: "a wrong secret", secret: "canary-wrong", detail: "401", next: "the client that introspects with its secret"},
		{name: "a wrong path", secret: "right", detail: "404", next: "RAUTH_INTROSPECTION_URL", more: []string{"RAUTH_INTROSPECTION_URL=" + p.Issuer + "/nowhere"}},
		{name: "nothing there", secret: "right", detail: "connection refused", next: "RAUTH_INTROSPECTION_URL", more: []string{"RAUTH_INTROSPECTION_URL=http://127.0.0.1:1/introspect"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := as(c.secret, c.more...)
			got.want(t, check, doctor.Fail, c.detail, c.next)
			if strings.Contains(got[check].Detail, "canary") {
				t.Errorf("a secret is shown: %v", got[check])
			}
			got.want(t, "issuer "+p.Issuer, doctor.OK, "", "")
		})
	}
	p.SetGone(true)
	as("right").want(t, check, doctor.Skipped, "the issuer cannot be reached", "")
}
