package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// discover requests the metadata of the issuer. Of one whose keys have a known URL it makes the document up.
func (is *issuer) discover(ctx context.Context) ([]byte, error) {
	switch {
	case is.JWKSURI != "":
		return json.Marshal(discoveryDoc{Issuer: is.URL, JWKSURI: is.JWKSURI})
	case is.Metadata == TransmitterMetadata:
		return is.discoverTransmitter(ctx)
	}
	return is.discoverProvider(ctx)
}

// discoverProvider requests OpenID Connect Discovery 1.0, section 4, and where that is
// 404 for RFC 8414.
func (is *issuer) discoverProvider(ctx context.Context) ([]byte, error) {
	return is.firstOf(ctx, strings.TrimSuffix(is.URL, "/")+"/.well-known/openid-configuration", "oauth-authorization-server")
}

// discoverTransmitter requests the transmitter's configuration (Shared Signals Framework 1.0, section 7.2), and where
// that is 404 the one of older RISC transmitters (section 7.2.2).
func (is *issuer) discoverTransmitter(ctx context.Context) ([]byte, error) {
	u, err := wellKnown(is.URL, "ssf-configuration")
	if err != nil {
		return nil, err
	}
	return is.firstOf(ctx, u, "risc-configuration")
}

// firstOf requests a document, and where that is 404 the well-known document of another name.
func (is *issuer) firstOf(ctx context.Context, document, otherwise string) ([]byte, error) {
	b, err := is.v.get(ctx, "discovery", document)
	var status *StatusError
	if err == nil || !errors.As(err, &status) || status.Status != http.StatusNotFound {
		return b, err
	}
	u, perr := wellKnown(is.URL, otherwise)
	if perr != nil {
		return nil, perr
	}
	b, err = is.v.get(ctx, "discovery", u)
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		is.v.cfg.OnError("discovery", "bad_response") // now it is one: neither document is there
	}
	return b, err
}

// wellKnown inserts a well-known name between the host and the path of an issuer (RFC 8414, section 3.1).
func wellKnown(issuerURL, name string) (string, error) {
	u, err := url.Parse(issuerURL)
	if err != nil {
		return "", err
	}
	u.Path = "/.well-known/" + name + strings.TrimSuffix(u.Path, "/")
	return u.String(), nil
}

type discoveryDoc struct {
	Issuer                string `json:"issuer"`
	JWKSURI               string `json:"jwks_uri"`
	IntrospectionEndpoint string `json:"introspection_endpoint,omitempty"`
	TokenEndpoint         string `json:"token_endpoint,omitempty"`
}

// WrongIssuerError means that a discovery document names another issuer:
// RFC 8414, section 3.3, and OpenID Connect Discovery, section 4.3, demand that
// it is not used.
type WrongIssuerError struct{ Want, Got string }

func (e *WrongIssuerError) Error() string {
	return fmt.Sprintf("its discovery document says it is %q, not %q", e.Got, e.Want)
}

func parseDiscovery(b []byte, issuerURL string) (discoveryDoc, error) {
	var doc discoveryDoc
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, fmt.Errorf("discovery of %s: %w", issuerURL, err)
	}
	if doc.Issuer != issuerURL {
		return doc, &WrongIssuerError{Want: issuerURL, Got: doc.Issuer}
	}
	own, err := url.Parse(issuerURL)
	if err != nil {
		return doc, fmt.Errorf("discovery of %s: %w", issuerURL, err)
	}
	for name, endpoint := range map[string]string{"jwks_uri": doc.JWKSURI, "introspection_endpoint": doc.IntrospectionEndpoint, "token_endpoint": doc.TokenEndpoint} {
		if endpoint == "" && name != "jwks_uri" {
			continue
		}
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || own.Scheme != "http" || u.Hostname() != own.Hostname()) {
			// Plain http was allowed for the issuer's own host, if at all.
			return doc, fmt.Errorf("discovery of %s: %s is no https URL", issuerURL, name)
		}
	}
	return doc, nil
}

// StatusError is a response without success.
type StatusError struct {
	URL    string
	Status int
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s responded %d", e.URL, e.Status) }

func (v *Verifier) get(ctx context.Context, operation, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	return v.do(operation, req)
}

// do returns the body of a 200 in JSON, and counts every failure.
func (v *Verifier) do(operation string, req *http.Request) ([]byte, error) {
	resp, err := v.cfg.Client.Do(req)
	if err != nil {
		if !errors.Is(req.Context().Err(), context.Canceled) { // a canceled caller is no failure of the issuer
			v.cfg.OnError(operation, reasonOf(err))
		}
		return nil, err
	}
	defer resp.Body.Close()
	where := req.URL.Redacted()
	if resp.StatusCode != http.StatusOK {
		if operation != "discovery" || resp.StatusCode != http.StatusNotFound { // see discover
			v.cfg.OnError(operation, reasonOfStatus(resp.StatusCode))
		}
		return nil, &StatusError{where, resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocumentBytes+1))
	if err != nil {
		v.cfg.OnError(operation, reasonOf(err))
		return nil, fmt.Errorf("read %s: %w", where, err)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // not one: ""
	if len(body) > maxDocumentBytes || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		v.cfg.OnError(operation, "bad_response")
		return nil, fmt.Errorf("%s: %d bytes of %q are not the JSON that was expected", where, len(body), kind)
	}
	return body, nil
}

func reasonOf(err error) string {
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "timeout"
	}
	return "connection"
}

func reasonOfStatus(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "unauthorized"
	case status == http.StatusForbidden:
		return "forbidden"
	case status == http.StatusTooManyRequests:
		return "rate_limited"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "bad_response"
}
