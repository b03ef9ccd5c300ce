package token

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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

func (m ProgramMark) fits(claims map[string]any) bool {
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
// program's. Its issuer's own name for a program is no user of anybody's.
func (i Issuer) Normalize(claims map[string]any) {
	program := slices.ContainsFunc(i.Programs, func(m ProgramMark) bool { return m.fits(claims) })
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

// oneScope reports whether scp is a form of scopes and does not contradict scope.
func oneScope(claims map[string]any) bool {
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
