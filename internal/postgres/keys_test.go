package postgres_test

import (
	"testing"
	"time"

	"iam-service/internal/dev/pgtest"
)

func TestSaveKeysStoresTheNewest(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	if _, _, at, err := db.LoadKeys(ctx, issuer); err != nil || !at.IsZero() {
		t.Errorf("before the first save: %v, %v", at, err)
	}
	now := time.Now().Truncate(time.Microsecond)
	must(t, db.SaveKeys(ctx, issuer, []byte(`{"a": 1}`), []byte(`{"keys": []}`), now))
	must(t, db.SaveKeys(ctx, issuer, []byte(`{"a": 0}`), []byte(`{}`), now.Add(-time.Minute))) // older ones of a slower replica
	d, k, at, err := db.LoadKeys(ctx, issuer)
	must(t, err)
	if string(d) != `{"a": 1}` || string(k) != `{"keys": []}` || !at.Equal(now) {
		t.Errorf("stored %s %s %v", d, k, at)
	}
}
