package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Key verifies bundles: one public key, or several of which any is accepted, so that keys can be rotated.
type Key struct{ all []publicKey }

type publicKey struct{ pem, algorithm string }

// keyID is the key's name in signatures by our own tools. Verification with a single key ignores the name.
const keyID = "iam"

// ParseKey reads the PEM of one or more public keys.
func ParseKey(text []byte) (*Key, error) {
	k := &Key{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, errors.New("it must be the PEM of a public key (BEGIN PUBLIC KEY)")
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		algorithm, err := SigningAlgorithm(public)
		if err != nil {
			return nil, err
		}
		k.all = append(k.all, publicKey{string(pem.EncodeToMemory(block)), algorithm})
	}
	if len(k.all) == 0 || len(bytes.TrimSpace(text)) > 0 {
		return nil, errors.New("it must be the PEM of a public key (BEGIN PUBLIC KEY)")
	}
	return k, nil
}

// SigningAlgorithm returns the algorithm of a public key (RFC 7518, section 3.1). HMAC is
// not supported: every verifier could sign.
func SigningAlgorithm(public any) (string, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ES256", nil
		case elliptic.P384():
			return "ES384", nil
		case elliptic.P521():
			return "ES512", nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return "RS256", nil
		}
	}
	return "", errors.New("the key must be of the curve P-256, P-384 or P-521, or RSA of 2048 bits or more")
}

// Verify calls read with each key until one succeeds, and returns the last error.
func (k *Key) Verify(read func(*bundle.VerificationConfig) error) (err error) {
	for _, one := range k.all {
		if err = read(bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{keyID: {Key: one.pem, Algorithm: one.algorithm}}, keyID, "", nil)); err == nil {
			return nil
		}
	}
	return err
}
