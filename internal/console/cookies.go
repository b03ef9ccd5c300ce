package console

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"time"
)

// sealer encrypts with AES-256-GCM under keys that are derived from CONSOLE_KEY (HKDF, RFC 5869). The first key seals; all
// open, so that a key can be replaced while sessions go on.
type sealer struct{ keys [][]byte }

// purposes separate the keys: what was sealed for one purpose opens for no other.
const (
	forSession = "iam-service console session cookie v1"
	forLogin   = "iam-service console login cookie v1"
	forRow     = "iam-service console session row v1"
)

var errNotOurs = errors.New("it was not sealed with one of CONSOLE_KEY, or has been changed")

func newSealer(keys [][]byte) (sealer, error) {
	if len(keys) == 0 {
		return sealer{}, errors.New("CONSOLE_KEY is missing")
	}
	return sealer{keys}, nil
}

// use is what is sealed for: the purpose, what is added to the key, and what is authenticated with the text.
type use struct {
	purpose string
	salt    []byte // the secret of a cookie
	data    []byte // additional data
}

func aead(key []byte, u use) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key, u.salt, u.purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s sealer) seal(u use, text []byte) ([]byte, error) {
	a, err := aead(s.keys[0], u)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, text, u.data), nil //nolint:gosec // the AEAD adds a random nonce
}

func (s sealer) open(u use, sealed []byte) ([]byte, error) {
	for _, key := range s.keys {
		a, err := aead(key, u)
		if err != nil {
			return nil, err
		}
		if text, err := a.Open(nil, nil, sealed, u.data); err == nil {
			return text, nil
		}
	}
	return nil, errNotOurs
}

// strict: another text never decodes to the same cookie.
var strict = base64.RawURLEncoding.Strict()

// setCookie sets a cookie that scripts cannot read, for the external path of the console.
func (c *Console) setCookie(w http.ResponseWriter, name, value string, site http.SameSite, lifetime time.Duration) {
	k := http.Cookie{Name: name, Value: value, SameSite: site, Path: c.cookiePath, HttpOnly: true, Secure: c.cookie != "iam-console", MaxAge: int(lifetime.Seconds())} //nolint:gosec // Secure, unless CONSOLE_URL is http
	if lifetime <= 0 {
		k.MaxAge = -1
	}
	http.SetCookie(w, &k)
}

// sealed opens the cookie of a request.
func (c *Console) sealed(r *http.Request, name, purpose string) ([]byte, error) {
	k, err := r.Cookie(name)
	if err != nil {
		return nil, err
	}
	b, err := strict.DecodeString(k.Value)
	if err != nil {
		return nil, errNotOurs
	}
	return c.sealer.open(use{purpose: purpose, data: []byte(c.cfg.URL)}, b)
}

// sealCookie is the value of a cookie. The console's URL is authenticated: another console's cookie is invalid here.
func (c *Console) sealCookie(purpose string, text []byte) (string, error) {
	b, err := c.sealer.seal(use{purpose: purpose, data: []byte(c.cfg.URL)}, text)
	return strict.EncodeToString(b), err
}
