package authzen_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/enrich/pdp"
	"iam-service/internal/iam"
)

// Only a registered, active client asks, whose token and registration both have the scope.
func TestOnlyARegisteredClientWithTheScopeAsks(t *testing.T) {
	t.Parallel()
	a := certified(t)
	ctx := context.Background()
	a.client("unscoped", "records")
	a.OK(a.DB.PutClient(ctx, iam.Client{Issuer: a.RAuth.Issuer, ClientID: "blocked", Tenant: "records", Status: iam.ClientBlocked, Scopes: []string{pdp.Scope}}))
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	for name, c := range map[string]struct {
		edit   func(*http.Request)
		status int
		code   string
	}{
		"the client":                     {edit: a.as("pep"), status: 200},
		"no token":                       {edit: func(r *http.Request) { r.Header.Del("Authorization") }, status: 401},
		"another scheme":                 {edit: func(r *http.Request) { r.SetBasicAuth("pep", "secret") }, status: 401},
		"a token that is none":           {edit: bearer("nonsense"), status: 401, code: "invalid_token"},
		"a token for another audience":   {edit: bearer(a.token("pep", map[string]any{"aud": "admin"})), status: 401, code: "invalid_token"},
		"an expired token":               {edit: bearer(a.token("pep", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), status: 401, code: "invalid_token"},
		"a person's token":               {edit: bearer(a.Mint("alice", map[string]any{"scope": pdp.Scope})), status: 403, code: "client_required"},
		"a person's, by this client":     {edit: bearer(a.Mint("alice", map[string]any{"client_id": "pep", "scope": pdp.Scope})), status: 403, code: "client_required"},
		"an unknown client":              {edit: a.as("nobody"), status: 403, code: "client_unknown"},
		"another issuer's":               {edit: bearer(a.MintBy(a.Other, "pep", map[string]any{"client_id": "pep", "scope": pdp.Scope})), status: 403, code: "client_unknown"},
		"a token without the scope":      {edit: bearer(a.token("pep", map[string]any{"scope": "openid"})), status: 403, code: "scope_missing"},
		"a token with a longer scope":    {edit: bearer(a.token("pep", map[string]any{"scope": "authzen:read xauthzen"})), status: 403, code: "scope_missing"},
		"a registration without it":      {edit: a.as("unscoped"), status: 403, code: "scope_missing"},
		"a blocked client":               {edit: a.as("blocked"), status: 401, code: "client_blocked"},
		"two Authorization headers":      {edit: func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, status: 400, code: "malformed_request"},
		"two tokens in one":              {edit: func(r *http.Request) { r.Header.Set("Authorization", "Bearer a, Bearer b") }, status: 400, code: "malformed_request"},
		"two ids of the request":         {edit: func(r *http.Request) { r.Header["X-Request-Id"] = []string{"a", "b"} }, status: 400, code: "malformed_request"},
		"a long id of the request":       {edit: func(r *http.Request) { r.Header.Set("X-Request-ID", strings.Repeat("a", 600)) }, status: 400, code: "malformed_request"},
		"a second Content-Type":          {edit: func(r *http.Request) { r.Header.Add("Content-Type", "text/plain") }, status: 400, code: "malformed_request"},
		"no Content-Type":                {edit: func(r *http.Request) { r.Header.Del("Content-Type") }, status: 400, code: "malformed_request"},
		"a body that is encoded":         {edit: func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, status: 400, code: "malformed_request"},
		"a Content-Type with a charset":  {edit: func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-8") }, status: 200},
		"a tenant hint changes nothing":  {edit: func(r *http.Request) { r.Header.Set("X-Active-Tenant-ID", "acme") }, status: 200},
		"a forged identity is no caller": {edit: func(r *http.Request) { r.Header.Set("X-User-ID", "root"); r.Header.Del("Authorization") }, status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("evaluation", question("alice", "read", "record", "record-1"), c.edit)
			code, _ := got.body["code"].(string)
			if got.status != c.status || c.code != "" && code != c.code {
				t.Errorf("%d %q, want %d %q: %s", got.status, code, c.status, c.code, got.text)
			}
			if challenge := got.header.Get("WWW-Authenticate"); (c.status == 401) != strings.HasPrefix(challenge, "Bearer") {
				t.Errorf("WWW-Authenticate is %q", challenge)
			}
			if c.status != 200 && got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%v", got.header)
			}
			if got.header.Get("Cache-Control") != "no-store" && !strings.Contains(name, "id of the request") && !strings.Contains(name, "ids of") {
				t.Errorf("Cache-Control is %q", got.header.Get("Cache-Control"))
			}
		})
	}
}

// The client of a tenant asks about that tenant alone; a client of the platform names one that its issuer reaches.
func TestAClientAsksAboutItsTenantAlone(t *testing.T) {
	t.Parallel()
	a := certified(t)
	ctx := context.Background()
	a.client("platform", "", pdp.Scope)
	a.OK(a.DB.PutClient(ctx, iam.Client{Issuer: a.Other.Issuer, ClientID: "globex-pep", Tenant: "globex", Status: iam.ClientActive, Scopes: []string{pdp.Scope}}))
	in := func(tenant string) string {
		q := question("alice", "read", "record", "record-1")
		if tenant == "" {
			return q
		}
		return strings.TrimSuffix(q, "}") + `, "context": {"tenant": ` + tenant + `}}`
	}
	other := a.MintBy(a.Other, "globex-pep", map[string]any{"client_id": "globex-pep", "scope": pdp.Scope})
	byOther := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+other) }
	for name, c := range map[string]struct {
		body     string
		edit     func(*http.Request)
		status   int
		code     string
		decision any
	}{
		"its own, not named":                  {body: in(""), edit: a.as("pep"), status: 200, decision: true},
		"its own, named":                      {body: in(`"records"`), edit: a.as("pep"), status: 200, decision: true},
		"another one":                         {body: in(`"acme"`), edit: a.as("pep"), status: 403, code: "client_of_another_tenant"},
		"one that does not exist":             {body: in(`"nowhere"`), edit: a.as("pep"), status: 403, code: "client_of_another_tenant"},
		"in capitals":                         {body: in(`"Records"`), edit: a.as("pep"), status: 400, code: "invalid_evaluation"},
		"no string":                           {body: in(`["records"]`), edit: a.as("pep"), status: 400, code: "invalid_evaluation"},
		"the platform's client names none":    {body: in(""), edit: a.as("platform"), status: 400, code: "invalid_evaluation"},
		"the platform's client names one":     {body: in(`"records"`), edit: a.as("platform"), status: 200, decision: true},
		"the platform's client, no such":      {body: in(`"nowhere"`), edit: a.as("platform"), status: 200, decision: false},
		"another issuer's client, its tenant": {body: in(""), edit: byOther, status: 200, decision: false},
		"another issuer's client, another":    {body: in(`"records"`), edit: byOther, status: 403, code: "client_of_another_tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("evaluation", c.body, c.edit)
			code, _ := got.body["code"].(string)
			if got.status != c.status || code != c.code || c.status == 200 && got.decision() != c.decision {
				t.Errorf("%d: %s", got.status, got.text)
			}
		})
	}
}

// What a caller learns of a subject that is not of their tenant is the same, whether it exists or not.
func TestAnotherTenantsSubjectIsLikeNone(t *testing.T) {
	t.Parallel()
	a := certified(t)
	for name, subject := range map[string]string{
		"nobody":                       `{"type": "user", "id": "nobody-at-all"}`,
		"a member of acme":             `{"type": "user", "id": "tina"}`,
		"a blocked member of acme":     `{"type": "user", "id": "dave"}`,
		"the platform's administrator": `{"type": "user", "id": "root"}`,
		"another issuer's alice":       `{"type": "user", "id": "alice", "properties": {"issuer": "` + a.Other.Issuer + `"}}`,
		"an issuer that is not ours":   `{"type": "user", "id": "alice", "properties": {"issuer": "https://evil.example.com"}}`,
		"another tenant's client":      `{"type": "client", "id": "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"}`,
		"the platform's client":        `{"type": "client", "id": "5d0b9a3e-7c41-4b7e-8a55-2f1e6c9d4b10"}`,
		"an id of ours that is none":   `{"type": "iam_user", "id": "00000000-0000-0000-0000-000000000000"}`,
		"an id that is none of ours":   `{"type": "iam_user", "id": "alice' OR 1=1"}`,
		"a type without subjects":      `{"type": "spaceship", "id": "alice"}`,
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask("evaluation", `{"subject": `+subject+`, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}`)
			if got.status != 200 || got.decision() != false || !slices.Equal(got.codes(), []string{"not_in_tenant"}) {
				t.Errorf("%d: %s", got.status, got.text)
			}
		})
	}
}

const permitAll = `# METADATA
# scope: package
# schemas:
#   - input: schema.authzen
package iam.authzen

decision := {"allow": true, "reasons": []}

candidates := {"actions": ["anything"], "resources": ["one"]}
`

// Kill switches hold whatever the policy allows, and within the promise also where the decision was cached.
func TestKillSwitchesHoldWhateverThePolicyAllows(t *testing.T) {
	t.Parallel()
	a := newAPI(t, world.Settings{})
	a.rules(permitAll)
	ctx := context.Background()
	id := a.member("mallory", "records", nil)
	a.client("bot", "records")
	a.client("stranger", "acme")
	put := func(status string, notBefore time.Time) func() {
		return func() {
			_, err := a.DB.PutUser(ctx, iam.User{Issuer: a.RAuth.Issuer, Subject: "mallory", Status: status, TokensNotBefore: notBefore})
			a.OK(err)
		}
	}
	bot := func(status string) func() {
		return func() {
			a.OK(a.DB.PutClient(ctx, iam.Client{Issuer: a.RAuth.Issuer, ClientID: "bot", Tenant: "records", Status: status}))
		}
	}
	now := time.Now()
	user := `{"subject": {"type": "user", "id": "mallory", "properties": {"iat": %d}}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`
	agent := `{"subject": {"type": "user", "id": "mallory"}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}, "context": {"agent": %s}}`
	for _, c := range []struct {
		name   string
		body   string
		change func()
		code   string
	}{
		{name: "a user is blocked", body: question("mallory", "x", "y", "z"), change: put(iam.UserBlocked, time.Time{}), code: "user_blocked"},
		{name: "by our id", body: strings.Replace(strings.Replace(question("mallory", "x", "y", "z"), `"mallory"`, `"`+id+`"`, 1), `"user"`, `"iam_user"`, 1), change: put(iam.UserBlocked, time.Time{}), code: "user_blocked"},
		{name: "the subject's token is revoked", body: fmt.Sprintf(user, now.Add(-time.Minute).Unix()), change: put(iam.UserActive, now), code: "token_revoked"},
		{name: "the subject's token is newer", body: fmt.Sprintf(user, now.Add(time.Minute).Unix()), change: put(iam.UserActive, now)},
		{name: "a client is blocked", body: `{"subject": {"type": "client", "id": "bot"}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`, change: bot(iam.ClientBlocked), code: "client_not_active"},
		{name: "an agent is blocked", body: fmt.Sprintf(agent, `"bot"`), change: bot(iam.ClientBlocked), code: "agent_not_active"},
		{name: "an agent as an entity", body: fmt.Sprintf(agent, `{"type": "client", "id": "bot"}`), change: bot(iam.ClientDeleted), code: "agent_not_active"},
	} {
		t.Run(c.name, func(t *testing.T) {
			put(iam.UserActive, time.Time{})()
			bot(iam.ClientActive)()
			first := a.ask("evaluation", c.body)
			if again := a.ask("evaluation", c.body); first.decision() != true || again.decision() != true ||
				again.header.Get("X-Decision-ID") != first.header.Get("X-Decision-ID") {
				t.Fatalf("%s, %s", first.text, again.text)
			}
			c.change()
			got := a.ask("evaluation", c.body)
			if c.code == "" {
				if got.decision() != true {
					t.Errorf("%s", got.text)
				}
				return
			}
			if got.status != 200 || got.decision() != false || !slices.Equal(got.codes(), []string{c.code}) {
				t.Errorf("%d: %s", got.status, got.text)
			}
		})
	}
	for name, c := range map[string]struct{ body, code string }{
		"an agent that is not registered":   {body: fmt.Sprintf(agent, `"nobody"`), code: "agent_not_active"},
		"an agent of another tenant":        {body: fmt.Sprintf(agent, `"stranger"`), code: "agent_not_active"},
		"an issuer that does not reach":     {body: `{"subject": {"type": "user", "id": "x", "properties": {"issuer": "` + a.Other.Issuer + `"}}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`, code: "issuer_not_trusted_for_tenant"},
		"an issuer that is not trusted":     {body: `{"subject": {"type": "user", "id": "x", "properties": {"issuer": "https://evil.example.com"}}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`, code: "issuer_not_trusted_for_tenant"},
		"a client that does not reach":      {body: `{"subject": {"type": "client", "id": "x", "properties": {"issuer": "` + a.Other.Issuer + `"}}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`, code: "issuer_not_trusted_for_tenant"},
		"a subject of the policy's own":     {body: `{"subject": {"type": "device", "id": "x"}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}`},
		"an agent that is of the platform":  {body: fmt.Sprintf(agent, `"5d0b9a3e-7c41-4b7e-8a55-2f1e6c9d4b10"`)},
		"a member whom the policy lets be":  {body: question("mallory", "x", "y", "z")},
		"a stranger whom the policy allows": {body: question("nobody", "x", "y", "z")},
	} {
		t.Run(name, func(t *testing.T) {
			put(iam.UserActive, time.Time{})()
			got := a.ask("evaluation", c.body)
			if got.status != 200 || got.decision() != (c.code == "") || c.code != "" && !slices.Equal(got.codes(), []string{c.code}) {
				t.Errorf("%d: %s", got.status, got.text)
			}
		})
	}
}
