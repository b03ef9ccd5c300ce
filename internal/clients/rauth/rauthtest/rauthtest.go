// Package rauthtest is what every adapter of an identity provider must pass: the
// behaviour that the service relies on, for any provider.
package rauthtest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"iam-service/internal/clients"
	"iam-service/internal/iam"
)

// Run tests p against a provider that works. Valid reports whether a secret of a client
// works at this moment, at the token endpoint for instance.
func Run(t *testing.T, p clients.Provider, valid func(id string, secret iam.Secret) bool) {
	t.Helper()
	ctx := t.Context()
	fresh := func() iam.Registration {
		id := uuid.NewString()
		return iam.Registration{
			ClientID: id, ClientName: "a client", RedirectURIs: []string{"https://app.example.com/cb"}, GrantTypes: []string{"authorization_code", "client_credentials"},
			ResponseTypes: []string{"code"}, TokenEndpointAuthMethod: "client_secret_basic", Scope: "read write",
			Metadata: map[string]string{iam.MarkInstance: "test", iam.MarkClient: id, iam.MarkTenant: "acme", iam.MarkVersion: "1"},
		}
	}
	made := func(t *testing.T) (iam.Registration, iam.Secret) {
		t.Helper()
		r := fresh()
		secret, err := p.Create(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Delete(context.WithoutCancel(ctx), r.ClientID) })
		return r, secret
	}
	t.Run("a client is made under the id that was chosen, with our marks", func(t *testing.T) {
		r, secret := made(t)
		got, err := p.Get(ctx, r.ClientID)
		if err != nil {
			t.Fatal(err)
		}
		if got.ClientID != r.ClientID || got.Metadata[iam.MarkClient] != r.ClientID || got.Scope != r.Scope || !slices.Equal(got.RedirectURIs, r.RedirectURIs) {
			t.Errorf("got %+v", got)
		}
		if secret == "" || !valid(r.ClientID, secret) || valid(r.ClientID, "another") {
			t.Error("its secret is not the one that was given")
		}
	})
	t.Run("an id that is taken is a conflict", func(t *testing.T) {
		r, secret := made(t)
		if _, err := p.Create(ctx, r); iam.KindOf(err) != iam.Conflict {
			t.Errorf("got %v", err)
		}
		if !valid(r.ClientID, secret) {
			t.Error("the secret was replaced")
		}
	})
	t.Run("a public client has no secret", func(t *testing.T) {
		r := fresh()
		r.TokenEndpointAuthMethod, r.GrantTypes = "none", []string{"authorization_code"}
		secret, err := p.Create(ctx, r)
		if err != nil || secret != "" {
			t.Errorf("got a secret of %d bytes, %v", len(secret), err)
		}
		_ = p.Delete(ctx, r.ClientID)
	})
	t.Run("an update replaces what is ours, and keeps what others have set", func(t *testing.T) {
		r, secret := made(t)
		r.Metadata["others"] = "theirs"
		if err := p.Update(ctx, r); err != nil {
			t.Fatal(err)
		}
		delete(r.Metadata, "others")
		r.RedirectURIs, r.Scope, r.ClientName = []string{"https://other.example.com/"}, "read", ""
		if err := p.Update(ctx, r); err != nil {
			t.Fatal(err)
		}
		got, err := p.Get(ctx, r.ClientID)
		if err != nil || !slices.Equal(got.RedirectURIs, r.RedirectURIs) || got.Scope != "read" || got.ClientName != "" || got.Metadata["others"] != "theirs" {
			t.Errorf("got %+v, %v", got, err)
		}
		if !valid(r.ClientID, secret) {
			t.Error("the secret was replaced")
		}
	})
	t.Run("what is not there is not found, and deleted", func(t *testing.T) {
		id := uuid.NewString()
		if _, err := p.Get(ctx, id); iam.KindOf(err) != iam.NotFound {
			t.Errorf("get: %v", err)
		}
		r := fresh()
		if err := p.Update(ctx, r); iam.KindOf(err) != iam.NotFound {
			t.Errorf("update: %v", err)
		}
		if err := p.Delete(ctx, id); err != nil {
			t.Errorf("delete: %v", err)
		}
		if _, err := p.Rotate(ctx, id); iam.KindOf(err) != iam.NotFound {
			t.Errorf("rotate: %v", err)
		}
	})
	t.Run("a deleted client is gone, and so is its secret", func(t *testing.T) {
		r, secret := made(t)
		if err := p.Delete(ctx, r.ClientID); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Get(ctx, r.ClientID); iam.KindOf(err) != iam.NotFound {
			t.Errorf("get: %v", err)
		}
		if valid(r.ClientID, secret) {
			t.Error("its secret works")
		}
	})
	t.Run("a rotated secret works next to the old one until that is retired", func(t *testing.T) {
		r, old := made(t)
		secret, err := p.Rotate(ctx, r.ClientID)
		if iam.CodeOf(err) == iam.CodeCannotRotate { // a provider without rotation reports it, and leaves the secret unchanged
			if !valid(r.ClientID, old) {
				t.Error("the secret does not work any more")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if secret == old || !valid(r.ClientID, secret) || !valid(r.ClientID, old) {
			t.Error("one of them does not work")
		}
		if err := p.Retire(ctx, r.ClientID); err != nil {
			t.Fatal(err)
		}
		if !valid(r.ClientID, secret) || valid(r.ClientID, old) {
			t.Error("the old one works, or the new one does not")
		}
		if err := p.Retire(ctx, r.ClientID); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
	t.Run("a secret that is set takes the place of all before it", func(t *testing.T) {
		r, old := made(t)
		r.ClientName = "with another secret"
		const secret = iam.Secret("a-secret-that-was-chosen-and-not-made")
		if err := p.SetSecret(ctx, r, secret); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Get(ctx, r.ClientID); err != nil || got.ClientName != r.ClientName {
			t.Errorf("got %+v, %v", got, err)
		}
		if !valid(r.ClientID, secret) || valid(r.ClientID, old) {
			t.Error("the old one works, or the new one does not")
		}
	})
	t.Run("invalid metadata is rejected permanently", func(t *testing.T) {
		r := fresh()
		r.RedirectURIs = []string{"no URI at all"}
		_, err := p.Create(ctx, r)
		if iam.KindOf(err) != iam.Invalid {
			t.Errorf("got %v", err)
		}
	})
	t.Run("all clients are listed, over all pages", func(t *testing.T) {
		want := map[string]bool{}
		for range 12 {
			r, _ := made(t)
			want[r.ClientID] = true
		}
		err := p.List(ctx, func(r iam.Registration) error {
			if r.ClientID == "" {
				return fmt.Errorf("a client without an id: %+v", r)
			}
			delete(want, r.ClientID)
			return nil
		})
		if err != nil || len(want) > 0 {
			t.Errorf("%d are missing, %v", len(want), err)
		}
	})
}
