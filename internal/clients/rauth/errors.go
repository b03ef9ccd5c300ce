package rauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"iam-service/internal/iam"
)

// report counts and logs a failure. A canceled call is none of the provider's, and a client that
// is missing, or exists already, is a result.
func (c *Client) report(ctx context.Context, operation string, err error) {
	if k := iam.KindOf(err); k == iam.NotFound || k == iam.Conflict || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	if reason, ok := strings.CutPrefix(iam.CodeOf(err), "idp_token_"); ok {
		c.cfg.OnError("token", reason)
	} else if reason, ok := strings.CutPrefix(iam.CodeOf(err), "idp_"); ok && iam.KindOf(err) == iam.Unavailable {
		c.cfg.OnError(operation, reason)
	}
	// The runbook names the line "failed to update client in upstream IdP".
	c.cfg.Log.WarnContext(ctx, "failed to "+operation+" client in upstream IdP", slog.Any("err", err))
}

// badResponse is a failure that is found after the call.
func (c *Client) badResponse(operation string, cause error) error {
	err := unavailable("bad_response", cause)
	c.report(context.Background(), operation, err)
	return err
}

// connectionError classifies a failure of the connection. A provider that was never reached has
// done nothing; of a call with retries, an earlier attempt may have been done.
func connectionError(operation, method string, err error) error {
	reason := "connection"
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); operation != "rotate" || !ok || op.Op != "dial" {
		err = maybeDone(method, err)
	}
	return unavailable(reason, err)
}

// codeNoSuchCall is for a call that the provider does not have.
const codeNoSuchCall = "idp_bad_response"

// statusError classifies a response of another status. Its message goes to the log alone.
func statusError(operation, method string, a *response) error {
	cause := fmt.Errorf("its response is %d", a.status)
	message := messageOf(a.body)
	if a.status >= http.StatusBadRequest {
		cause = fmt.Errorf("its response is %d: %s", a.status, message)
	}
	switch a.status {
	case http.StatusNotFound:
		if slices.Contains([]string{"create", "list", "probe"}, operation) { // no client is named
			return unavailable("bad_response", cause)
		}
		return errNoClient(cause)
	case http.StatusConflict:
		return &iam.Error{Kind: iam.Conflict, Detail: "the identity provider has a client of that id already", Cause: cause}
	case http.StatusUnauthorized:
		return unavailable("unauthorized", cause)
	case http.StatusForbidden:
		return unavailable("forbidden", cause)
	case http.StatusTooManyRequests:
		if operation != "rotate" { // without retries it was not done
			cause = maybeDone(method, cause)
		}
		return unavailable("rate_limited", cause)
	case http.StatusMethodNotAllowed:
		return &iam.Error{Kind: iam.Unavailable, Code: codeNoSuchCall, Detail: unreachable, Cause: cause}
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		if message == "" { // not from the provider: a proxy, or another server on the port
			return unavailable("bad_response", cause)
		}
		e := &iam.Error{Kind: iam.Invalid, Code: "idp_refused", Detail: "the identity provider rejects this client", Cause: cause}
		if field := fieldOf(message); field != "" {
			e.Fields = []iam.FieldError{{Pointer: "/" + field, Detail: "the identity provider rejects it"}}
		}
		return e
	}
	if a.status >= http.StatusInternalServerError {
		return unavailable("server_error", maybeDone(method, cause))
	}
	return unavailable("bad_response", maybeDone(method, cause))
}

func errNoClient(cause error) error {
	return &iam.Error{Kind: iam.NotFound, Detail: "the identity provider does not have this client", Cause: cause}
}

// fieldOf finds the field that a rejection is about: RFC 7591, section 3.2.2 has a code for
// one of them, and some providers name the others in their message, in the singular for one
// entry.
func fieldOf(message string) string {
	for _, f := range []struct{ word, field string }{ // a name before those that it contains
		{"post_logout_redirect_uri", "post_logout_redirect_uris"}, {"redirect_uri", "redirect_uris"}, {"grant_type", "grant_types"},
		{"response_type", "response_types"}, {"token_endpoint_auth_method", ""}, {"jwks_uri", ""}, {"jwks", ""}, {"scope", "scopes"},
		{"audience", ""}, {"client_name", ""},
	} {
		if strings.Contains(message, f.word) {
			return cmp.Or(f.field, f.word)
		}
	}
	return ""
}

// maybeDone marks a call that may have been done: a GET changes nothing.
func maybeDone(method string, cause error) error {
	if method == http.MethodGet {
		return cause
	}
	return errors.Join(iam.ErrOutcomeUnknown, cause)
}

const unreachable = "the identity provider is unavailable"

func unavailable(reason string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: "idp_" + reason, Detail: unreachable, Cause: cause}
}

// maxMessage is how many bytes of an error message are logged: Ory Hydra gives the reason
// after more than 200 bytes of preamble.
const maxMessage = 2000

// messageOf is the error message of a response, for the log: other fields could contain a
// secret.
func messageOf(body []byte) string {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(body, &all) // no JSON: no message
	var inner map[string]json.RawMessage
	_ = json.Unmarshal(all["error"], &inner) // mostly a string
	var words []string
	for _, raw := range []json.RawMessage{
		all["error"], all["error_description"], all["error_hint"], all["title"], all["detail"], inner["status"], inner["message"], inner["reason"],
	} {
		var word string
		if json.Unmarshal(raw, &word) == nil {
			words = append(words, strings.Fields(word)...)
		}
	}
	text := strings.Join(words, " ")
	if len(text) > maxMessage {
		text = text[:maxMessage]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
	}
	return text
}
