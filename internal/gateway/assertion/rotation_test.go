package assertion

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"iam-service/internal/iam"
)

// published are the key ids of a JWKS.
func published(t testing.TB, k *Keys) map[string]bool {
	t.Helper()
	var set jose.JSONWebKeySet
	ok(t, json.Unmarshal(k.current.Load().jwks, &set))
	ids := map[string]bool{}
	for _, key := range set.Keys {
		if !key.IsPublic() {
			t.Fatal("a private key is published")
		}
		ids[key.KeyID] = true
	}
	return ids
}

// Whatever a verifier has cached within MaxAge, and whatever of three replicas it reads from, it has the key of each
// assertion until that has expired. One replica is cut off for 20 hours over a rotation, and signs on.
func TestEveryAssertionIsVerifiedByEveryCache(t *testing.T) {
	t.Parallel()
	at := newClock()
	store := &memory{now: at.now}
	cut := &memory{now: at.now, away: true}
	e := encryption(t, newKey(t), nil)
	replicas := []*Keys{replica(t, store, e, at.now), replica(t, store, e, at.now), replica(t, store, e, at.now)}
	for _, r := range replicas {
		ok(t, r.Start(t.Context()))
	}
	began := at.now()
	type moment struct {
		at     time.Time
		signer [3]string
		keys   [3]map[string]bool
	}
	var history []moment
	signers := map[string]bool{}
	for at.now().Sub(began) < 2*rotation+3*24*time.Hour {
		// Minutes around the rotations, hours between them.
		sinceRotation := at.now().Sub(began) % rotation
		step := 30 * time.Minute
		if sinceRotation > rotation-time.Hour || sinceRotation < time.Hour {
			step = time.Minute
		}
		at.add(step)
		elapsed := at.now().Sub(began)
		m := moment{at: at.now()}
		for i, r := range replicas {
			r.store = store
			if i == 2 && elapsed > rotation-2*time.Hour && elapsed < rotation+18*time.Hour {
				r.store = cut
			}
			if err := r.refresh(t.Context()); (err != nil) != (r.store == cut) {
				t.Fatal(err)
			}
			key := r.current.Load().signer(at.now())
			if key == nil {
				t.Fatalf("replica %d has no key after %s", i, elapsed)
			}
			m.signer[i], m.keys[i] = key.id, published(t, r)
			signers[key.id] = true
		}
		history = append(history, m)
		private := 0
		for _, k := range store.set.Keys {
			if k.Sealed != nil {
				private++
			}
		}
		if sinceStart := at.now().Sub(began) % rotation; sinceStart > handover+time.Hour && sinceStart < rotation-time.Hour && private != 1 {
			t.Fatalf("%d private keys are left after %s", private, elapsed)
		}
	}
	if len(signers) != 3 {
		t.Errorf("%d keys signed, 3 are due", len(signers))
	}
	for i, m := range history {
		for _, other := range history[max(0, i-40):min(len(history), i+40)] {
			if d := other.at.Sub(m.at); d < -MaxAge || d > Lifetime+Skew {
				continue
			}
			for r, id := range m.signer {
				for source, keys := range other.keys {
					// A replica that is cut off publishes what it knows: behind a balancer it is not ready.
					if !keys[id] && source != 2 {
						t.Fatalf("replica %d signed by %s at %s, which replica %d did not publish at %s", r, id, m.at, source, other.at)
					}
				}
			}
		}
	}
	if len(store.set.Keys) != 1 {
		t.Errorf("%d keys are left", len(store.set.Keys))
	}
}

func TestAKeyWithoutASuccessorEndsAndFailsClosed(t *testing.T) {
	t.Parallel()
	at := newClock()
	store := &memory{now: at.now}
	r := replica(t, store, encryption(t, newKey(t), nil), at.now)
	ok(t, r.Start(t.Context()))
	store.away = true
	at.add(rotation + grace - time.Minute)
	if err := r.refresh(t.Context()); err == nil || r.current.Load().signer(at.now()) == nil {
		t.Fatalf("the last good key does not sign on: %v", err)
	}
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "ends at") {
		t.Errorf("readiness says %v", err)
	}
	at.add(2 * time.Minute)
	if r.current.Load().signer(at.now()) != nil {
		t.Error("a key signs after its end")
	}
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "no key can sign") {
		t.Errorf("readiness says %v", err)
	}
}

func TestOperatorsChangeKeys(t *testing.T) {
	t.Parallel()
	at := newClock()
	e := encryption(t, newKey(t), nil)
	rules := Rules{Encryption: e, Algorithm: "EdDSA", Rotation: rotation, Actor: "me", Via: "command"}
	start := func(t *testing.T) (*memory, *Keys, iam.AssertionKey) {
		t.Helper()
		store := &memory{now: at.now}
		r := replica(t, store, e, at.now)
		ok(t, r.Start(t.Context()))
		return store, r, store.set.Keys[0]
	}
	rotate := func(t *testing.T, store *memory, s Start) (k iam.AssertionKey) {
		t.Helper()
		_, err := store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (c iam.AssertionKeyChange, err error) {
			c, k, err = rules.Rotate(set, s)
			return c, err
		})
		ok(t, err)
		return k
	}
	t.Run("a rotation publishes first, and is one however often it is asked for", func(t *testing.T) {
		t.Parallel()
		store, r, first := start(t)
		next := rotate(t, store, AfterCaches)
		if again := rotate(t, store, AfterCaches); again.ID != next.ID || next.ID == first.ID {
			t.Errorf("first %s, then %s, then %s", first.ID, next.ID, again.ID)
		}
		ok(t, r.refresh(t.Context()))
		if ids := published(t, r); !ids[next.ID] || !ids[first.ID] || r.current.Load().signer(at.now()).id != first.ID {
			t.Errorf("published %v", ids)
		}
		if next.SignsFrom.Sub(at.now()) < MaxAge+interval {
			t.Errorf("it signs from %s on", next.SignsFrom)
		}
	})
	t.Run("a rotation at once signs at once, and replaces the one that was to come", func(t *testing.T) {
		t.Parallel()
		store, r, first := start(t)
		pending := rotate(t, store, AfterCaches)
		now := rotate(t, store, AtOnce)
		ok(t, r.refresh(t.Context()))
		if ids := published(t, r); r.current.Load().signer(at.now()).id != now.ID || ids[pending.ID] || !ids[first.ID] {
			t.Errorf("published %v", ids)
		}
	})
	t.Run("a revoked key signs nothing and is not published, and one that signed is succeeded", func(t *testing.T) {
		t.Parallel()
		store, r, first := start(t)
		for range 2 { // idempotent
			_, err := store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) { return rules.Revoke(set, first.ID) })
			ok(t, err)
		}
		ok(t, r.refresh(t.Context()))
		key := r.current.Load().signer(at.now())
		if ids := published(t, r); ids[first.ID] || key == nil || key.id == first.ID || len(ids) != 1 {
			t.Errorf("published %v, signs %v", ids, key)
		}
		for _, k := range store.set.Keys {
			if k.ID == first.ID && k.Sealed != nil {
				t.Error("its private key is not erased")
			}
		}
	})
	t.Run("without the key-encryption key the only key is not revoked", func(t *testing.T) {
		t.Parallel()
		store, _, first := start(t)
		poor := Rules{Actor: "me", Via: "command"}
		_, err := store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) { return poor.Revoke(set, first.ID) })
		if iam.KindOf(err) != iam.Conflict || !strings.Contains(err.Error(), "ASSERTION_KEY_ENCRYPTION_KEY") {
			t.Errorf("got %v", err)
		}
		rotate(t, store, AtOnce)
		_, err = store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) { return poor.Revoke(set, first.ID) })
		ok(t, err)
	})
	t.Run("an unknown key", func(t *testing.T) {
		t.Parallel()
		store, _, _ := start(t)
		_, err := store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) { return rules.Revoke(set, "nope") })
		if iam.KindOf(err) != iam.NotFound {
			t.Errorf("got %v", err)
		}
	})
}

// A database that was restored from an older copy has the revoked key again, and lacks the newest. A running replica
// revokes and stores them again, under a higher sequence.
func TestARunningReplicaRepairsARestoredDatabase(t *testing.T) {
	t.Parallel()
	at := newClock()
	store := &memory{now: at.now}
	e := encryption(t, newKey(t), nil)
	running := replica(t, store, e, at.now)
	ok(t, running.Start(t.Context()))
	leaked := store.set.Keys[0].ID
	copied, err := store.AssertionKeys(t.Context())
	ok(t, err)
	rules := Rules{Encryption: e, Algorithm: "ES256", Rotation: rotation}
	_, err = store.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) { return rules.Revoke(set, leaked) })
	ok(t, err)
	ok(t, running.refresh(t.Context()))
	newest := running.current.Load().signer(at.now()).id

	store.set = copied
	ok(t, running.refresh(t.Context()))
	started := replica(t, store, e, at.now)
	ok(t, started.Start(t.Context()))
	for name, r := range map[string]*Keys{"the running one": running, "one that starts": started} {
		if ids := published(t, r); ids[leaked] || r.current.Load().signer(at.now()).id != newest {
			t.Errorf("%s: publishes %v, signs by %s", name, ids, r.current.Load().signer(at.now()).id)
		}
	}
	if store.set.Seq <= copied.Seq+1 {
		t.Errorf("the sequence is %d", store.set.Seq)
	}
}
