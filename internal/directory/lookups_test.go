package directory_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
)

func TestWaitingEndsWithTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.set(nil, 45*time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 60 * time.Millisecond})
		began := time.Now()
		r := s.View(directory.Caller{Issuer: issuer}, began.Add(time.Second))
		if _, err := r.Read(t.Context(), storage.Path{"directory", "tenants", "acme"}); err != nil {
			t.Fatal(err)
		}
		_, err := r.Read(t.Context(), storage.Path{"directory", "tenants", "globex"})
		if code(err) != "facts_timeout" || time.Since(began) != 60*time.Millisecond || r.Waited() != 60*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		time.Sleep(time.Second) // the load went on for the next who asks
		if _, err := read(s, "directory|tenants|globex"); err != nil {
			t.Error(err)
		}
		if n := l.loads.Load(); n != 2 && n != 3 {
			t.Errorf("%d loads", n)
		}
	})
}

// One valid token with forged ids neither evicts good entries nor queries without a bound.
func TestMissesAreNoWeapon(t *testing.T) {
	t.Parallel()
	l := newLoader()
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, Entries: 20})
	if _, err := read(s, "directory|tenants|acme"); err != nil {
		t.Fatal(err)
	}
	left := account(5)
	a := directory.Caller{Issuer: issuer, Subject: "nobody", Lookups: &left}
	refused := 0
	for i := range 100 {
		switch _, err := readAs(s, a, fmt.Sprintf("directory|tenants|made-up-%d", i)); {
		case code(err) == "too_many_misses":
			refused++
		case !storage.IsNotFound(err):
			t.Fatal(err)
		}
	}
	for range 10 {
		if _, err := readAs(s, a, "directory|users|https://rauth.test|nobody"); !storage.IsNotFound(err) {
			t.Fatalf("looking for oneself: %v", err)
		}
	}
	if refused != 95 {
		t.Errorf("%d of 100 were refused, want all but 5", refused)
	}
	before := l.loads.Load()
	if _, err := readAs(s, a, "directory|tenants|acme"); err != nil {
		t.Errorf("what is good and known: %v", err)
	}
	if l.loads.Load() != before {
		t.Error("what was good had been evicted")
	}
	if got := s.Stats(); got.Absent.Entries > 2 {
		t.Errorf("%d absent keys are cached, of 20 entries in all", got.Absent)
	}
}

// A failure is not the caller's fault: it consumes none of the misses that a token is allowed.
func TestAnOutageUsesUpNoMissesOfCallers(t *testing.T) {
	t.Parallel()
	l := newLoader()
	l.set(errors.New("away"), 0)
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	few := account(3)
	for range 20 {
		if _, err := readAs(s, directory.Caller{Issuer: issuer, Lookups: &few}, "directory|tenants|acme"); code(err) != "facts_unavailable" {
			t.Fatal(err)
		}
	}
	if few != 3 {
		t.Errorf("%d of 3 are left", few)
	}
}

type account int

func (a *account) Take() bool {
	if *a <= 0 {
		return false
	}
	*a--
	return true
}

func (a *account) Return() { *a++ }
