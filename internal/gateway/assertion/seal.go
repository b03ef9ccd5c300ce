package assertion

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"iam-service/internal/iam"
)

// Algorithms are those that assertions can be signed with (ASSERTION_ALG).
var Algorithms = []string{"ES256", "EdDSA"}

// keyBytes is the size of a key-encryption key: AES-256.
const keyBytes = 32

// Encryption encrypts private keys with AES-256-GCM. The key id is the additional data, so a
// ciphertext is valid in its own row alone. It prints as nothing.
type Encryption struct {
	first sealer
	other *sealer // decrypts only; nil: none
}

type sealer struct {
	aead        cipher.AEAD
	fingerprint string // of the key, for rows and reports
}

// String keeps keys out of logs.
func (*Encryption) String() string { return "(key-encryption keys)" }

// GoString keeps keys out of logs.
func (e *Encryption) GoString() string { return e.String() }

// ParseKey decodes a key-encryption key: base64 of 32 bytes, with either alphabet, padded or not. Its
// errors contain nothing of the key.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	key, err := encoding.DecodeString(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("must be base64 of %d random bytes, such as openssl rand -base64 %d prints, and is no base64", keyBytes, keyBytes)
	case len(key) != keyBytes:
		return nil, fmt.Errorf("must be base64 of %d random bytes, such as openssl rand -base64 %d prints, and is of %d", keyBytes, keyBytes, len(key))
	case sameBytes(key):
		return nil, errors.New("must be random, and is one byte repeated")
	}
	return key, nil
}

func sameBytes(key []byte) bool {
	for _, b := range key {
		if b != key[0] {
			return false
		}
	}
	return true
}

// NewEncryption returns an encryption by first. other, which may be nil, decrypts as well: while the key
// is changed, each replica can read what any other wrote.
func NewEncryption(first, other []byte) (*Encryption, error) {
	s, err := newSealer(first)
	if err != nil {
		return nil, err
	}
	e := &Encryption{first: s}
	if other != nil {
		o, err := newSealer(other)
		if err != nil {
			return nil, err
		}
		e.other = &o
	}
	return e, nil
}

func newSealer(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealer{}, err
	}
	sum := sha256.Sum256(append([]byte("iam-service assertion key-encryption key\x00"), key...))
	return sealer{aead: aead, fingerprint: hex.EncodeToString(sum[:8])}, nil
}

// Fingerprint identifies the key that encrypts.
func (e *Encryption) Fingerprint() string { return e.first.fingerprint }

// Reads reports whether keys of a fingerprint can be decrypted.
func (e *Encryption) Reads(fingerprint string) bool {
	return fingerprint == e.first.fingerprint || e.other != nil && fingerprint == e.other.fingerprint
}

func (e *Encryption) seal(kid string, plain []byte) []byte {
	nonce := make([]byte, e.first.aead.NonceSize(), e.first.aead.NonceSize()+len(plain)+e.first.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return e.first.aead.Seal(nonce, nonce, plain, []byte(kid))
}

// errOtherKey means that none of the key-encryption keys that are configured has encrypted a key.
var errOtherKey = errors.New("it is encrypted by another key-encryption key")

func (e *Encryption) open(kid, fingerprint string, sealed []byte) ([]byte, error) {
	s := &e.first
	if fingerprint != s.fingerprint {
		if s = e.other; s == nil || fingerprint != s.fingerprint {
			return nil, fmt.Errorf("%w, with the fingerprint %s", errOtherKey, fingerprint)
		}
	}
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("its ciphertext is too short")
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(kid))
	if err != nil {
		return nil, errors.New("its ciphertext is not authentic: it was changed, or moved from another row")
	}
	return plain, nil
}

// generate creates a key that signs within a time.
func generate(algorithm string, e *Encryption, now, from, until time.Time) (iam.AssertionKey, error) {
	private, jwk, err := newKeyPair(algorithm)
	if err != nil {
		return iam.AssertionKey{}, err
	}
	public, err := json.Marshal(jwk)
	if err != nil {
		return iam.AssertionKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return iam.AssertionKey{}, err
	}
	defer clear(der)
	return iam.AssertionKey{
		ID:             jwk.KeyID,
		Algorithm:      algorithm,
		Public:         public,
		Sealed:         e.seal(jwk.KeyID, der),
		Proof:          e.seal(proofOf(jwk.KeyID), nil),
		SealedBy:       e.first.fingerprint,
		CreatedAt:      now,
		SignsFrom:      from,
		SignsUntil:     until,
		PublishedUntil: until.Add(afterLast),
	}, nil
}

// newKeyPair creates a key whose ID does not begin with "-", as one of 64 does: "assertion keys revoke" would take
// that for a flag.
func newKeyPair(algorithm string) (crypto.Signer, jose.JSONWebKey, error) {
	for {
		private, err := newPrivate(algorithm)
		if err != nil {
			return nil, jose.JSONWebKey{}, err
		}
		jwk := jose.JSONWebKey{Key: private.Public(), Algorithm: algorithm, Use: "sig"}
		if jwk.KeyID, err = thumbprint(jwk); err != nil || !strings.HasPrefix(jwk.KeyID, "-") {
			return private, jwk, err
		}
	}
}

func newPrivate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, fmt.Errorf("%q is no algorithm of assertions: %s are allowed", algorithm, strings.Join(Algorithms, " and "))
}

func thumbprint(jwk jose.JSONWebKey) (string, error) {
	sum, err := jwk.Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// proofOf is the additional data of a proof, which no private key has: it is no key id.
func proofOf(kid string) string { return "public " + kid }

// openKey decrypts a private key, and checks that it is the one of the row: of its public key, its id and its
// algorithm. Write access to the table without the key-encryption key does not suffice to replace a key.
func (e *Encryption) openKey(k *iam.AssertionKey) (crypto.Signer, error) {
	der, err := e.open(k.ID, k.SealedBy, k.Sealed)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("its plaintext is no private key")
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("its plaintext is no private key that signs")
	}
	public, err := e.publicKey(k)
	if err != nil {
		return nil, err
	}
	if same, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(public.Key) {
		return nil, errors.New("its private key is not the one of its public key")
	}
	return private, nil
}

// publicKey parses the public key of a row, and checks its proof: a key that was only inserted into the table must
// not be published.
func (e *Encryption) publicKey(k *iam.AssertionKey) (jose.JSONWebKey, error) {
	jwk, err := parsePublic(k)
	if err == nil {
		_, err = e.open(proofOf(k.ID), k.SealedBy, k.Proof)
	}
	return jwk, err
}

func parsePublic(k *iam.AssertionKey) (jose.JSONWebKey, error) {
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(k.Public); err != nil || !jwk.IsPublic() {
		return jwk, errors.New("its public key is no JWK of a public key")
	}
	fits := false
	switch public := jwk.Key.(type) {
	case *ecdsa.PublicKey:
		fits = k.Algorithm == "ES256" && public.Curve == elliptic.P256()
	case ed25519.PublicKey:
		fits = k.Algorithm == "EdDSA"
	}
	id, err := thumbprint(jwk)
	if err != nil || id != k.ID || jwk.KeyID != k.ID || jwk.Algorithm != k.Algorithm || !fits {
		return jwk, errors.New("its public key is not the one of its id and algorithm")
	}
	return jwk, nil
}

// reseal encrypts a key again, by the first key-encryption key; of one that is erased, its proof.
func (e *Encryption) reseal(k iam.AssertionKey) (iam.AssertionKey, error) {
	if _, err := e.publicKey(&k); err != nil {
		return k, err
	}
	if k.Sealed == nil {
		k.Proof, k.SealedBy = e.seal(proofOf(k.ID), nil), e.first.fingerprint
		return k, nil
	}
	der, err := e.open(k.ID, k.SealedBy, k.Sealed)
	if err != nil {
		return k, err
	}
	defer clear(der)
	k.Sealed, k.Proof, k.SealedBy = e.seal(k.ID, der), e.seal(proofOf(k.ID), nil), e.first.fingerprint
	return k, nil
}
