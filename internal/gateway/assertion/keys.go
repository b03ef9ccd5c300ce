package assertion

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"iam-service/internal/iam"
)

// Store holds the keys. A change is exclusive: of two replicas, the second one sees what the first one wrote.
type Store interface {
	AssertionKeys(ctx context.Context) (iam.AssertionKeys, error)
	ChangeAssertionKeys(ctx context.Context, decide func(iam.AssertionKeys) (iam.AssertionKeyChange, error)) (iam.AssertionKeys, error)
}

// Keys are the keys as this replica knows them. They are safe for concurrent use.
type Keys struct {
	store   Store
	rules   Rules
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[keySet]
	changed chan struct{}

	reading sync.Mutex // one read at a time
	problem atomic.Pointer[error]
}

// keySet is immutable.
type keySet struct {
	seen    iam.AssertionKeys
	signers []*signingKey // in the order in which they begin to sign
	faults  []error       // of keys that cannot be opened
	jwks    []byte
	etag    string
}

// signingKey is a key that can sign within a time by our own clock.
type signingKey struct {
	id          string
	header      string // of its assertions, encoded
	method      jwt.SigningMethod
	private     crypto.Signer
	from, until time.Time
}

// NewKeys returns keys that are not read yet.
func NewKeys(store Store, rules Rules, log *slog.Logger) *Keys {
	if rules.Actor == "" {
		rules.Actor, rules.Via = "assertion", "loop"
	}
	return &Keys{store: store, rules: rules, log: log, now: time.Now, changed: make(chan struct{}, 1)}
}

// Start reads the keys, creates the first one, and fails where none can sign.
func (k *Keys) Start(ctx context.Context) error {
	if k.rules.Encryption.other != nil {
		if _, err := k.store.ChangeAssertionKeys(ctx, k.rules.Encrypt); err != nil {
			return err
		}
	}
	if err := k.refresh(ctx); err != nil {
		return err
	}
	set := k.current.Load()
	// The key that signs for all replicas: another one would be an old one, which is about to end.
	newest := signing(&set.seen)
	own := set.signer(k.now())
	if own != nil && newest != nil && own.id == newest.ID {
		return nil
	}
	if len(set.faults) > 0 {
		return errors.Join(set.faults...)
	}
	return errors.New("no key can sign now: do the clocks of this host and of the database agree?")
}

// Run reads the keys when they change, and once a minute, until ctx ends.
func (k *Keys) Run(ctx context.Context) {
	for {
		pause := time.NewTimer(interval/2 + mrand.N(interval/2)) //nolint:gosec // jitter is no secret
		select {
		case <-pause.C:
		case <-k.changed:
			pause.Stop()
		case <-ctx.Done():
			pause.Stop()
			return
		}
		err := k.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		if before := k.problem.Swap(&err); err != nil && (before == nil || *before == nil) {
			k.log.LogAttrs(ctx, slog.LevelWarn, "assertion keys not read", slog.Any("err", err))
		}
	}
}

// Changed makes Run read the keys now. It does not block.
func (k *Keys) Changed() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Check is why assertions end soon, or have ended; nil where they do not.
func (k *Keys) Check() error {
	set := k.current.Load()
	if set == nil {
		return errors.New("no key was read")
	}
	signer := set.signer(k.now())
	switch {
	case signer == nil:
		return errors.New("no key can sign: every response that would carry an assertion is 503")
	case signer.until.Sub(k.now()) < urgent:
		return fmt.Errorf("the last key that can sign ends at %s", signer.until.UTC().Format(time.RFC3339))
	case len(set.faults) > 0:
		return errors.Join(set.faults...)
	}
	if p := k.problem.Load(); p != nil {
		return *p
	}
	return nil
}

// refresh reads the keys and makes the change that is due.
func (k *Keys) refresh(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	set, err := k.store.AssertionKeys(ctx)
	if err != nil {
		return err
	}
	before := k.current.Load()
	if before != nil && set.Seq < before.seen.Seq {
		k.log.LogAttrs(ctx, slog.LevelError, "assertion keys are of an older copy of the database: restoring", slog.Int64("seq", set.Seq), slog.Int64("seen", before.seen.Seq))
		set, err = k.store.ChangeAssertionKeys(ctx, func(now iam.AssertionKeys) (iam.AssertionKeyChange, error) {
			return k.rules.Restore(now, before.seen), nil
		})
		if err != nil {
			return err
		}
	}
	if due, err := k.rules.Maintain(set); err != nil {
		return err
	} else if !due.Empty() {
		// A failure is no reason to ignore what was read: an operator may have revoked a key.
		changed, failed := k.store.ChangeAssertionKeys(ctx, k.rules.Maintain)
		if failed == nil {
			set = changed
		}
		err = failed
		k.adopt(ctx, set)
		return err
	}
	k.adopt(ctx, set)
	return nil
}

// adopt parses keys and uses them from now on. Keys with a fault are left out; what could be opened before
// goes on, until its end.
func (k *Keys) adopt(ctx context.Context, set iam.AssertionKeys) {
	before := k.current.Load()
	if before != nil && before.seen.Seq == set.Seq && len(before.seen.Keys) == len(set.Keys) {
		return // the same: what was signed stays cached
	}
	next := &keySet{seen: set}
	ahead := set.Now.Sub(k.now()) // the database's clock decides which key signs, on all replicas
	var published jose.JSONWebKeySet
	for i := range set.Keys {
		row := &set.Keys[i]
		if !row.RevokedAt.IsZero() {
			continue
		}
		known := before.signerOf(row.ID) // its proof was checked, maybe by a key-encryption key of before
		public, err := k.rules.Encryption.publicKey(row)
		if err != nil && known != nil {
			next.faults = append(next.faults, fmt.Errorf("assertion key %s: %w", row.ID, err))
			public, err = parsePublic(row)
		}
		if err != nil {
			next.faults = append(next.faults, fmt.Errorf("assertion key %s: %w", row.ID, err))
			continue
		}
		if set.Now.Before(row.PublishedUntil) {
			published.Keys = append(published.Keys, public)
		}
		signer := &signingKey{
			id:     row.ID,
			header: header(row),
			method: jwt.GetSigningMethod(row.Algorithm),
			from:   row.SignsFrom.Add(-ahead),
			until:  row.SignsUntil.Add(-ahead),
		}
		if row.Sealed != nil {
			signer.private, err = k.rules.Encryption.openKey(row)
		}
		if signer.private == nil && known != nil {
			signer.private = known.private
		}
		if signer.private != nil {
			next.signers = append(next.signers, signer)
		}
		if err != nil {
			next.faults = append(next.faults, fmt.Errorf("assertion key %s cannot be used: %w", row.ID, err))
		}
	}
	slices.Reverse(published.Keys)         // the newest first
	next.jwks, _ = json.Marshal(published) // JWKs that were parsed always encode
	sum := sha256.Sum256(next.jwks)
	next.etag = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	for _, fault := range next.faults {
		k.log.LogAttrs(ctx, slog.LevelError, "assertion key not usable", slog.Any("err", fault))
	}
	k.current.Store(next)
}

// header is the JWS header of a key's assertions (RFC 7515, section 4), encoded.
func header(k *iam.AssertionKey) string {
	text, _ := json.Marshal(map[string]string{"alg": k.Algorithm, "kid": k.ID, "typ": typ}) // strings always encode
	return base64.RawURLEncoding.EncodeToString(text)
}

// signer is the key that signs at a time: of those that can, the one that began last; nil: none.
func (s *keySet) signer(now time.Time) *signingKey {
	if s == nil {
		return nil
	}
	for _, k := range slices.Backward(s.signers) {
		if !now.Before(k.from) && now.Before(k.until) {
			return k
		}
	}
	return nil
}

// signerOf is the key of an id; nil: this replica never had it.
func (s *keySet) signerOf(id string) *signingKey {
	if s == nil {
		return nil
	}
	if i := slices.IndexFunc(s.signers, func(k *signingKey) bool { return k.id == id }); i >= 0 {
		return s.signers[i]
	}
	return nil
}

// JWKSPath is where the public keys are published.
const JWKSPath = "/.well-known/jwks.json"

var cacheControl = "public, max-age=" + strconv.Itoa(int(MaxAge.Seconds()))

// ServeHTTP serves the public keys as a JWKS (RFC 7517, section 5).
func (k *Keys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	set := k.current.Load()
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", cacheControl)
	h.Set("ETag", set.etag)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(set.jwks))
}
