package assertion

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Ten replicas start at once over an empty database, and then rotate at once: there is one key, and then one more.
func TestReplicasThatRotateAtOnceCreateOneKey(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	e := encryption(t, newKey(t), nil)
	const replicas = 10
	dbs := make([]*postgres.DB, replicas)
	for i := range dbs {
		dbs[i] = pgtest.OpenURL(t, url)
	}
	together := func(do func(i int) error) {
		var all sync.WaitGroup
		errs := make([]error, replicas)
		for i := range replicas {
			all.Go(func() { errs[i] = do(i) })
		}
		all.Wait()
		for _, err := range errs {
			ok(t, err)
		}
	}
	keys := make([]*Keys, replicas)
	together(func(i int) error {
		keys[i] = replica(t, dbs[i], e, nil)
		return keys[i].Start(t.Context())
	})
	set, err := dbs[0].AssertionKeys(t.Context())
	ok(t, err)
	if len(set.Keys) != 1 || set.Seq != 1 {
		t.Fatalf("%d keys, sequence %d", len(set.Keys), set.Seq)
	}
	// The key is nearly over.
	_, err = dbs[0].ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
		k := set.Keys[0]
		k.SignsFrom = k.SignsFrom.Add(-rotation + lead - time.Second)
		return iam.AssertionKeyChange{Put: []iam.AssertionKey{k}}, nil
	})
	ok(t, err)
	together(func(i int) error { return keys[i].refresh(t.Context()) })
	set, err = dbs[0].AssertionKeys(t.Context())
	ok(t, err)
	if len(set.Keys) != 2 || set.Seq != 3 {
		t.Errorf("%d keys, sequence %d", len(set.Keys), set.Seq)
	}
	for _, k := range keys {
		ok(t, k.refresh(t.Context()))
		if ids := published(t, k); len(ids) != 2 {
			t.Errorf("published %v", ids)
		}
	}
}

// The database has no private key that it could sign with: not in the keys, not in the audit, nowhere.
func TestTheDatabaseHasNoPlainKey(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	secret := newKey(t)
	e := encryption(t, secret, nil)
	ok(t, replica(t, db, e, nil).Start(t.Context()))
	set, err := db.AssertionKeys(t.Context())
	ok(t, err)
	der, err := e.open(set.Keys[0].ID, set.Keys[0].SealedBy, set.Keys[0].Sealed)
	ok(t, err)
	entries, audited := 0, []byte(nil)
	ok(t, db.View(t.Context(), func(ctx context.Context, tx *postgres.Tx) error {
		list, err := tx.Audit(ctx, postgres.AuditFilter{Kind: iam.KindAssertionKey, Limit: 10})
		entries = len(list)
		for _, e := range list {
			audited = append(audited, e.After...)
		}
		return err
	}))
	if entries != 1 {
		t.Errorf("%d entries in the audit, 1 is due", entries)
	}
	for _, plain := range [][]byte{secret, der, der[36:68]} { // the scalar of a P-256 key lies in the middle
		for _, field := range [][]byte{set.Keys[0].Sealed, set.Keys[0].Public, set.Keys[0].Proof, audited} {
			if bytes.Contains(field, plain) || strings.Contains(string(field), fmt.Sprintf("%x", plain)) {
				t.Error("the database has a plain key")
			}
		}
	}
	// The constraint: a revoked key has no private part.
	_, err = db.ChangeAssertionKeys(t.Context(), func(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
		k := set.Keys[0]
		k.RevokedAt = set.Now
		return iam.AssertionKeyChange{Put: []iam.AssertionKey{k}}, nil
	})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("a revoked key stays decryptable: %v", err)
	}
}

// The change of a key reaches the replicas that listen, by a notification of its own.
func TestAChangeOfKeysIsNotified(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	l, err := db.Listen(t.Context())
	ok(t, err)
	defer l.Close()
	ok(t, replica(t, db, encryption(t, newKey(t), nil), nil).Start(t.Context()))
	m, err := l.Next(t.Context())
	ok(t, err)
	if !m.AssertionKeys || m.All {
		t.Errorf("received %+v", m)
	}
}
