package rauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"iam-service/internal/iam"
)

// Create creates a client under the given id, so that it can be retried. The secret of a
// public client is empty. An id that exists is a Conflict.
func (c *Client) Create(ctx context.Context, r iam.Registration) (iam.Secret, error) {
	var got clientBody
	err := c.call(ctx, request{operation: "create", method: http.MethodPost, target: c.at("clients"), in: r, want: http.StatusCreated}, &got)
	if err == nil && got.ClientID == "" {
		return "", c.badResponse("create", errors.Join(iam.ErrOutcomeUnknown, errors.New("its response is no client")))
	}
	if err == nil && got.ClientID != r.ClientID {
		// Each attempt would create another one.
		cause := errors.Join(fmt.Errorf("it created %q instead of %q", got.ClientID, r.ClientID), c.Delete(ctx, got.ClientID))
		_ = c.badResponse("create", cause) // counted and logged
		return "", &iam.Error{Kind: iam.Invalid, Code: "idp_ignores_client_id", Detail: "the identity provider ignores the client_id of a request: clients cannot be managed there", Cause: cause}
	}
	return iam.Secret(got.Secret), err
}

// Get returns a client as the provider has it.
func (c *Client) Get(ctx context.Context, id string) (iam.Registration, error) {
	var got clientBody
	err := c.call(ctx, request{operation: "get", method: http.MethodGet, target: c.at("clients", id), want: http.StatusOK}, &got)
	if err == nil && got.ClientID != id {
		err = c.badResponse("get", errors.New("its response is another client"))
	}
	return got.Registration, err
}

// Update replaces the metadata of a client that we manage.
func (c *Client) Update(ctx context.Context, r iam.Registration) error { return c.replace(ctx, r, "") }

// SetSecret is Update, and replaces the client's secret without an overlap.
func (c *Client) SetSecret(ctx context.Context, r iam.Registration, secret iam.Secret) error {
	return c.replace(ctx, r, secret)
}

// replace reads a client and writes it with our fields replaced: a PUT replaces everything,
// also fields that others have set.
func (c *Client) replace(ctx context.Context, r iam.Registration, secret iam.Secret) error {
	target := c.at("clients", r.ClientID)
	var there map[string]json.RawMessage
	if err := c.call(ctx, request{operation: "update", method: http.MethodGet, target: target, want: http.StatusOK}, &there); err != nil {
		return err
	}
	var id string
	if json.Unmarshal(there["client_id"], &id) != nil || id != r.ClientID {
		return c.badResponse("update", errors.New("its response is another client"))
	}
	if err := merge(there, r); err != nil {
		return err
	}
	if secret != "" {
		var err error
		if there["client_secret"], err = json.Marshal(string(secret)); err != nil {
			return err
		}
	}
	return c.call(ctx, request{operation: "update", method: http.MethodPut, target: target, in: there, want: anySuccess}, nil)
}

// Delete deletes a client. A missing one is no error.
func (c *Client) Delete(ctx context.Context, id string) error {
	a, err := c.do(ctx, request{operation: "delete", method: http.MethodDelete, target: c.at("clients", id), want: anySuccess}, nil)
	switch {
	case iam.KindOf(err) == iam.NotFound:
		return nil
	case err != nil || a.status == http.StatusNoContent:
		return err
	}
	// Another success may mean that it is deleted later, or that a proxy has responded.
	_, err = c.Get(ctx, id)
	switch {
	case err == nil:
		return c.badResponse("delete", fmt.Errorf("its response is %d, and the client still exists", a.status))
	case iam.KindOf(err) == iam.NotFound:
		return nil
	}
	return err
}

// Rotate creates another secret. The previous one works until Retire. It is never retried:
// each call creates a secret. A provider without rotation is a Conflict of the code
// iam.CodeCannotRotate.
func (c *Client) Rotate(ctx context.Context, id string) (iam.Secret, error) {
	var got clientBody
	err := c.call(ctx, request{operation: "rotate", method: http.MethodPost, target: c.at("clients", id, "secrets", "rotate"), want: http.StatusOK}, &got)
	if k := iam.KindOf(err); err != nil && (k == iam.NotFound || iam.CodeOf(err) == codeNoSuchCall) {
		// A missing client, or a missing call?
		if _, getErr := c.Get(ctx, id); getErr == nil {
			return "", &iam.Error{Kind: iam.Conflict, Code: iam.CodeCannotRotate, Detail: "the identity provider cannot rotate secrets", Cause: err}
		}
	}
	if err == nil && got.Secret == "" {
		return "", c.badResponse("rotate", errors.Join(iam.ErrOutcomeUnknown, errors.New("its response has no secret")))
	}
	return iam.Secret(got.Secret), err
}

// Retire removes all secrets but the newest. A success with a body that is no JSON is not from
// the admin API: it may be a login page.
func (c *Client) Retire(ctx context.Context, id string) error {
	a, err := c.do(ctx, request{operation: "retire", method: http.MethodDelete, target: c.at("clients", id, "secrets", "rotate"), want: anySuccess}, nil)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(a.body)) > 0 && !json.Valid(a.body) {
		return c.badResponse("retire", errors.Join(iam.ErrOutcomeUnknown, fmt.Errorf("its response is %d with a body that is no JSON", a.status)))
	}
	return nil
}
