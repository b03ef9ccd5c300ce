package token

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

func TestScopesOfScpAreScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if tok, err := w.verify(w.sign(nil, map[string]any{"scp": json.RawMessage("null")})); err != nil || len(tok.Scopes()) != 0 {
		t.Errorf("null: %v", err)
	}
	for name, claims := range map[string]map[string]any{
		"a list, as Hydra has it": {"scp": []string{"read", "write"}}, "words, as Entra has it": {"scp": "read write"}, "both": {"scp": []string{"write", "read"}, "scope": "read write"},
	} {
		tok, err := w.verify(w.sign(nil, claims))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := tok.Scopes(); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"read", "write"}) {
			t.Errorf("%s: %q", name, got)
		}
		if scope, err := tok.Claims.Find(ast.MustParseRef("input.scope")[1:]); err != nil {
			t.Errorf("%s: the policy sees no scope: %v, %v", name, scope, err)
		}
	}
}

func TestAnIssuerMarksItsProgramsInItsOwnWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	keycloak := map[string]any{"sub": "0c6c7d6c-5f4b-4a8e-8f2c-000000000001", "client_id": nil, "azp": "billing", "preferred_username": "service-account-billing"}
	named := func(client, username string) map[string]any {
		return map[string]any{"client_id": nil, "azp": client, "preferred_username": username}
	}
	for name, c := range map[string]struct {
		marks  []string
		claims map[string]any
		want   string // the client, where it is a program
		refuse string
	}{
		"by default": {nil, keycloak, "", ""},
		"a prefix":   {[]string{"preferred_username=service-account-*"}, keycloak, "billing", ""},
		"a prefix, and a client id in upper case":     {[]string{"preferred_username=service-account-*"}, named("Billing", "service-account-billing"), "Billing", ""},
		"a person who took the name of a program":     {[]string{"preferred_username=service-account-*"}, named("portal", "service-account-billing"), "", ""},
		"a person who took a name that is the prefix": {[]string{"preferred_username=service-account-*"}, named("portal", "service-account-"), "", ""},
		"a person who took a name that folds to it":   {[]string{"preferred_username=service-account-*"}, named("sales", "service-account-\u017fales"), "", ""},
		"a person who took a name, without a client":  {[]string{"preferred_username=service-account-*"}, map[string]any{"client_id": nil, "preferred_username": "service-account-"}, "", ""},
		"a value":                  {[]string{"gty=client-credentials"}, map[string]any{"gty": "client-credentials"}, "web", ""},
		"another value":            {[]string{"gty=client-credentials"}, map[string]any{"gty": "password"}, "", ""},
		"a value of another type":  {[]string{"gty=client-credentials"}, map[string]any{"gty": []string{"client-credentials"}}, "", ""},
		"a claim that is there":    {[]string{"client_id"}, map[string]any{}, "web", ""},
		"a claim that is not":      {[]string{"client_id"}, keycloak, "", ""},
		"one of two":               {[]string{"x", "preferred_username=service-account-*"}, keycloak, "billing", ""},
		"RFC 9068 all the same":    {[]string{"x"}, map[string]any{"sub": "web"}, "web", ""},
		"a program without client": {[]string{"gty=client-credentials"}, map[string]any{"gty": "client-credentials", "client_id": nil}, "", "names no client"},
	} {
		w.v.cache.Purge()
		w.v.first.Programs = nil
		for _, m := range c.marks {
			mark, err := ParseProgramMark(m)
			if err != nil {
				t.Fatal(err)
			}
			w.v.first.Programs = append(w.v.first.Programs, mark)
		}
		raw := w.sign(nil, c.claims)
		if c.refuse != "" {
			w.invalid(name, raw, c.refuse)
			continue
		}
		tok, err := w.verify(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sub, _ := tok.Claims.Find(ast.MustParseRef("input.sub")[1:])
		if program := c.want != ""; tok.Program() != program || program && (tok.ClientID != c.want || tok.Subject != c.want || sub.Compare(ast.String(c.want)) != 0) {
			t.Errorf("%s: %+v", name, tok)
		}
	}
	for _, bad := range []string{"", "=x", "a=", "a=*", "a=b*c", "a=*b", "a b\nc=d"} {
		if m, err := ParseProgramMark(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, m)
		}
	}
}

// An issuer's clock may be ahead by the skew that is tolerated: a token counts as that much older.
func TestATokenIsRevokedUntilItsIssueIsSurelyLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	iat := time.Now().Truncate(time.Second)
	dated, err := w.verify(w.sign(nil, map[string]any{"iat": iat.Unix()}))
	if err != nil {
		t.Fatal(err)
	}
	undated, err := w.verify(w.sign(nil, map[string]any{"iat": nil}))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token     *Token
		notBefore time.Time
		want      bool
	}{
		"nothing was revoked":               {dated, time.Time{}, false},
		"issued before":                     {dated, iat.Add(time.Minute), true},
		"issued within the skew":            {dated, iat.Add(-skew + 1), true},
		"issued the skew later":             {dated, iat.Add(-skew), false},
		"without iat, nothing was revoked":  {undated, time.Time{}, false},
		"without iat":                       {undated, time.Unix(1, 0), true},
		"no token, and nothing was revoked": {nil, time.Time{}, false},
	} {
		if got := c.token.RevokedBy(c.notBefore); got != c.want {
			t.Errorf("%s: revoked is %v", name, got)
		}
	}
}

// RFC 7519, section 4: a name that is there twice is refused, or its last value counts. A verifier that took the first one
// would see another subject than the backend.
func TestOfAClaimThatIsThereTwiceTheLastCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	tok, err := w.verify(w.signed(nil, `{"iss":"`+w.rauth.Issuer+`","aud":"`+audience+`","sub":"root","client_id":"web","exp":9999999999,"level":1.50,"sub":"alice"}`))
	if err != nil {
		t.Fatal(err)
	}
	claims, ok := tok.Claims.(ast.Object)
	if !ok || tok.Subject != "alice" || claims.Get(ast.StringTerm("sub")).Value.Compare(ast.String("alice")) != 0 {
		t.Errorf("%+v", tok)
	}
	if level, ok := claims.Get(ast.StringTerm("level")).Value.(ast.Number); !ok || string(level) != "1.50" {
		t.Errorf("the number is %v, want it as it was written", level)
	}
}
