// Package signals receives security event tokens (SET, RFC 8417) that a transmitter of the Shared Signals Framework 1.0
// pushes (RFC 8935): it verifies them, and reads what they say about which user.
//
// It owns the configuration of streams, the authentication of their transmitters, every check on a SET, and the event
// types of CAEP 1.0 and RISC 1.0 with their usual effects. It does not know users, HTTP, or how an effect comes about:
// its result is an iam.Signal.
//
// Each stream verifies with a verifier of package token of its own: no key of one transmitter signs for another stream.
//
//	bearer secret ─▶ rate ─▶ form, iss, typ, key, signature ─▶ aud, iat, jti, no exp, no sub ─▶ events, subject ─▶ iam.Signal
//	      │                            └──────────── a RejectionError: 400 with a code of RFC 8935 ────────────┘
//	      └── authentication_failed
package signals

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"iam-service/internal/iam"
)

// Limits of streams.
const (
	MaxAge         = 30 * 24 * time.Hour // longest that max_age can be: ids of signals are stored for longer
	defaultAge     = 24 * time.Hour
	defaultRate    = 600
	maxStreams     = 50
	maxStateBytes  = 1024
	minSecretBytes = 32
)

// Opaque is what the id of an opaque subject (RFC 9493, section 3.2.6) is.
type Opaque string

// What it can be.
const (
	OpaqueSubject Opaque = "subject" // "sub" of the tokens of the stream's first issuer of users
	OpaqueUser    Opaque = "user"    // our id of a user
	OpaqueNone    Opaque = "none"    // nothing that is known here, such as the id of a session
)

// Stream is one stream of signals.
type Stream struct {
	Name        string
	Issuer      string   // "iss" of its SETs, byte by byte
	JWKSURI     string   // of the transmitter's keys; empty: its configuration document names it
	Audiences   []string // one of them must be in "aud"
	StreamID    string   // the transmitter's; empty: any
	Users       []string // issuers whose users it reaches; opaque subjects are of the first one
	Opaque      Opaque
	Effects     map[string]iam.SignalEffect // by URI of the event type
	MaxAge      time.Duration               // of a SET, by its iat
	SilentAfter time.Duration               // without a SET it counts as silent; 0: never
	PerMinute   int                         // SETs at this replica
	Management  Management

	secrets [][]byte
}

// file is the content of SIGNALS_FILE.
type file struct {
	Streams []entry `json:"streams"`
}

type entry struct {
	Name        string            `json:"name"`
	Issuer      string            `json:"issuer"`
	JWKSURI     string            `json:"jwks_uri"`
	Audiences   []string          `json:"audiences"`
	StreamID    string            `json:"stream_id"`
	SecretFile  string            `json:"secret_file"`
	SecretEnv   string            `json:"secret_env"`
	Users       []string          `json:"users"`
	Opaque      string            `json:"opaque"`
	Events      map[string]string `json:"events"`
	MaxAge      string            `json:"max_age"`
	SilentAfter string            `json:"silent_after"`
	PerMinute   int               `json:"per_minute"`
	Management  struct {
		TokenFile   string `json:"token_file"`
		EndpointURL string `json:"endpoint_url"`
	} `json:"management"`
}

// Sources are what the content of a file of streams refers to.
type Sources struct {
	Issuers  iam.Issuers              // that are trusted: users of others do not exist
	Env      func(name string) string // of the process
	ReadFile func(name string) ([]byte, error)
	BadURL   func(u string) string // what is wrong with the URL of an issuer; "": nothing
}

var (
	nameShape   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	secretShape = regexp.MustCompile(`^[!-+.-~-]{32,512}$`) // printable ASCII without blanks and commas
)

// Parse reads streams from YAML or JSON. The faults are all that is wrong, each with the place of the field.
func Parse(content []byte, from Sources) (streams []Stream, faults []string) {
	var f file
	if err := yaml.UnmarshalStrict(content, &f); err != nil {
		return nil, []string{"is not the YAML or JSON that is wanted: " + strings.Join(strings.Fields(err.Error()), " ")}
	}
	if len(f.Streams) == 0 || len(f.Streams) > maxStreams {
		return nil, []string{fmt.Sprintf("streams: 1 to %d are allowed, there are %d", maxStreams, len(f.Streams))}
	}
	names := map[string]bool{}
	for i, e := range f.Streams {
		p := parser{entry: e, from: from, at: fmt.Sprintf("streams[%d]", i)}
		if names[e.Name] {
			p.fault("name", "%q is there twice", e.Name)
		}
		names[e.Name] = true
		streams = append(streams, p.stream())
		faults = append(faults, p.faults...)
	}
	return streams, faults
}

// parser reads one entry.
type parser struct {
	entry
	from   Sources
	at     string
	faults []string
}

func (p *parser) fault(field, format string, args ...any) {
	p.faults = append(p.faults, p.at+"."+field+": "+fmt.Sprintf(format, args...))
}

func (p *parser) stream() Stream {
	s := Stream{
		Name: p.Name, Issuer: p.Issuer, JWKSURI: p.JWKSURI, Audiences: p.Audiences, StreamID: p.StreamID, Users: p.Users,
		Opaque:      cmp.Or(Opaque(p.Opaque), OpaqueSubject),
		Effects:     maps.Clone(defaults),
		MaxAge:      p.duration("max_age", p.MaxAge, defaultAge, MaxAge),
		SilentAfter: p.duration("silent_after", p.SilentAfter, 0, 0),
		PerMinute:   cmp.Or(p.PerMinute, defaultRate),
		Management:  Management(p.Management),
		secrets:     p.secret(),
	}
	if !nameShape.MatchString(s.Name) || s.Name == "unknown" {
		p.fault("name", "must be 1 to 64 of a-z, 0-9, _ and -, and not unknown, which is every stream that does not exist; is %q", s.Name)
	}
	if why := p.from.BadURL(s.Issuer); why != "" {
		p.fault("issuer", "%s", why)
	}
	if s.JWKSURI != "" {
		if why := p.from.BadURL(s.JWKSURI); why != "" {
			p.fault("jwks_uri", "%s", why)
		}
	}
	if e := s.Management.EndpointURL; e != "" {
		if why := p.from.BadURL(e); why != "" {
			p.fault("management.endpoint_url", "%s", why)
		}
	}
	if len(s.Audiences) == 0 {
		p.fault("audiences", "is missing: a SET for another receiver must not have an effect here")
	}
	if s.Opaque != OpaqueSubject && s.Opaque != OpaqueUser && s.Opaque != OpaqueNone {
		p.fault("opaque", "must be subject, user or none, is %q", p.Opaque)
	}
	if s.PerMinute < 1 {
		p.fault("per_minute", "must be more than 0, is %d", s.PerMinute)
	}
	p.users(&s)
	p.effects(s.Effects)
	return s
}

// users are the issuers whose users the stream reaches: the transmitter's own, unless the entry names them.
func (p *parser) users(s *Stream) {
	if len(s.Users) == 0 {
		if _, trusted := p.from.Issuers.Find(s.Issuer); !trusted {
			p.fault("users", "is missing: %s is no trusted issuer of tokens, so say whose users its signals reach", s.Issuer)
		}
		s.Users = []string{s.Issuer}
	}
	for _, u := range p.Users {
		if _, trusted := p.from.Issuers.Find(u); !trusted {
			p.fault("users", "%q is none of the trusted issuers (RAUTH_URL, TRUSTED_ISSUERS)", u)
		}
	}
}

func (p *parser) effects(of map[string]iam.SignalEffect) {
	for _, name := range slices.Sorted(maps.Keys(p.Events)) {
		effect, uri := iam.SignalEffect(p.Events[name]), name
		for known := range defaults {
			if nameOf(known) == name {
				uri = known
			}
		}
		switch {
		case !strings.Contains(uri, ":"):
			p.fault("events", "%q is no event type: a URI, or one of %s", name, strings.Join(knownNames(), ", "))
		case uri == typeVerification || uri == typeStreamUpdated:
			p.fault("events", "%s is about the stream, and about no user", name)
		case !slices.Contains(iam.SignalEffects, effect):
			p.fault("events", "%s: must be revoke, block, unblock, erase or none, is %q", name, effect)
		}
		of[uri] = effect
	}
}

func (p *parser) duration(field, text string, otherwise, most time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		p.fault(field, "must be a duration such as 24h, is %q", text)
	case d < time.Minute || most > 0 && d > most:
		p.fault(field, "must be 1m or more%s, is %s", map[bool]string{true: fmt.Sprintf(" and at most %s", most), false: ""}[most > 0], d)
	}
	return d
}

// secret reads what the transmitter must send: one secret, or two, comma-separated, while it is changed.
func (p *parser) secret() [][]byte {
	var text string
	switch {
	case (p.SecretFile == "") == (p.SecretEnv == ""):
		p.fault("secret_file", "set secret_file or secret_env: the file, or the environment variable, with the bearer secret that the transmitter sends")
		return nil
	case p.SecretEnv != "":
		text = p.from.Env(p.SecretEnv)
	default:
		b, err := p.from.ReadFile(p.SecretFile)
		if err != nil {
			p.fault("secret_file", "cannot be read: %v", err)
			return nil
		}
		text = string(b)
	}
	secrets := strings.Split(strings.TrimSpace(text), ",")
	if len(secrets) > 2 {
		p.fault("secret", "must be one secret, or two while it is changed, are %d", len(secrets))
		return nil
	}
	var all [][]byte
	for _, s := range secrets {
		if !secretShape.MatchString(s) {
			p.fault("secret", "must be %d to 512 printable ASCII characters without blanks and commas, each of the two while it is changed", minSecretBytes)
			return nil
		}
		all = append(all, []byte(s))
	}
	return all
}
