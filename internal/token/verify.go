package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry/tracing"
)

func unavailable(code string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: "the token cannot be checked now", Cause: cause}
}

// request is one token to verify.
type request struct {
	raw      string            // without its "Bearer "
	idp      string            // the id of the issuer that the gateway named; empty: none
	sum      [sha256.Size]byte // of raw
	known    bool              // it was verified before
	now      time.Time
	deadline time.Time // of waiting for an issuer
}

// wait returns a context that ends at the deadline.
func (q request) wait(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, q.deadline.Sub(q.now))
}

// Verify checks raw, a token without its "Bearer ". Where idp is not empty, the
// issuer must be the one of that id. It waits for an issuer until deadline at
// most.
func (v *Verifier) Verify(ctx context.Context, raw, idp string, deadline time.Time) (*Token, error) {
	if len(raw) > maxTokenBytes {
		return nil, reject(Malformed, "", "%d bytes are more than %d", len(raw), maxTokenBytes)
	}
	now := v.cfg.now()
	var room [1024]byte // most tokens fit: no garbage
	sum := sha256.Sum256(append(room[:0], raw...))
	known, ok := v.cache.Get(sum)
	if ok && v.stillValid(known, now) {
		v.cache.Hit()
		return known, checkTime(known, idp, now)
	}
	v.cache.Miss()
	if left := now.Add(v.cfg.Wait); left.Before(deadline) {
		deadline = left
	}
	ctx, span := tracing.Start(ctx, "verify token")
	t, err := v.verify(ctx, request{raw: raw, idp: idp, sum: sum, known: ok, now: now, deadline: deadline})
	tracing.End(span, iam.CodeOf(err), err)
	if err != nil {
		return nil, err
	}
	if err := checkTime(t, idp, now); err != nil {
		return nil, err
	}
	v.cache.Add(sum, t)
	return t, nil
}

// verify verifies a token that is not cached.
func (v *Verifier) verify(ctx context.Context, q request) (*Token, error) {
	switch strings.Count(q.raw, ".") {
	case 2:
		return v.verifyJWT(ctx, q)
	case 4:
		return nil, reject(Malformed, "", "it is encrypted (JWE)")
	}
	return v.introspect(ctx, q)
}

func weightOf(raw string) int64 { return int64(len(raw))*weightFactor + 500 }

// stillValid reports whether what was verified once needs no new verification:
// the key is still among its issuer's, or the introspection is young.
func (v *Verifier) stillValid(t *Token, now time.Time) bool {
	if t.signedBy == nil {
		return now.Before(t.until)
	}
	return v.issuers[t.Issuer].stillHasKey(t, now)
}

// checkTime runs on every request, also for cached tokens.
func checkTime(t *Token, idp string, now time.Time) error {
	switch {
	case !now.Before(t.Expires):
		return reject(Expired, t.Issuer, "it expired at %s", t.Expires.UTC().Format(time.RFC3339))
	case now.Add(skew).Before(t.notBefore):
		return reject(Early, t.Issuer, "it is not valid before %s", t.notBefore.UTC().Format(time.RFC3339))
	case idp != "" && idp != t.issuerID:
		return reject(Untrusted, t.Issuer, "its issuer is not %q, which the gateway named", idp)
	}
	return nil
}

// verifyJWT checks form, key, signature and claims, in this order.
func (v *Verifier) verifyJWT(ctx context.Context, q request) (*Token, error) {
	s, err := v.verifySignature(ctx, q)
	if err != nil {
		return nil, err
	}
	t, err := s.from.token(s.claims, q.now, v.audience)
	if err != nil {
		return nil, err
	}
	t.signedBy, t.weight = s.by, weightOf(q.raw)
	return t, nil
}

// signed is a JWT whose signature is its issuer's.
type signed struct {
	from   *issuer
	by     *signingKey
	claims jwt.MapClaims
}

// verifySignature checks form, issuer, typ, key and signature, and no claim but iss.
func (v *Verifier) verifySignature(ctx context.Context, q request) (s signed, err error) {
	var stop error // what the key function found; the parser would hide its kind
	var claims payload
	_, err = v.parser.ParseWithClaims(q.raw, &claims, func(t *jwt.Token) (any, error) {
		s.from, s.by, stop = v.keyFor(ctx, t, claims.MapClaims, q)
		if stop != nil {
			return nil, stop
		}
		return s.by.public, nil
	})
	switch {
	case stop != nil:
		return s, stop
	case errors.Is(err, jwt.ErrTokenMalformed):
		return s, reject(Malformed, "", "%w", err)
	case err != nil && s.from == nil:
		return s, reject(NoKey, "", "%w", err)
	case err != nil:
		return s, s.from.reject(Signature, "%w", err)
	}
	s.claims = claims.MapClaims
	return s, nil
}

// VerifySignature checks a JWT of another kind than access tokens, by its issuer's Types: form, issuer, typ, key and
// signature. It returns the claims, with numbers as json.Number. All claims but iss are the caller's to check. It
// waits for an issuer's keys until deadline at most, caches nothing, and its errors are those of Verify.
func (v *Verifier) VerifySignature(ctx context.Context, raw string, deadline time.Time) (map[string]any, error) {
	now := v.cfg.now()
	if left := now.Add(v.cfg.Wait); left.Before(deadline) {
		deadline = left
	}
	if strings.Count(raw, ".") != 2 {
		return nil, reject(Malformed, "", "it is no signed JWT")
	}
	s, err := v.verifySignature(ctx, request{raw: raw, now: now, deadline: deadline})
	if err != nil {
		return nil, err
	}
	return s.claims, nil
}

// keyFor chooses the key by the header and the issuer, neither trusted yet.
func (v *Verifier) keyFor(ctx context.Context, t *jwt.Token, claims jwt.MapClaims, q request) (*issuer, *signingKey, error) {
	iss, _ := claims["iss"].(string) // another type is no trusted issuer
	is := v.issuers[iss]
	if is == nil {
		return nil, nil, reject(Untrusted, "", "its issuer is not trusted")
	}
	typ, _ := t.Header["typ"].(string) // absent is not accepted
	if !slices.Contains(is.Types, strings.TrimPrefix(strings.ToLower(typ), "application/")) {
		return nil, nil, is.reject(Type, "its header typ is none of %v", is.Types)
	}
	for _, h := range []string{"crit", "zip", "b64"} { // we understand no extension (RFC 7515, section 4.1.11)
		if _, there := t.Header[h]; there {
			return nil, nil, is.reject(Type, "header %q is not accepted", h)
		}
	}
	kid, ok := t.Header["kid"].(string)
	if !ok || kid == "" || len(kid) > 255 {
		return nil, nil, is.reject(NoKey, "no usable kid")
	}
	k, err := is.key(ctx, kid, q)
	if err != nil {
		return nil, nil, err
	}
	if k.alg != t.Method.Alg() {
		return nil, nil, is.reject(NoKey, "alg %s does not fit the key, which is for %s", t.Method.Alg(), k.alg)
	}
	return is, k, nil
}

// payload is the claims of a JWT, with numbers as they are written. The parser decodes it by json.Unmarshal, which finds
// that header and claims are one JSON value each before it calls UnmarshalJSON: what another program reads of what
// follows a value is unknown. The parser's own way to keep numbers stops at the end of the first value.
type payload struct{ jwt.MapClaims }

// UnmarshalJSON reads one valid JSON value, which must be an object. Of a name that is there twice, the last one counts
// (RFC 7519, section 4). It decodes into an interface, which takes half of the time of a named map.
func (p *payload) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return err
	}
	claims, ok := value.(map[string]any)
	if !ok {
		return errors.New("the claims are no JSON object")
	}
	p.MapClaims = claims
	return nil
}
