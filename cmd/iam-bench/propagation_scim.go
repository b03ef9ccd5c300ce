package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// provision creates a provisioning client of a user's tenant, and a group of it that grants the user's role.
func (b *propagationBench) provision(ctx context.Context, user iam.UserFacts) error {
	tenant := user.Memberships[0].Tenant
	err := b.db.PutClient(ctx, iam.Client{Issuer: b.stack.RAuth.Issuer, ClientID: "scim-" + tenant, Tenant: tenant, Scopes: []string{iam.ScopeSCIM}, Status: iam.ClientActive})
	if err != nil {
		return err
	}
	return b.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		if err := tx.LockRoles(ctx, tenant); err != nil {
			return err
		}
		g := iam.SCIMGroup{Tenant: tenant, Issuer: b.stack.RAuth.Issuer, DisplayName: "of " + user.ID, Roles: []string{"editor"}}
		if old, err := tx.SCIMGroups(ctx, postgres.SCIMQuery{Tenant: tenant, Limit: 1, Filter: &postgres.SCIMFilter{Attribute: "displayname", Operator: "eq", Value: g.DisplayName}}); err != nil {
			return err
		} else if len(old) > 0 { // of an earlier run
			g.ID = old[0].ID
		}
		if err := tx.PutSCIMGroup(ctx, &g); err != nil {
			return err
		}
		b.groups[user.ID] = g.ID
		_, unknown, err := tx.AddSCIMGroupMembers(ctx, g, b.stack.RAuth.Issuer, []string{user.ID})
		if err == nil && len(unknown) > 0 {
			err = errors.New("the user is no member of the tenant")
		}
		return err
	})
}

// scim sends a request of a tenant's provisioning client to the first replica.
func (b *propagationBench) scim(tenant, method, path, body string) error {
	token, err := b.stack.RAuth.Mint("ES256", map[string]any{"sub": "scim-" + tenant, "client_id": "scim-" + tenant, "aud": devstack.AdminAudience, "scope": iam.ScopeSCIM})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://"+b.all[0].admin+"/scim/v2/"+tenant+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/scim+json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return &statusError{resp.StatusCode}
	}
	return nil
}
