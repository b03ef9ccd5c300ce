package enrich

import (
	"context"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/token"
)

// Identify verifies a token, and enforces what no policy decides. bound is the only tenant that the
// token can act in; empty: its client binds it to none. It fails with an iam.Error: Unauthenticated,
// or Unavailable where that cannot be verified now.
func (s *Service) Identify(ctx context.Context, raw string) (t *token.Token, bound string, err error) {
	deadline := time.Now().Add(s.cfg.Deadline)
	t, err = s.cfg.Verifier.Verify(ctx, raw, "", deadline)
	if err == nil {
		_, bound, err = checkRevocation(ctx, t, s.reading(t, deadline))
	}
	if err != nil {
		s.cfg.Verifier.Rejected(ctx, err)
		return nil, "", err
	}
	return t, bound, nil
}

// View is the view of the facts for a token; nil: none.
func (s *Service) View(t *token.Token, deadline time.Time) *directory.View {
	return s.cfg.Directory.View(askerOf(t), deadline)
}

// reading is View whose misses count for the token, since a client can forge ids.
func (s *Service) reading(t *token.Token, deadline time.Time) *directory.View {
	asker := askerOf(t)
	if t != nil {
		asker.Lookups = t.LookupBudget()
	}
	return s.cfg.Directory.View(asker, deadline)
}

// readAhead reads in one round trip what checkRevocation and a policy read of a person. What a program's token
// names, its client, is one document.
func (s *Service) readAhead(ctx context.Context, e *evaluation, facts *directory.View) error {
	if e.token == nil || e.token.Program() {
		return nil
	}
	return facts.ReadAhead(ctx, e.request.TenantHint)
}

func askerOf(t *token.Token) directory.Caller {
	if t == nil {
		return directory.Caller{}
	}
	return directory.Caller{Issuer: t.Issuer, Subject: t.Subject, ClientID: t.ClientID}
}

// checkRevocation rejects a token that its client's or its user's revocation includes. It
// returns the later of the two revocation times, and the tenant of a managed client, which is
// the only one that its tokens can act in.
func checkRevocation(ctx context.Context, t *token.Token, facts *directory.View) (notBefore time.Time, bound string, err error) {
	if t.ClientID != "" {
		c, err := facts.Client(ctx, t.Issuer, t.ClientID)
		if err != nil {
			return notBefore, "", err
		}
		if err := t.CheckRevocation(token.Principal{Known: c.Known, Client: true, Status: c.Status, TokensNotBefore: c.TokensNotBefore}); err != nil {
			return notBefore, "", err
		}
		notBefore, bound = c.TokensNotBefore, c.Tenant
	}
	if !t.Program() {
		u, err := facts.User(ctx, t.Issuer, t.Subject)
		if err != nil {
			return notBefore, "", err
		}
		if err := t.CheckRevocation(token.Principal{Known: u.Known, Status: u.Status, TokensNotBefore: u.TokensNotBefore}); err != nil {
			return notBefore, "", err
		}
		if u.TokensNotBefore.After(notBefore) {
			notBefore = u.TokensNotBefore
		}
	}
	return notBefore, bound, nil
}
