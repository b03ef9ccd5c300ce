package assertion

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

// memory is a Store with a clock that a test moves.
type memory struct {
	mu   sync.Mutex
	set  iam.AssertionKeys
	now  func() time.Time
	away bool // every call fails
}

var errAway = errors.New("the database is away")

func (m *memory) AssertionKeys(context.Context) (iam.AssertionKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read()
}

func (m *memory) read() (iam.AssertionKeys, error) {
	if m.away {
		return iam.AssertionKeys{}, errAway
	}
	set := m.set
	set.Keys, set.Now = slices.Clone(m.set.Keys), m.now()
	slices.SortFunc(set.Keys, func(a, b iam.AssertionKey) int { return a.SignsFrom.Compare(b.SignsFrom) })
	return set, nil
}

func (m *memory) ChangeAssertionKeys(_ context.Context, decide func(iam.AssertionKeys) (iam.AssertionKeyChange, error)) (iam.AssertionKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set, err := m.read()
	if err != nil {
		return set, err
	}
	c, err := decide(set)
	if err != nil || c.Empty() {
		return set, err
	}
	for _, k := range c.Put {
		m.set.Keys = append(slices.DeleteFunc(m.set.Keys, func(old iam.AssertionKey) bool { return old.ID == k.ID }), k)
	}
	m.set.Keys = slices.DeleteFunc(m.set.Keys, func(k iam.AssertionKey) bool { return slices.Contains(c.Delete, k.ID) })
	m.set.Seq = max(m.set.Seq+1, c.MinSeq)
	return m.read()
}

// clock is moved by a test.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newClock() *clock { return &clock{at: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)} }

func newKey(t testing.TB) []byte {
	t.Helper()
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key)
	return key
}

func encryption(t testing.TB, first, other []byte) *Encryption {
	t.Helper()
	e, err := NewEncryption(first, other)
	ok(t, err)
	return e
}

const rotation = 10 * 24 * time.Hour

// replica is one replica's keys, over a store.
func replica(t testing.TB, store Store, e *Encryption, now func() time.Time) *Keys {
	t.Helper()
	k := NewKeys(store, Rules{Encryption: e, Algorithm: "ES256", Rotation: rotation}, slog.New(slog.DiscardHandler))
	if now != nil {
		k.now = now
	}
	return k
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
