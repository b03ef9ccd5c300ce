package signals

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// keysWait is how long one SET waits for its issuer's keys.
const keysWait = 5 * time.Second

// Config of a Receiver.
type Config struct {
	Streams  []Stream
	Client   *http.Client // nil: token.NewClient
	MaxAge   time.Duration
	Log      *slog.Logger
	OnError  func(operation, reason string)           // of fetches of keys; may be nil
	KeyStore func(s *Stream) token.KeyStore           // of the keys of a stream, for a start while the transmitter is away; may be nil
	Now      func() time.Time                         // nil: time.Now
	Accepted func(stream string, o iam.SignalOutcome) // counts; may be nil
	Rejected func(stream string, r Reason)            // counts; may be nil
}

// Receiver verifies the SETs of all streams. It is safe for concurrent use.
type Receiver struct {
	cfg    Config
	byName map[string]*receiving
}

// receiving is one stream with its keys and its rate.
type receiving struct {
	*Stream
	verifier *token.Verifier
	limiter  *rate.Limiter
}

// Reason is why a SET was rejected. It is the label of a metric, so the set is closed.
type Reason string

// The reasons.
const (
	ReasonAuthentication Reason = "authentication" // the bearer secret
	ReasonRate           Reason = "rate"
	ReasonForm           Reason = "form" // no SET, or claims that SSF 1.0 forbids
	ReasonType           Reason = "type" // the header's typ
	ReasonKey            Reason = "key"
	ReasonSignature      Reason = "signature"
	ReasonIssuer         Reason = "issuer"
	ReasonAudience       Reason = "audience"
	ReasonTime           Reason = "time"    // iat: in the future, or too old
	ReasonSubject        Reason = "subject" // of an issuer that the stream does not reach
	ReasonState          Reason = "state"   // of a verification event
	ReasonKeys           Reason = "keys_unavailable"
	ReasonInternal       Reason = "internal" // it could not be handled now
)

// Reasons are all of them.
var Reasons = []Reason{
	ReasonAuthentication, ReasonRate, ReasonForm, ReasonType, ReasonKey, ReasonSignature, ReasonIssuer, ReasonAudience, ReasonTime, ReasonSubject, ReasonState,
	ReasonKeys, ReasonInternal,
}

// Codes of RFC 8935, section 2.4, and of SSF 1.0, section 11.
const (
	CodeInvalidRequest  = "invalid_request"
	CodeInvalidKey      = "invalid_key"
	CodeInvalidIssuer   = "invalid_issuer"
	CodeInvalidAudience = "invalid_audience"
	CodeAuthentication  = "authentication_failed"
	CodeAccessDenied    = "access_denied"
	CodeInvalidState    = "invalid_state"
)

// RejectionError is why a SET is not accepted. Its description is for the transmitter, and holds nothing of the SET.
type RejectionError struct {
	Reason      Reason
	Code        string // "err" of the response
	Description string
	Cause       error // for the log; may be nil
}

func (r *RejectionError) Error() string {
	if r.Cause != nil {
		return r.Description + ": " + r.Cause.Error()
	}
	return r.Description
}

// Unwrap returns the cause.
func (r *RejectionError) Unwrap() error { return r.Cause }

func reject(reason Reason, code, format string, args ...any) *RejectionError {
	return &RejectionError{Reason: reason, Code: code, Description: fmt.Sprintf(format, args...)}
}

// New returns a receiver that holds no keys yet: see KeepFresh.
func New(cfg Config) (*Receiver, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Accepted == nil {
		cfg.Accepted = func(string, iam.SignalOutcome) {}
	}
	if cfg.Rejected == nil {
		cfg.Rejected = func(string, Reason) {}
	}
	r := &Receiver{cfg: cfg, byName: map[string]*receiving{}}
	for i := range cfg.Streams {
		s := &cfg.Streams[i]
		verifier, err := s.Verifier(cfg)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, err)
		}
		r.byName[s.Name] = &receiving{s, verifier, rate.NewLimiter(rate.Limit(float64(s.PerMinute)/60), s.PerMinute)}
	}
	return r, nil
}

// Verifier returns a verifier of the stream's signatures. No other stream shares its keys.
func (s *Stream) Verifier(cfg Config) (*token.Verifier, error) {
	c := token.Config{
		Issuers: []token.Issuer{{
			URL:       s.Issuer,
			JWKSURI:   s.JWKSURI,
			Metadata:  token.TransmitterMetadata,
			Audiences: s.Audiences,
			Types:     []string{"secevent+jwt"}, // RFC 8417, section 2.3
		}},
		Client:  cfg.Client,
		MaxAge:  cfg.MaxAge,
		Wait:    keysWait,
		Entries: 1, // no token of it is cached
		Log:     cfg.Log,
		OnError: cfg.OnError,
	}
	if cfg.KeyStore != nil {
		c.KeyStore = cfg.KeyStore(s)
	}
	return token.New(c)
}

// KeepFresh fetches the keys of all streams, at once and again and again until ctx ends.
func (r *Receiver) KeepFresh(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range r.byName {
		all.Go(func() {
			// An absent transmitter stops no start: KeepFresh tries again, and so does the first SET.
			_ = s.verifier.Start(ctx, time.Now().Add(keysWait))
			s.verifier.KeepFresh(ctx)
		})
	}
	all.Wait()
}

// Close ends the fetches of keys that are in flight.
func (r *Receiver) Close() {
	for _, s := range r.byName {
		s.verifier.Close()
	}
}

// Streams are the configurations of all streams.
func (r *Receiver) Streams() []Stream { return r.cfg.Streams }

// KeyState is the state of the keys of a stream.
type KeyState struct {
	Stream string
	token.KeyState
}

// Keys returns the state of all streams' keys.
func (r *Receiver) Keys() []KeyState {
	states := make([]KeyState, len(r.cfg.Streams))
	for i := range r.cfg.Streams {
		name := r.cfg.Streams[i].Name
		states[i] = KeyState{name, r.byName[name].verifier.Keys()[0]}
	}
	return states
}

// Admit authenticates the transmitter of a stream by the bearer secret that it sent, and limits its rate. Of a stream
// that does not exist no caller learns that.
func (r *Receiver) Admit(stream, bearer string) *RejectionError {
	s := r.byName[stream]
	if s == nil {
		return reject(ReasonAuthentication, CodeAuthentication, "the bearer secret is not that of the stream")
	}
	sent, known := sha256.Sum256([]byte(bearer)), 0
	for _, secret := range s.secrets {
		want := sha256.Sum256(secret)
		known |= subtle.ConstantTimeCompare(sent[:], want[:])
	}
	if known != 1 {
		return reject(ReasonAuthentication, CodeAuthentication, "the bearer secret is not that of the stream")
	}
	if !s.limiter.AllowN(r.cfg.Now(), 1) {
		return reject(ReasonRate, CodeInvalidRequest, "more than %d SETs in a minute, as this replica counts them", s.PerMinute)
	}
	return nil
}

// Verify checks a SET of an admitted transmitter, and returns what it says. Its error is a *RejectionError, whose cause is of
// kind iam.Unavailable where the keys cannot be fetched now.
func (r *Receiver) Verify(ctx context.Context, stream, raw string) (iam.Signal, error) {
	s := r.byName[stream]
	claims, err := s.verifier.VerifySignature(ctx, raw, r.cfg.Now().Add(keysWait))
	if err != nil {
		return iam.Signal{}, rejectionOf(err)
	}
	signal, rejection := s.read(claims, r.cfg.Now())
	if rejection != nil {
		return iam.Signal{}, rejection
	}
	return signal, nil
}

// rejectionOf is the rejection for a signature that package token does not accept.
func rejectionOf(err error) *RejectionError {
	r := &RejectionError{Reason: ReasonForm, Code: CodeInvalidRequest, Description: "it is no signed SET (RFC 8417)", Cause: err}
	rejected := token.RejectionOf(err)
	if rejected == nil { // the keys are not known now
		r.Reason, r.Code, r.Description = ReasonKeys, "", "the transmitter's keys cannot be fetched now"
		return r
	}
	switch rejected.Reason {
	case token.Type:
		r.Reason, r.Description = ReasonType, `the header's typ must be secevent+jwt, and no extension is understood`
	case token.Untrusted:
		r.Reason, r.Code, r.Description = ReasonIssuer, CodeInvalidIssuer, "iss is not the issuer of the stream"
	case token.NoKey:
		r.Reason, r.Code, r.Description = ReasonKey, CodeInvalidKey, "alg must be RS256, ES256 or EdDSA, and kid a key of the issuer for it"
	case token.Signature:
		r.Reason, r.Code, r.Description = ReasonSignature, CodeInvalidKey, "the signature is not valid"
	default: // its form
	}
	return r
}

// Reach is the issuers whose users a stream reaches.
func (r *Receiver) Reach(stream string) []string {
	if s := r.byName[stream]; s != nil {
		return s.Users
	}
	return nil
}

// Handled counts what an accepted signal has led to.
func (r *Receiver) Handled(stream string, o iam.SignalOutcome) { r.cfg.Accepted(stream, o) }

// Label is the name of a stream in logs and metrics. Streams that do not exist are one: a caller chooses their names.
func (r *Receiver) Label(stream string) string {
	if r.byName[stream] == nil {
		return "unknown"
	}
	return stream
}

// Refused counts a rejection.
func (r *Receiver) Refused(stream string, err error) {
	reason := ReasonInternal
	if rejection, ok := errors.AsType[*RejectionError](err); ok {
		reason = rejection.Reason
	}
	r.cfg.Rejected(r.Label(stream), reason)
}
