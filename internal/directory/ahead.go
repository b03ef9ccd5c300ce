package directory

import (
	"context"
	"time"
)

// companions are documents that a flight reads along with a user's, since the evaluation that waits for
// it reads them next: the token's client, and the tenant that the request names. They only fill the
// cache. What is not read this way, or not cached because of a change, is loaded when it is asked for.
type companions struct {
	clientID string // empty: not wanted
	tenant   string // empty: not wanted
}

func (c companions) none() bool { return c == companions{} }

// ReadAhead reads the caller's user, if that is not cached, and in the same round trip the caller's client and the
// named tenant, if they are not: three loads of an evaluation become one. A tenant is read ahead only for its members,
// so that a made-up hint costs nothing. It fails as Read does.
func (r *View) ReadAhead(ctx context.Context, tenant string) error {
	s := r.store
	issuer, subject, clientID := r.caller.Issuer, r.caller.Subject, r.caller.ClientID
	if _, can := s.loader.(BatchLoader); !can || !readable(User, issuer, subject, r.issuer) {
		return nil
	}
	now := s.cfg.Clock()
	missing := func(kd Kind, a, b string) bool {
		return readable(kd, a, b, r.issuer) && s.cached(KeyOf(kd, a, b), named{kd, a, b}, now) == nil
	}
	if !s.fresh(now) || !missing(User, issuer, subject) {
		return nil // reading it fails, or finds it
	}
	var with companions
	if missing(Client, issuer, clientID) {
		with.clientID = clientID
	}
	if missing(Tenant, tenant, "") {
		with.tenant = tenant
	}
	if with.none() {
		return nil
	}
	e, err := r.load(ctx, named{User, issuer, subject}, with)
	if err != nil {
		return err
	}
	s.present.Miss()
	r.pinned = append(r.pinned, e)
	return nil
}

// load is Store.load within the time that the view may wait.
func (r *View) load(ctx context.Context, of named, with companions) (*entry, error) {
	began := time.Now()
	wait := max(0, min(r.store.cfg.Wait-r.waited, r.deadline.Sub(began)))
	e, err := r.store.load(ctx, KeyOf(of.kind, of.a, of.b), of, with, wait)
	r.waited += time.Since(began)
	return e, err
}

// fillWith is fill of a user's document that also caches the companions.
func (b *reading) fillWith(ctx context.Context, loader BatchLoader, user *entry, with companions) error {
	s := b.store
	// One reading of a tenant at a time: after a reconnect all its members would read it.
	if with.tenant != "" {
		if _, busy := s.ahead.LoadOrStore(with.tenant, struct{}{}); busy {
			with.tenant = ""
		} else {
			defer s.ahead.Delete(with.tenant)
		}
	}
	clientKey, tenantKey := KeyOf(Client, user.a, with.clientID), KeyOf(Tenant, with.tenant, "")
	client := b.entry(clientKey, named{Client, user.a, with.clientID})
	tenant := b.entry(tenantKey, named{Tenant, with.tenant, ""})
	facts, err := loader.Batch(ctx, Batch{Issuer: user.a, Subject: user.b, ClientID: with.clientID, Tenant: with.tenant})
	if err != nil {
		return err
	}
	var doc *document
	var lives time.Duration
	if facts.User != nil {
		doc, lives = userDocument(*facts.User, s.cfg.Issuers)
	}
	b.set(user, doc, lives)
	if with.clientID != "" {
		doc = nil
		if facts.Client != nil {
			doc = clientDocument(*facts.Client, s.cfg.Issuers)
		}
		if b.set(client, doc, 0); b.settle(client) {
			s.add(clientKey, client)
		}
	}
	if facts.Tenant != nil { // nil says nothing of whether there is such a tenant
		b.set(tenant, tenantDocument(*facts.Tenant, s.cfg.Issuers), 0)
		s.add(tenantKey, tenant)
	}
	return nil
}
