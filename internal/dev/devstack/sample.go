package devstack

import (
	"context"
	"fmt"
	"time"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Sample is the story that the sample data tells. Acme, Globex and Umbrella are
// customers; Initech has not paid, Hooli has left.
//
//	alice   a member of acme (editor), globex and umbrella (viewer); acme is her default
//	bob     a member of globex only (admin, who inherits editor, who inherits viewer)
//	carol   known, but a member of nothing
//	dave    blocked
//	erin    her membership of acme has expired
//	frank   a member of acme without roles; the group "auditors" makes him auditor there
//	grace   a member of initech, which is suspended, and hooli, which is archived
//	tina    the administrator of acme, and editor there
//	audrey  an auditor of the platform
//	paula   the administrator of the policy
//	root    the platform's administrator
//	billing a program of acme with scopes
//	ci      a program of the platform that syncs manifests
const (
	sampleClientID     = "3f6f0c1e-6f0a-4c59-9a8e-0d6a5f1b2c3d"
	sampleCIID         = "5d0b9a3e-7c41-4b7e-8a55-2f1e6c9d4b10"
	sampleClientSecret = "development-only"
)

// sampleTokens are the claims that the development R-Auth puts into tokens.
func sampleTokens() map[string]map[string]any {
	users := map[string]map[string]any{}
	for _, name := range []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "tina", "audrey", "paula", "root", "stranger"} {
		users[name] = map[string]any{"sub": name, "client_id": "web"}
	}
	users["frank"]["groups"] = []string{"auditors", "everyone"}
	return users
}

// sampleAbout is what the users can do at the console, for the page of a login.
var sampleAbout = map[string]string{
	"root":     "the platform's administrator",
	"audrey":   "an auditor of the platform: reads everything",
	"paula":    "the administrator of the policy",
	"tina":     "the administrator of acme",
	"alice":    "an editor of acme, a viewer of globex and umbrella",
	"bob":      "an admin of globex by the tenant's own role",
	"carol":    "known, a member of nothing",
	"dave":     "blocked",
	"erin":     "her membership of acme has expired",
	"frank":    "a member of acme without roles; a group makes him auditor there",
	"grace":    "a member of a suspended and of an archived tenant",
	"stranger": "unknown here",
}

// SignIn says as whom it is worth to sign in at the console.
const SignIn = "root (platform administrator), tina (administrator of acme), paula (policy), audrey (auditor), alice (a member)"

// ConsoleClientID is the client of the console, which is public.
const ConsoleClientID = "iam-console"

func consoleClient(consoleURL string) devrauth.Client {
	return devrauth.Client{
		ID: ConsoleClientID, Scopes: []string{"openid", "offline_access"}, Audience: []string{AdminAudience},
		RedirectURIs: []string{consoleURL + "/callback"}, LogoutURIs: []string{consoleURL + "/"},
	}
}

func sampleClients() []devrauth.Client {
	return []devrauth.Client{
		{ID: sampleClientID, Secret: sampleClientSecret, Scopes: []string{"invoices:read", "invoices:write", "s2s:internal"}, Audience: []string{Audience}},
		{ID: sampleCIID, Secret: sampleClientSecret, Scopes: []string{"s2s:internal"}, Audience: []string{Audience}},
	}
}

// LoadSample writes the sample data; what is there already is replaced.
func LoadSample(ctx context.Context, db *postgres.DB, issuer string) error {
	err := db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		_, err := tx.PutService(ctx, iam.Service{Name: "sample"}, []byte(`{"roles":[],"attributes":[{"key":"department","type":"string"},{"key":"plan","type":"string"}]}`),
			[]iam.AttributeSchema{{Key: "department", Type: "string"}, {Key: "plan", Type: "string"}})
		return err
	})
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	for _, t := range []iam.Tenant{
		{ID: "acme", Slug: "acme", Name: "Acme Corp", Status: iam.TenantActive, Attributes: map[string]any{"plan": "gold"}},
		{ID: "globex", Slug: "globex", Name: "Globex", Status: iam.TenantActive, Attributes: map[string]any{"plan": "silver"}},
		{ID: "umbrella", Slug: "umbrella", Name: "Umbrella", Status: iam.TenantActive},
		{ID: "initech", Slug: "initech", Name: "Initech", Status: iam.TenantSuspended},
		{ID: "hooli", Slug: "hooli", Name: "Hooli", Status: iam.TenantArchived},
	} {
		if err := db.PutTenant(ctx, t); err != nil {
			return fmt.Errorf("tenant %s: %w", t.ID, err)
		}
	}
	for _, r := range []iam.Role{
		{Name: "viewer", Permissions: []string{"document:read"}},
		{Name: "editor", Permissions: []string{"document:write"}, Inherits: []string{"viewer"}},
		{Tenant: "acme", Name: "auditor", Permissions: []string{"log:read"}, Inherits: []string{"viewer"}},
		{Tenant: "globex", Name: "admin", Permissions: []string{"member:write"}, Inherits: []string{"editor"}},
	} {
		if err := db.PutRole(ctx, r); err != nil {
			return fmt.Errorf("role %s: %w", r.Name, err)
		}
	}
	type in struct {
		tenant  string
		roles   []string
		expires time.Time
	}
	for _, u := range []struct {
		user iam.User
		in   []in
	}{
		{iam.User{Subject: "alice", DefaultTenant: "acme", Attributes: map[string]any{"department": "sales"}}, []in{{tenant: "acme", roles: []string{"editor"}}, {tenant: "globex", roles: []string{"viewer"}}, {tenant: "umbrella", roles: []string{"viewer"}}}},
		{iam.User{Subject: "bob"}, []in{{tenant: "globex", roles: []string{"admin"}}}},
		{iam.User{Subject: "carol"}, nil},
		{iam.User{Subject: "dave", Status: iam.UserBlocked}, []in{{tenant: "acme", roles: []string{"viewer"}}}},
		{iam.User{Subject: "erin"}, []in{{tenant: "acme", roles: []string{"editor"}, expires: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}}},
		{iam.User{Subject: "frank"}, []in{{tenant: "acme"}}},
		{iam.User{Subject: "grace"}, []in{{tenant: "initech", roles: []string{"viewer"}}, {tenant: "hooli", roles: []string{"viewer"}}}},
		{iam.User{Subject: "tina"}, []in{{tenant: "acme", roles: []string{iam.RoleTenantAdmin, "editor"}}}},
		{iam.User{Subject: "audrey", PlatformRoles: []string{"auditor"}}, nil},
		{iam.User{Subject: "paula", PlatformRoles: []string{"policy-admin"}}, nil},
		{iam.User{Subject: "root", PlatformRoles: []string{"platform-admin"}}, nil},
	} {
		u.user.Issuer = issuer
		if u.user.Status == "" {
			u.user.Status = iam.UserActive
		}
		id, err := db.PutUser(ctx, u.user)
		if err != nil {
			return fmt.Errorf("user %s: %w", u.user.Subject, err)
		}
		for _, m := range u.in {
			err := db.PutMembership(ctx, iam.Membership{Tenant: m.tenant, User: id, Status: iam.MembershipActive, Roles: m.roles, ExpiresAt: m.expires})
			if err != nil {
				return fmt.Errorf("membership of %s in %s: %w", u.user.Subject, m.tenant, err)
			}
		}
	}
	err = db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "auditors", Roles: []string{"auditor"}})
	if err != nil {
		return fmt.Errorf("mapping: %w", err)
	}
	err = db.PutClient(ctx, iam.Client{
		Issuer: issuer, ClientID: sampleClientID, Tenant: "acme", Status: iam.ClientActive, Roles: []string{"viewer"},
		Scopes: []string{"invoices:read", "invoices:write"},
	})
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	err = db.PutClient(ctx, iam.Client{Issuer: issuer, ClientID: sampleCIID, Status: iam.ClientActive, Scopes: []string{"s2s:internal"}})
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return nil
}

// Curls are commands to paste, with what they show.
func Curls(gateway, admin, issuer string) string {
	return fmt.Sprintf(`
  # A user's token, then who she is here: 200, with the claims as headers.
  TOKEN=$(curl -s '%[2]s/dev/token?user=alice')
  curl -si -H "Authorization: Bearer $TOKEN" http://%[1]s/system/enrich-token

  # The same user in her other tenant: 200, X-Tenant-ID: globex.
  curl -si -H "Authorization: Bearer $TOKEN" -H 'X-Active-Tenant-ID: globex' http://%[1]s/system/enrich-token

  # A tenant she does not belong to: 403.
  curl -si -H "Authorization: Bearer $TOKEN" -H 'X-Active-Tenant-ID: initech' http://%[1]s/system/enrich-token

  # Why? An auditor asks: which rules fired, and what would have had to be so.
  AUDITOR=$(curl -s '%[2]s/dev/token?user=audrey&aud=%[6]s')
  printf '%%b\n' "$(curl -s -H "Authorization: Bearer $AUDITOR" -H 'Content-Type: application/json' -d '{"subject":"alice","tenant":"initech"}' http://%[5]s/v1/policy/explain | sed 's/.*"text":"//; s/"}$//; s/\\"/"/g')"

  # No token, or one that is no good: 401.
  curl -si http://%[1]s/system/enrich-token
  curl -si -H 'Authorization: Bearer nonsense' http://%[1]s/system/enrich-token

  # What was denied to her so far.
  curl -s -H "Authorization: Bearer $AUDITOR" 'http://%[5]s/v1/decisions?subject=alice&outcome=denied'

  # A program by client credentials, for the audience that gateways accept: 200, X-Service-ID and X-Scopes.
  SERVICE=$(curl -s -u %[3]s:%[4]s -d grant_type=client_credentials -d audience=%[7]s %[2]s/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -si -H "Authorization: Bearer $SERVICE" http://%[1]s/system/enrich-token

  # The tenants that she can switch between.
  curl -s -H "Authorization: Bearer $TOKEN" http://%[1]s/v1/me/tenants

  # Administration needs a token for another audience. The administrator of acme takes alice's role away,
  # and the next answer knows it. All that can be done: http://%[5]s/docs
  ADMIN=$(curl -s '%[2]s/dev/token?user=tina&aud=%[6]s')
  curl -s -H "Authorization: Bearer $ADMIN" 'http://%[5]s/v1/tenants/acme/members?subject=alice'
  ALICE=$(curl -s -H "Authorization: Bearer $ADMIN" 'http://%[5]s/v1/tenants/acme/members?subject=alice' | sed 's/.*"user":"\([^"]*\)".*/\1/')
  curl -si -X PUT -H "Authorization: Bearer $ADMIN" -H 'If-Match: *' -H 'Content-Type: application/json' -d '{"roles": []}' http://%[5]s/v1/tenants/acme/members/$ALICE
  curl -si -H "Authorization: Bearer $TOKEN" http://%[1]s/system/enrich-token
  curl -s -H "Authorization: Bearer $ADMIN" 'http://%[5]s/v1/audit?tenant=acme&limit=1'

  # She creates a client: here, and in R-Auth. Its secret is in this response and nowhere else. It works at once.
  MADE=$(curl -s -H "Authorization: Bearer $ADMIN" -H 'Content-Type: application/json' -d '{"tenant": "acme", "client_name": "reports", "grant_types": ["client_credentials"], "roles": ["viewer"], "scopes": ["document:read"]}' http://%[5]s/v1/clients)
  ID=$(echo "$MADE" | sed 's/.*"client_id":"\([^"]*\)".*/\1/') SECRET=$(echo "$MADE" | sed 's/.*"client_secret":"\([^"]*\)".*/\1/')
  REPORTS=$(curl -s -u $ID:$SECRET -d grant_type=client_credentials -d audience=%[7]s %[2]s/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -si -H "Authorization: Bearer $REPORTS" http://%[1]s/system/enrich-token
`, gateway, issuer, sampleClientID, sampleClientSecret, admin, AdminAudience, Audience)
}
