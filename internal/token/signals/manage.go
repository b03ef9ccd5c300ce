package signals

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"iam-service/internal/token"
)

// Management is how the stream is managed at its transmitter (SSF 1.0, section 8.1).
type Management struct {
	TokenFile   string // with the bearer token for the transmitter's API; it is read for each request
	EndpointURL string // where the transmitter pushes to
}

// Transmitter is the stream management API of a stream's transmitter.
type Transmitter struct {
	stream *Stream
	http   *http.Client
	doc    TransmitterDoc
}

// TransmitterDoc is the configuration metadata of a transmitter (SSF 1.0, section 7.1), as far as it is used.
type TransmitterDoc struct {
	Issuer                string   `json:"issuer"`
	DeliveryMethods       []string `json:"delivery_methods_supported"`
	ConfigurationEndpoint string   `json:"configuration_endpoint"`
	StatusEndpoint        string   `json:"status_endpoint"`
	VerificationEndpoint  string   `json:"verification_endpoint"`
}

// StreamConfig is the configuration of a stream (section 8.1.1), as far as it is used.
type StreamConfig struct {
	ID              string   `json:"stream_id,omitempty"`
	Issuer          string   `json:"iss,omitempty"`
	Audience        any      `json:"aud,omitempty"` // a text, or a list
	EventsRequested []string `json:"events_requested,omitempty"`
	EventsDelivered []string `json:"events_delivered,omitempty"`
	Delivery        delivery `json:"delivery"`
	Description     string   `json:"description,omitempty"`
}

type delivery struct {
	Method        string `json:"method"`
	EndpointURL   string `json:"endpoint_url"`
	Authorization string `json:"authorization_header,omitempty"`
}

// StreamStatus is the status of a stream (section 8.1.2).
type StreamStatus struct {
	ID     string `json:"stream_id"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

const (
	pushMethod     = "urn:ietf:rfc:8935"
	maxManagement  = 1 << 20 // bytes of a response
	ssfWellKnown   = "/.well-known/ssf-configuration"
	maxErrorExcerp = 300 // bytes of a response that an error shows
)

// ErrStreamExists means that the transmitter has a stream for this receiver and allows no other one.
var ErrStreamExists = errors.New("the transmitter has a stream for this receiver already: read its id there, set stream_id, or delete it")

// OpenTransmitter reads the configuration metadata of a stream's transmitter. client may be nil.
func OpenTransmitter(ctx context.Context, s *Stream, client *http.Client) (*Transmitter, error) {
	if s.Management.TokenFile == "" {
		return nil, fmt.Errorf("stream %s: management.token_file is missing in SIGNALS_FILE", s.Name)
	}
	if client == nil {
		client = token.NewClient()
	}
	t := &Transmitter{stream: s, http: client}
	u, err := url.Parse(s.Issuer)
	if err != nil {
		return nil, err
	}
	u.Path = ssfWellKnown + strings.TrimSuffix(u.Path, "/") // section 7.2
	if err := t.call(ctx, request{method: http.MethodGet, url: u.String(), public: true}, &t.doc); err != nil {
		return nil, err
	}
	if t.doc.Issuer != s.Issuer {
		return nil, &token.WrongIssuerError{Want: s.Issuer, Got: t.doc.Issuer}
	}
	return t, nil
}

// Register creates the stream, by push to the endpoint of the stream, with the event types that have an effect here.
func (t *Transmitter) Register(ctx context.Context) (c StreamConfig, err error) {
	s := t.stream
	if s.Management.EndpointURL == "" {
		return c, fmt.Errorf("stream %s: management.endpoint_url is missing in SIGNALS_FILE", s.Name)
	}
	if len(t.doc.DeliveryMethods) > 0 && !slices.Contains(t.doc.DeliveryMethods, pushMethod) {
		return c, fmt.Errorf("the transmitter does not push (%s): it supports %s", pushMethod, strings.Join(t.doc.DeliveryMethods, ", "))
	}
	wanted := StreamConfig{
		EventsRequested: s.RequestedEvents(),
		Delivery:        delivery{Method: pushMethod, EndpointURL: s.Management.EndpointURL, Authorization: "Bearer " + string(s.secrets[0])},
		Description:     "iam-service, stream " + s.Name,
	}
	err = t.call(ctx, request{method: http.MethodPost, name: "configuration_endpoint", url: t.doc.ConfigurationEndpoint, body: wanted}, &c)
	if failed, ok := errors.AsType[*token.StatusError](err); ok && failed.Status == http.StatusConflict {
		return c, ErrStreamExists
	}
	if err != nil {
		return c, err
	}
	switch {
	case c.Issuer != s.Issuer: // section 8.1.1.1: the receiver must check it
		return c, fmt.Errorf("the stream is of the issuer %q, not %q", c.Issuer, s.Issuer)
	case !s.isFor(c.Audience):
		return c, fmt.Errorf("the stream's aud is %v, which audiences of the stream %s does not list: add it to SIGNALS_FILE, and restart", c.Audience, s.Name)
	}
	return c, nil
}

// Verify asks for a verification event with a state (section 8.1.4.2).
func (t *Transmitter) Verify(ctx context.Context, state string) error {
	body := map[string]string{"stream_id": t.stream.StreamID, "state": state}
	return t.call(ctx, request{method: http.MethodPost, name: "verification_endpoint", url: t.doc.VerificationEndpoint, body: body, ofStream: true}, nil)
}

// Status returns the status of the stream (section 8.1.2.1).
func (t *Transmitter) Status(ctx context.Context) (s StreamStatus, err error) {
	u := t.doc.StatusEndpoint
	if u != "" {
		u += "?stream_id=" + url.QueryEscape(t.stream.StreamID)
	}
	return s, t.call(ctx, request{method: http.MethodGet, name: "status_endpoint", url: u, ofStream: true}, &s)
}

// request is one request to the transmitter.
type request struct {
	method, url string
	name        string // of the endpoint, in the metadata
	body        any
	public      bool // without a token
	ofStream    bool // it names the stream
}

func (t *Transmitter) call(ctx context.Context, q request, into any) error {
	switch {
	case q.url == "":
		return fmt.Errorf("the transmitter %s has no %s: it does not support this", t.stream.Issuer, q.name)
	case q.ofStream && t.stream.StreamID == "":
		return fmt.Errorf("stream %s: stream_id is missing in SIGNALS_FILE", t.stream.Name)
	}
	var body io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !q.public {
		bearer, err := os.ReadFile(t.stream.Management.TokenFile)
		if err != nil {
			return fmt.Errorf("management.token_file: %w", err)
		}
		if own, err := url.Parse(t.stream.Issuer); err != nil || req.URL.Scheme != "https" && (own.Scheme != "http" || own.Hostname() != req.URL.Hostname()) {
			return fmt.Errorf("the transmitter's %s is no https URL", q.name) // the token must not travel in clear
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(bearer)))
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxManagement))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%w: %s", &token.StatusError{URL: req.URL.Redacted(), Status: resp.StatusCode}, token.Hide(string(content[:min(len(content), maxErrorExcerp)])))
	}
	if into == nil {
		return nil
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "application/json" {
		return fmt.Errorf("%s responded with %q instead of JSON", req.URL.Redacted(), kind)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", req.URL.Redacted(), err)
	}
	return nil
}
