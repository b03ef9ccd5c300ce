package assertion

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
)

func TestAKeyEncryptionKeyIs32RandomBytes(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, c := range map[string]struct{ text, want string }{
		"standard":      {text: base64.StdEncoding.EncodeToString(key)},
		"url, unpadded": {text: base64.RawURLEncoding.EncodeToString(key) + "\n"},
		"short":         {text: base64.StdEncoding.EncodeToString(key[:16]), want: "is of 16"},
		"a password":    {text: "correct horse battery staple", want: "no base64"},
		"hex":           {text: fmt.Sprintf("%x", key), want: "is of 48"},
		"zeros":         {text: base64.StdEncoding.EncodeToString(make([]byte, 32)), want: "one byte repeated"},
		"empty":         {text: "", want: "is of 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseKey(c.text)
			switch {
			case c.want == "" && (err != nil || !bytes.Equal(got, key)):
				t.Errorf("%v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case err != nil && len(c.text) > 8 && strings.Contains(err.Error(), c.text[:8]):
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// Who writes to the table, and does not have the key-encryption key, makes no replica sign with a key of theirs,
// nor publish one of theirs for one of ours.
func TestARowThatWasTamperedWithIsNotUsed(t *testing.T) {
	t.Parallel()
	at := newClock()
	e := encryption(t, newKey(t), nil)
	attackers := encryption(t, newKey(t), nil)
	ours, err := generate("ES256", e, at.now(), at.now(), at.now().Add(rotation))
	ok(t, err)
	other, err := generate("ES256", e, at.now(), at.now(), at.now().Add(rotation))
	ok(t, err)
	theirs, err := generate("ES256", attackers, at.now(), at.now(), at.now().Add(rotation))
	ok(t, err)
	for name, tamper := range map[string]func(k *iam.AssertionKey){
		"the ciphertext of another row": func(k *iam.AssertionKey) { k.Sealed = other.Sealed },
		"a changed bit":                 func(k *iam.AssertionKey) { k.Sealed = bytes.Clone(k.Sealed); k.Sealed[20] ^= 1 },
		"a cut ciphertext":              func(k *iam.AssertionKey) { k.Sealed = k.Sealed[:5] },
		"another public key":            func(k *iam.AssertionKey) { k.Public = theirs.Public },
		"another public key under our id": func(k *iam.AssertionKey) {
			k.Public = bytes.ReplaceAll(theirs.Public, []byte(theirs.ID), []byte(k.ID))
			k.Sealed = nil
		},
		"another's private key": func(k *iam.AssertionKey) { k.Sealed = theirs.Sealed },
		"and its fingerprint":   func(k *iam.AssertionKey) { k.Sealed, k.SealedBy = theirs.Sealed, theirs.SealedBy },
		"another id": func(k *iam.AssertionKey) {
			k.ID, k.Proof = theirs.ID, theirs.Proof // and not its public key
		},
		"another algorithm": func(k *iam.AssertionKey) { k.Algorithm = "EdDSA" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := ours
			tamper(&k)
			if _, err := e.publicKey(&k); err == nil {
				if _, err := e.openKey(&k); err == nil {
					t.Error("it is used")
				}
			}
			r := replica(t, &memory{now: at.now, set: iam.AssertionKeys{Keys: []iam.AssertionKey{k}}}, e, at.now)
			if err := r.Start(t.Context()); k.Sealed != nil && (err == nil || !strings.Contains(err.Error(), k.ID)) {
				t.Errorf("the start says %v", err)
			}
			if jwks := string(r.current.Load().jwks); strings.Contains(jwks, theirs.ID) || k.Sealed == nil && strings.Contains(jwks, k.ID) {
				t.Error("the attacker's key is published")
			}
		})
	}
}

// No ciphertext of a key takes the place of another one of it.
func TestAProofIsNoCiphertextOfAPrivateKey(t *testing.T) {
	t.Parallel()
	at := newClock()
	e := encryption(t, newKey(t), nil)
	k, err := generate("ES256", e, at.now(), at.now(), at.now().Add(rotation))
	ok(t, err)
	swapped := k
	swapped.Proof, swapped.Sealed = k.Sealed, k.Proof
	if _, err := e.publicKey(&swapped); err == nil {
		t.Error("an encrypted private key is a proof")
	}
	if _, err := e.open(k.ID, k.SealedBy, k.Proof); err == nil {
		t.Error("a proof is an encrypted private key")
	}
}

// A public key that was inserted into the table, and not created by the service, is not published: who has its private
// key would be anybody.
func TestAnInsertedPublicKeyIsNotPublished(t *testing.T) {
	t.Parallel()
	at := newClock()
	e := encryption(t, newKey(t), nil)
	store := &memory{now: at.now}
	r := replica(t, store, e, at.now)
	ok(t, r.Start(t.Context()))
	ours := store.set.Keys[0]
	theirs, err := generate("ES256", encryption(t, newKey(t), nil), at.now(), at.now().Add(-time.Hour), at.now().Add(rotation))
	ok(t, err)
	theirs.Sealed = nil
	for name, forge := range map[string]func(k *iam.AssertionKey){
		"by another key-encryption key": func(*iam.AssertionKey) {},
		"with the fingerprint of ours":  func(k *iam.AssertionKey) { k.SealedBy = ours.SealedBy },
		"with the proof of ours":        func(k *iam.AssertionKey) { k.SealedBy, k.Proof = ours.SealedBy, ours.Proof },
		"with a ciphertext as a proof":  func(k *iam.AssertionKey) { k.SealedBy, k.Proof = ours.SealedBy, ours.Sealed },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := theirs
			forge(&k)
			r := replica(t, &memory{now: at.now, set: iam.AssertionKeys{Keys: []iam.AssertionKey{ours, k}}}, e, at.now)
			ok(t, r.Start(t.Context()))
			if ids := published(t, r); ids[k.ID] || !ids[ours.ID] {
				t.Errorf("published %v", ids)
			}
			if r.Check() == nil {
				t.Error("readiness says nothing")
			}
		})
	}
}

func TestAnotherKeyEncryptionKeyIsFatalAtAStartAndNoneLater(t *testing.T) {
	t.Parallel()
	at := newClock()
	store := &memory{now: at.now}
	old, fresh := newKey(t), newKey(t)
	running := replica(t, store, encryption(t, old, nil), at.now)
	ok(t, running.Start(t.Context()))
	before := running.current.Load().signer(at.now()).id
	wrong := replica(t, store, encryption(t, fresh, nil), at.now)
	if err := wrong.Start(t.Context()); !errors.Is(err, errOtherKey) {
		t.Fatalf("a start with another key: %v", err)
	}

	// The change: first every replica can read both, then the new one encrypts.
	second := replica(t, store, encryption(t, fresh, old), at.now)
	ok(t, second.Start(t.Context()))
	for _, k := range store.set.Keys {
		if k.SealedBy != second.rules.Encryption.Fingerprint() {
			t.Errorf("%s is still encrypted by the old key", k.ID)
		}
	}
	ok(t, wrong.Start(t.Context()))
	// While replicas have the two in different orders, none undoes what another does.
	seq := store.set.Seq
	third := replica(t, store, encryption(t, old, fresh), at.now)
	for range 3 {
		ok(t, third.refresh(t.Context()))
		ok(t, second.refresh(t.Context()))
	}
	if store.set.Seq != seq {
		t.Errorf("%d changes of keys by two replicas that disagree", store.set.Seq-seq)
	}
	// One that has the old key alone signs on with what it has.
	ok(t, running.refresh(t.Context()))
	if k := running.current.Load().signer(at.now()); k == nil || k.id != before {
		t.Error("a replica with the old key does not sign on")
	}
	if running.Check() == nil {
		t.Error("and does not say so")
	}
}

func TestNoSecretIsPrintedOrAudited(t *testing.T) {
	t.Parallel()
	at := newClock()
	secret := newKey(t)
	e := encryption(t, secret, nil)
	var logs bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logs, nil))
	log.Info("all", "encryption", e, "rules", Rules{Encryption: e})
	text, _ := json.Marshal(Rules{Encryption: e})
	printed := logs.String() + string(text) + fmt.Sprintf("%v %+v %#v %s", e, e, e, Rules{Encryption: e})
	rules := Rules{Encryption: e, Algorithm: "ES256", Rotation: rotation}
	c, err := rules.Maintain(iam.AssertionKeys{Now: at.now()})
	ok(t, err)
	for _, entry := range c.Audit {
		printed += string(entry.Before) + string(entry.After)
	}
	private, err := e.open(c.Put[0].ID, c.Put[0].SealedBy, c.Put[0].Sealed)
	ok(t, err)
	for _, plain := range [][]byte{secret, private, private[36:68], c.Put[0].Sealed} {
		for _, form := range []string{string(plain), fmt.Sprintf("%v", plain), fmt.Sprintf("%x", plain), base64.StdEncoding.EncodeToString(plain), base64.RawURLEncoding.EncodeToString(plain)} {
			if strings.Contains(printed, form) {
				t.Errorf("it shows a key: %s", printed)
			}
		}
	}
}

func TestNoKeyIDLooksLikeAFlag(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if _, jwk, err := newKeyPair("EdDSA"); err != nil || jwk.KeyID == "" || jwk.KeyID[0] == '-' {
			t.Fatalf("%q, %v", jwk.KeyID, err)
		}
	}
}
