package token

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/iam"
)

// ProgramMark is how an issuer marks the tokens of programs where it does not do so by RFC 9068
// (sub equals client_id, or is absent): a claim that such tokens have, one with a certain value, or
// one that is a prefix and the client id. A prefix alone would do for every person who chooses such
// a name.
type ProgramMark struct {
	claim, value string
	form         markForm
}

type markForm int

const (
	present markForm = iota
	equal
	prefix
)

// ParseProgramMark reads "claim", "claim=value" or "claim=prefix*".
func ParseProgramMark(s string) (ProgramMark, error) {
	claim, value, compared := strings.Cut(strings.TrimSpace(s), "=")
	m := ProgramMark{claim: claim, value: value}
	if compared {
		m.form = equal
		if head, ok := strings.CutSuffix(value, "*"); ok {
			m.value, m.form = head, prefix
		}
	}
	if !iam.ValidSubject(claim) || compared && m.value == "" || strings.Contains(m.value, "*") {
		return m, fmt.Errorf("%q is none of claim, claim=value and claim=prefix*", s)
	}
	return m, nil
}

func (m ProgramMark) matches(claims map[string]any) bool {
	v, there := claims[m.claim]
	if m.form == present {
		return there
	}
	s, ok := v.(string)
	if m.form == equal {
		return ok && s == m.value
	}
	rest, ok := strings.CutPrefix(s, m.value)
	client, _ := claims["client_id"].(string)
	if client == "" {
		client, _ = claims["azp"].(string)
	}
	// The client id as it is or in lower case, but no Unicode folding: s may be a name that a
	// person has chosen.
	return ok && client != "" && (rest == client || rest == strings.ToLower(client))
}

// Normalize gives claims the names that policies and the rest of the service read: the scopes of
// scp as scope, the client of azp as client_id, and the client as sub where the token is a
// program's. The issuer's own name for a program is no user.
func (i Issuer) Normalize(claims map[string]any) {
	program := slices.ContainsFunc(i.Programs, func(m ProgramMark) bool { return m.matches(claims) })
	for name, other := range map[string]string{"scope": "scp", "client_id": "azp"} {
		if _, there := claims[name]; there {
			continue
		}
		if v := claims[other]; v != nil {
			claims[name] = v
		}
	}
	if program {
		claims["sub"] = claims["client_id"]
	}
}

// scopesAgree reports whether scp is a form of scopes and does not contradict scope.
func scopesAgree(claims map[string]any) bool {
	scp := claims["scp"]
	if scp == nil { // absent, or null where a provider has no scopes to name
		return true
	}
	list, ok := scopesOf(scp)
	if !ok {
		return false
	}
	scope, there := claims["scope"]
	if !there {
		return true
	}
	other, ok := scopesOf(scope)
	return ok && maps.Equal(list, other)
}

// scopesOf is the set of scopes that a claim names: words (RFC 6749, section 3.3) or a list.
func scopesOf(claim any) (map[string]bool, bool) {
	set := map[string]bool{}
	switch claim := claim.(type) {
	case string:
		for _, s := range strings.Fields(claim) {
			set[s] = true
		}
	case []any:
		for _, x := range claim {
			s, ok := x.(string)
			if !ok {
				return nil, false
			}
			set[s] = true
		}
	default:
		return nil, false
	}
	return set, true
}

// token checks the claims, of a JWT or an introspection. It must be for the audience
// "only", if that is given.
func (is *issuer) token(claims map[string]any, now time.Time, only string) (*Token, error) {
	t := &Token{Issuer: is.URL, issuerID: is.ID}
	if iss, _ := claims["iss"].(string); iss != is.URL {
		return nil, is.reject(Untrusted, "its issuer is not %q", is.URL)
	}
	if !iam.ValidNumbers(claims) {
		return nil, is.reject(Malformed, "one of its numbers is out of bounds")
	}
	ours := audienceMatches(claims["aud"], is.Audiences)
	switch {
	case only == "" && !ours:
		return nil, is.reject(Audience, "its audience is none of %v", is.Audiences)
	case only != "" && !audienceMatches(claims["aud"], []string{only}):
		return nil, is.reject(Audience, "its audience is not %q", only)
	case only != "" && ours:
		return nil, is.reject(Audience, "it is for one of %v too", is.Audiences)
	}
	var err error
	if t.Expires, err = is.date(claims, "exp"); err != nil {
		return nil, err
	}
	if t.Expires.IsZero() {
		return nil, is.reject(Malformed, "it has no exp")
	}
	if t.notBefore, err = is.date(claims, "nbf"); err != nil {
		return nil, err
	}
	if t.IssuedAt, err = is.date(claims, "iat"); err != nil {
		return nil, err
	}
	if t.IssuedAt.After(now.Add(skew)) {
		return nil, is.reject(Early, "it was issued in the future")
	}
	subject, err := is.text(claims, "sub", iam.ValidSubject)
	if err != nil {
		return nil, err
	}
	clientID, err := is.text(claims, "client_id", iam.ValidClientID)
	if err != nil {
		return nil, err
	}
	azp, err := is.text(claims, "azp", iam.ValidClientID)
	switch {
	case err != nil:
		return nil, err
	case azp != "" && clientID != "" && azp != clientID:
		return nil, is.reject(Malformed, "azp and client_id differ")
	case subject == "" && clientID == "" && azp == "":
		return nil, is.reject(Malformed, "it names neither a subject nor a client")
	case !scopesAgree(claims):
		return nil, is.reject(Malformed, "scp holds no scopes, or others than scope")
	}
	is.Normalize(claims)
	t.Subject, _ = claims["sub"].(string) // absent, or a string, as looked at above
	t.ClientID, _ = claims["client_id"].(string)
	if t.Subject == "" && t.ClientID == "" {
		return nil, is.reject(Malformed, "it is a program's and names no client")
	}
	if only == "" && len(is.AuthorizedParties) > 0 && !slices.Contains(is.AuthorizedParties, t.ClientID) {
		return nil, is.reject(Party, "azp is not an authorized party")
	}
	if _, bound := claims["cnf"]; bound {
		return nil, is.reject(Bound, "it is bound to a key (cnf), and no proof can be checked here")
	}
	if err := is.isAccessToken(claims); err != nil {
		return nil, err
	}
	if t.Claims, err = ast.InterfaceToValue(claims); err != nil {
		return nil, is.reject(Malformed, "its claims: %w", err)
	}
	return t, nil
}

// CheckClaims returns the reason why Verify would reject the claims of a gateway's token of this issuer;
// it does not check a signature. Where no audiences are known, any is valid.
func (i Issuer) CheckClaims(claims map[string]any, now time.Time) error {
	claims = maps.Clone(claims)
	if len(i.Audiences) == 0 {
		claims["aud"], i.Audiences = "any", []string{"any"}
	}
	t, err := (&issuer{Issuer: i}).token(claims, now, "")
	if err != nil {
		return err
	}
	return checkTime(t, "", now)
}

// isAccessToken rejects what issuers sign with the same keys for other purposes:
// ID tokens (OpenID Connect Core, sections 2 and 3.1.3.6), refresh and logout
// tokens, by the marks of the specification and of Keycloak and Hydra.
func (is *issuer) isAccessToken(claims map[string]any) error {
	for _, mark := range []string{"nonce", "at_hash", "c_hash", "s_hash", "events"} {
		if _, there := claims[mark]; there {
			return is.reject(Type, "it has the claim %q of another kind of token", mark)
		}
	}
	if typ, there := claims["typ"]; there && typ != "Bearer" {
		return is.reject(Type, "its claim typ is not Bearer")
	}
	if use, there := claims["token_use"]; there && use != "access_token" && use != "access" {
		return is.reject(Type, "its token_use is neither access_token nor access")
	}
	return nil
}

func audienceMatches(aud any, wanted []string) bool {
	switch aud := aud.(type) {
	case string:
		return slices.Contains(wanted, aud)
	case []any:
		return slices.ContainsFunc(aud, func(a any) bool {
			s, ok := a.(string)
			return ok && slices.Contains(wanted, s)
		})
	}
	return false
}

// date reads a NumericDate (RFC 7519, section 2); zero where there is none.
func (is *issuer) date(claims map[string]any, name string) (time.Time, error) {
	x, there := claims[name]
	if !there {
		return time.Time{}, nil
	}
	n, ok := x.(json.Number)
	if !ok {
		return time.Time{}, is.reject(Malformed, "%s is no number", name)
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, is.reject(Malformed, "%s is no date", name)
	}
	return time.UnixMilli(int64(f * 1000)), nil
}

// text reads an optional string of a valid shape.
func (is *issuer) text(claims map[string]any, name string, valid func(string) bool) (string, error) {
	x, there := claims[name]
	if !there {
		return "", nil
	}
	s, ok := x.(string)
	if !ok || !valid(s) {
		return "", is.reject(Malformed, "%s has not the shape it must have", name)
	}
	return s, nil
}
