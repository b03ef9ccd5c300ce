package directory_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-service/internal/directory"
)

// batchLoader is a loader that can read ahead.
type batchLoader struct {
	*loader
	tenants atomic.Int64 // batches that read one
}

func (l *batchLoader) Batch(ctx context.Context, q directory.Batch) (facts directory.BatchFacts, err error) {
	if q.Tenant != "" {
		l.tenants.Add(1)
	}
	if err := l.wait(ctx); err != nil {
		return facts, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if u, known := l.users["alice"]; known { // all are like her
		u.Issuer, u.Subject, u.AsOf = q.Issuer, q.Subject, time.Now()
		facts.User = &u
	}
	if c, known := l.clients[q.ClientID]; known {
		c.Issuer = q.Issuer
		facts.Client = &c
	}
	if tenant, known := l.loader.tenants[q.Tenant]; known && q.Tenant == "acme" { // the only one of which she is a member
		facts.Tenant = &tenant
	}
	return facts, nil
}

func ahead(s *directory.Store, subject, clientID, tenant string) error {
	v := s.View(directory.Caller{Issuer: issuer, Subject: subject, ClientID: clientID}, time.Now().Add(time.Minute))
	return v.ReadAhead(context.Background(), tenant)
}

func TestWhatIsReadAheadIsCached(t *testing.T) {
	t.Parallel()
	l := &batchLoader{loader: newLoader()}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	if err := ahead(s, "alice", "c1", "acme"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"directory|users|https://rauth.test|alice|id", "directory|clients|https://rauth.test|c1|status", "directory|tenants|acme|name",
	} {
		if _, err := read(s, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for range 3 { // nothing is missing
		if err := ahead(s, "alice", "c1", "acme"); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.loads.Load(); n != 1 {
		t.Errorf("%d round trips", n)
	}
	s.InvalidateKey(directory.Tenant, directory.KeyOf(directory.Tenant, "acme", ""))
	if _, err := read(s, "directory|tenants|acme|name"); err != nil || l.loads.Load() != 2 {
		t.Errorf("a tenant that has changed: %d round trips, %v", l.loads.Load(), err)
	}
}

func TestATenantThatIsNotReadAheadIsNotAbsent(t *testing.T) {
	t.Parallel()
	l := &batchLoader{loader: newLoader()}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	if err := ahead(s, "alice", "", "globex"); err != nil { // the loader says that she is no member
		t.Fatal(err)
	}
	if _, err := read(s, "directory|tenants|globex|status"); err != nil {
		t.Error(err)
	}
}

// After a reconnect all members of a tenant ask at once. Its document, which can be large, is read for one of them.
func TestATenantIsReadAheadForOneMemberAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &batchLoader{loader: newLoader()}
		l.set(nil, 10*time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				if err := ahead(s, fmt.Sprintf("user-%d", i), "c1", "acme"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := l.tenants.Load(); n != 1 {
			t.Errorf("%d members read their tenant", n)
		}
	})
}

func TestReadingAheadFailsAsALoadDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &batchLoader{loader: newLoader()}
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 60 * time.Millisecond})
		l.set(errors.New("away"), 0)
		if err := ahead(s, "alice", "c1", "acme"); code(err) != "facts_unavailable" {
			t.Errorf("the database is away: %v", err)
		}
		l.set(nil, 100*time.Millisecond)
		began := time.Now()
		if err := ahead(s, "alice", "c1", "acme"); code(err) != "facts_timeout" || time.Since(began) != 60*time.Millisecond {
			t.Errorf("the database is slow: %v after %s", err, time.Since(began))
		}
		time.Sleep(time.Second)
	})
}
