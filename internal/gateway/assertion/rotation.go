package assertion

import (
	"encoding/json"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// Times of keys and assertions. A verifier that follows docs/identity.md relies on them.
const (
	Lifetime = time.Minute      // of an assertion at most
	Skew     = 30 * time.Second // that verifiers allow between clocks
	MaxAge   = 5 * time.Minute  // for which verifiers may cache the JWKS

	interval  = time.Minute                   // between two reads of the keys, where no change is notified
	lead      = MaxAge + 3*interval           // for which a key is published before it signs: all replicas publish it, all caches have expired
	grace     = 24 * time.Hour                // for which a key can sign on where its successor is not known: the database is away
	afterLast = Lifetime + Skew + time.Minute // for which a key is published after it has signed at last
	handover  = time.Hour                     // after which the private key is erased, once another one signs
	urgent    = 2 * interval                  // what is left of the signing key when Check reports it
	minLeft   = 10 * time.Minute              // never used up by rounding: see MinRotation
)

// MinRotation is the shortest rotation: a successor must be published long enough.
const MinRotation = 2*lead + minLeft

// Rules decide how keys change.
type Rules struct {
	Encryption *Encryption
	Algorithm  string        // of new keys
	Rotation   time.Duration // how long a key signs
	Actor      string        // for the audit
	Via        string        // "loop" or "command"
}

// newKey generates a key.
func (r *Rules) newKey(now, from time.Time) (iam.AssertionKey, error) {
	return generate(r.Algorithm, r.Encryption, now, from, from.Add(r.Rotation+grace))
}

// signs reports whether a key can sign at a time.
func signs(k *iam.AssertionKey, now time.Time) bool {
	return k.Sealed != nil && k.RevokedAt.IsZero() && !now.Before(k.SignsFrom) && now.Before(k.SignsUntil)
}

// signing is the key that signs now: of those that can, the one that began last. nil: none.
func signing(set *iam.AssertionKeys) *iam.AssertionKey {
	var last *iam.AssertionKey
	for i := range set.Keys {
		k := &set.Keys[i]
		if signs(k, set.Now) && (last == nil || !k.SignsFrom.Before(last.SignsFrom)) {
			last = k
		}
	}
	return last
}

// pending is the key that will sign next; nil: none is published yet.
func pending(set *iam.AssertionKeys) *iam.AssertionKey {
	for i := range set.Keys {
		if k := &set.Keys[i]; k.Sealed != nil && k.RevokedAt.IsZero() && k.SignsFrom.After(set.Now) {
			return k
		}
	}
	return nil
}

// State of a key.
type State string

// The states.
const (
	Published State = "published" // it will sign
	Signing   State = "signing"
	Retired   State = "retired" // its last assertions may still be verified
	Revoked   State = "revoked"
)

// StateOf is the state of a key among all of them.
func StateOf(k iam.AssertionKey, set iam.AssertionKeys) State {
	current := signing(&set)
	switch {
	case !k.RevokedAt.IsZero():
		return Revoked
	case current != nil && current.ID == k.ID:
		return Signing
	case k.SignsFrom.After(set.Now):
		return Published
	}
	return Retired
}

// Maintain is the change that is due: a first key, a successor, an erasure of what is no longer needed. All
// replicas propose it, and the first one makes it, since the store lets one in at a time.
func (r *Rules) Maintain(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
	c := change{rules: r}
	now := set.Now
	current, next := signing(&set), pending(&set)
	switch {
	case current == nil && next != nil: // its predecessor was revoked
		k := *next
		k.SignsFrom = now
		c.put("start", k)
		current = &k
	case current == nil:
		k, err := r.newKey(now, now) // no verifier can have cached a useful JWKS without it
		if err != nil {
			return iam.AssertionKeyChange{}, err
		}
		c.put("create", k)
	case next == nil && !now.Before(current.SignsFrom.Add(r.Rotation-lead)):
		from := current.SignsFrom.Add(r.Rotation)
		if soonest := now.Add(lead); from.Before(soonest) {
			from = soonest
		}
		k, err := r.newKey(now, from)
		if err != nil {
			return iam.AssertionKeyChange{}, err
		}
		c.put("create", k)
	}
	for _, k := range set.Keys {
		switch {
		case now.After(k.PublishedUntil):
			c.remove(k)
		case c.has(k.ID):
		case k.Sealed != nil && (!now.Before(k.SignsUntil) || current != nil && k.SignsFrom.Before(current.SignsFrom) && now.Sub(current.SignsFrom) > handover):
			k.Sealed = nil
			c.put("erase", k)
		}
	}
	return c.out, nil
}

// Encrypt is the change that encrypts by the first key-encryption key what the other one has encrypted. It is
// due at a start alone: while replicas have the two in different orders, each would undo what the other does.
func (r *Rules) Encrypt(set iam.AssertionKeys) (iam.AssertionKeyChange, error) {
	c := change{rules: r}
	for _, k := range set.Keys {
		if r.Encryption.other == nil || k.SealedBy != r.Encryption.other.fingerprint || !k.RevokedAt.IsZero() {
			continue
		}
		if again, err := r.Encryption.reseal(k); err == nil { // otherwise it stays as it is, and opening it reports the error
			c.put("encrypt", again)
		}
	}
	return c.out, nil
}

// Rotate is the change that publishes a new key. It signs after all verifiers have read it; at once where
// now is true, so that verifiers which cache the JWKS and do not read it for an unknown key id reject its
// assertions for up to MaxAge.
func (r *Rules) Rotate(set iam.AssertionKeys, at Start) (iam.AssertionKeyChange, iam.AssertionKey, error) {
	c := change{rules: r}
	next := pending(&set)
	if at == AfterCaches && next != nil {
		return c.out, *next, nil
	}
	from := set.Now
	if at == AfterCaches && signing(&set) != nil {
		from = set.Now.Add(lead)
	}
	k, err := r.newKey(set.Now, from)
	if err != nil {
		return c.out, k, err
	}
	c.put("create", k)
	if next != nil { // it would soon sign instead
		c.remove(*next)
	}
	return c.out, k, nil
}

// Start is when a new key begins to sign.
type Start int

// The two starts.
const (
	AfterCaches Start = iota // when every verifier has read it
	AtOnce
)

// Revoke is the change that withdraws a key: it signs nothing more, and its public key is no longer
// published. A key that signs is succeeded at once.
func (r *Rules) Revoke(set iam.AssertionKeys, kid string) (iam.AssertionKeyChange, error) {
	c := change{rules: r}
	i := slices.IndexFunc(set.Keys, func(k iam.AssertionKey) bool { return k.ID == kid })
	if i < 0 {
		return c.out, iam.Errorf(iam.NotFound, "there is no assertion key %q", kid)
	}
	if !set.Keys[i].RevokedAt.IsZero() {
		return c.out, nil
	}
	k := set.Keys[i]
	k.RevokedAt, k.Sealed = set.Now, nil
	c.put("revoke", k)
	set.Keys = slices.Clone(set.Keys)
	set.Keys[i] = k
	if signing(&set) != nil {
		return c.out, nil
	}
	if r.Encryption == nil {
		return iam.AssertionKeyChange{}, iam.Errorf(iam.Conflict, "%s is the only key that signs: set ASSERTION_KEY_ENCRYPTION_KEY, so that another one can be created", kid)
	}
	successor, err := r.newKey(set.Now, set.Now)
	c.put("create", successor)
	return c.out, err
}

// Restore is the change that brings a database which was restored from an older copy back to what was seen: keys
// that it lacks are stored again, and what was revoked or deleted since stays so.
func (r *Rules) Restore(set, seen iam.AssertionKeys) iam.AssertionKeyChange {
	c := change{rules: r}
	if set.Seq >= seen.Seq {
		return c.out
	}
	c.out.MinSeq = seen.Seq + 1
	find := func(list []iam.AssertionKey, id string) *iam.AssertionKey {
		for i := range list {
			if list[i].ID == id {
				return &list[i]
			}
		}
		return nil
	}
	for _, k := range seen.Keys {
		if old := find(set.Keys, k.ID); old == nil || old.RevokedAt.IsZero() != k.RevokedAt.IsZero() || !old.SignsFrom.Equal(k.SignsFrom) || (old.Sealed == nil) != (k.Sealed == nil) {
			c.put("restore", k)
		}
	}
	for _, k := range set.Keys {
		if find(seen.Keys, k.ID) == nil && k.RevokedAt.IsZero() {
			k.RevokedAt, k.Sealed = set.Now, nil
			c.put("revoke", k)
		}
	}
	if c.out.Empty() && len(set.Keys) > 0 { // nothing differs, and the sequence must not fall
		c.out.Put = set.Keys[:1]
	}
	return c.out
}

// change collects what is written, and its audit. No entry contains a private key, encrypted or not.
type change struct {
	rules *Rules
	out   iam.AssertionKeyChange
}

type keyDoc struct {
	Algorithm string `json:"algorithm"`
	SignsFrom string `json:"signs_from"`
	SealedBy  string `json:"key_encryption_key"`
	Erased    bool   `json:"private_key_erased"`
	Revoked   bool   `json:"revoked"`
}

func (c *change) has(id string) bool {
	return slices.ContainsFunc(c.out.Put, func(k iam.AssertionKey) bool { return k.ID == id })
}

func (c *change) put(action string, k iam.AssertionKey) {
	c.out.Put = append(c.out.Put, k)
	c.audit(action, k, &keyDoc{
		Algorithm: k.Algorithm,
		SignsFrom: k.SignsFrom.UTC().Format(time.RFC3339),
		SealedBy:  k.SealedBy,
		Erased:    k.Sealed == nil,
		Revoked:   !k.RevokedAt.IsZero(),
	})
}

func (c *change) remove(k iam.AssertionKey) {
	c.out.Delete = append(c.out.Delete, k.ID)
	c.audit("delete", k, nil)
}

func (c *change) audit(action string, k iam.AssertionKey, after *keyDoc) {
	e := iam.AuditEntry{ActorKind: "operator", Actor: c.rules.Actor, Via: c.rules.Via, Action: "assertion-key:" + action, Kind: iam.KindAssertionKey, Object: k.ID}
	if after != nil {
		e.After, _ = json.Marshal(after) // strings and booleans always encode
	}
	c.out.Audit = append(c.out.Audit, e)
}
