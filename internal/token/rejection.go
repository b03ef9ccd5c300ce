package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"iam-service/internal/iam"
)

// Reason is why a token was rejected. It is the label of a metric, so the set is closed.
type Reason string

// The reasons. Whether it is one for the caller (a new token helps) or for the operator (a
// setting does not fit what the issuer issues) is up to the reader: each can be both.
const (
	Malformed Reason = "malformed" // neither a JWT nor an opaque token, or claims of an impossible form
	Untrusted Reason = "issuer"    // its issuer is not trusted, or not the one that the gateway named
	Type      Reason = "type"      // another kind of token, by its header or its claims
	NoKey     Reason = "key"       // its issuer has no such key, or the key is for another algorithm
	Signature Reason = "signature"
	Audience  Reason = "audience"
	Party     Reason = "party" // issued to a client that is not among the authorized parties
	Expired   Reason = "expired"
	Early     Reason = "early"    // issued, or valid from, later than now
	Bound     Reason = "bound"    // to a key (cnf)
	Inactive  Reason = "inactive" // by introspection
	Revoked   Reason = "revoked"  // tokens_not_before
	ByClient  Reason = "client"   // its client is blocked or deleted
)

// Reasons are all of them.
var Reasons = []Reason{Malformed, Untrusted, Type, NoKey, Signature, Audience, Party, Expired, Early, Bound, Inactive, Revoked, ByClient}

// RejectionError is the cause of an Unauthenticated error about a token. It holds nothing that who
// made the token up could choose: it is logged.
type RejectionError struct {
	Reason Reason
	Issuer string // a trusted one; empty where none is known
	cause  error
}

func (r *RejectionError) Error() string { return r.cause.Error() }

// Unwrap returns what was found.
func (r *RejectionError) Unwrap() error { return r.cause }

// RejectionOf returns the rejection that err is about; nil where it is about none.
func RejectionOf(err error) *RejectionError {
	r, _ := errors.AsType[*RejectionError](err)
	return r
}

// Reject is the error for a verified token that is rejected by what is known of its subject or
// its client. The caller of the service learns the code as little as any other detail.
func (t *Token) Reject(reason Reason, code string) error {
	return &iam.Error{Kind: iam.Unauthenticated, Code: code, Detail: "the token is not valid", Cause: &RejectionError{reason, t.Issuer, errors.New(code)}}
}

func reject(reason Reason, issuer, format string, args ...any) error {
	return &iam.Error{Kind: iam.Unauthenticated, Code: "invalid_token", Detail: "the token is not valid", Cause: &RejectionError{reason, issuer, fmt.Errorf(format, args...)}}
}

// reject is reject for a token that names this issuer.
func (is *issuer) reject(reason Reason, format string, args ...any) error {
	return reject(reason, is.URL, format, args...)
}

// rejections limits the lines about rejected tokens, which any client can cause: one a second for
// each reason. The zero value is ready.
type rejections struct {
	mu         sync.Mutex
	next       map[Reason]time.Time
	suppressed map[Reason]int // since the last line
}

// Rejected counts the rejection that err is about, if it is about one, and logs it with attrs. What
// exactly is wrong is left to the caller that logs each one.
func (v *Verifier) Rejected(ctx context.Context, err error, attrs ...slog.Attr) {
	r := RejectionOf(err)
	if r == nil {
		return
	}
	v.cfg.OnRejected(r.Reason)
	l, now := v.rejections, v.cfg.now()
	l.mu.Lock()
	if l.next == nil {
		l.next, l.suppressed = map[Reason]time.Time{}, map[Reason]int{}
	}
	l.suppressed[r.Reason]++
	n := l.suppressed[r.Reason]
	due := !now.Before(l.next[r.Reason])
	if due {
		l.next[r.Reason], l.suppressed[r.Reason] = now.Add(time.Second), 0
	}
	l.mu.Unlock()
	if due {
		v.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "token rejected", append(attrs, slog.String("reason", string(r.Reason)), slog.String("issuer", r.Issuer),
			slog.Int("count", n))...)
	}
}
