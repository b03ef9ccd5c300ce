package adminapi

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// clientBody is a client by the names of RFC 7591 and what we know of it beside.
type clientBody struct {
	ClientID string `json:"client_id"`
	Tenant   string `json:"tenant,omitempty" doc:"absent: a program of the platform"`
	Status   string `json:"status" enum:"active,blocked,deleted" doc:"what enrichment sees, at once"`
	Managed  bool   `json:"managed" doc:"false: it was not made here; only status, roles and scopes are known"`

	Sync       string `json:"sync,omitempty" enum:"in_sync,pending,failed" doc:"whether the identity provider agrees; failed: it has refused the last change, which was undone"`
	SyncReason string `json:"sync_reason,omitempty" doc:"why it does not yet, or why the last rotation failed"`
	Operation  string `json:"operation,omitempty" enum:"create,update,delete,rotate,retire" doc:"what it has yet to be told"`

	Type                    string          `json:"type,omitempty" enum:"public,confidential"`
	ClientName              string          `json:"client_name,omitempty"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty"`
	GrantTypes              []string        `json:"grant_types"`
	ResponseTypes           []string        `json:"response_types"`
	RedirectURIs            []string        `json:"redirect_uris"`
	PostLogoutRedirectURIs  []string        `json:"post_logout_redirect_uris"`
	JWKSURI                 string          `json:"jwks_uri,omitempty"`
	JWKS                    json.RawMessage `json:"jwks,omitempty"`
	Audience                []string        `json:"audience" doc:"that its tokens may be for; empty: of a client from an earlier version that was not reconciled yet"`
	Roles                   []string        `json:"roles"`
	Scopes                  []string        `json:"scopes"`

	SecretState     string     `json:"secret_state,omitempty" enum:"none,not_issued,issued,unknown" doc:"unknown: a rotation has an unknown outcome; rotate again"`
	OldSecretUntil  *time.Time `json:"old_secret_until,omitempty" doc:"until when the secret before works"`
	TokensNotBefore *time.Time `json:"tokens_not_before,omitempty"`
	CreatedAt       time.Time  `json:"created_at"`
	UpdatedAt       time.Time  `json:"updated_at"`
	Version         int64      `json:"version" doc:"as in the ETag"`

	ClientSecret       string `json:"client_secret,omitempty" doc:"here and nowhere else"`
	ClientSecretStatus string `json:"client_secret_status,omitempty" enum:"given,not_issued" doc:"given: in this answer, or in the first one to this request; not_issued: nobody has it, rotate"`
}

// ClientPut is what can be replaced of a client.
type ClientPut struct {
	ClientName              string          `json:"client_name" maxLength:"200"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty" enum:"none,client_secret_basic,client_secret_post,private_key_jwt" default:"client_secret_basic" doc:"none: a public client, with PKCE and without a secret"`
	GrantTypes              []string        `json:"grant_types,omitempty" maxItems:"3" doc:"authorization_code (the default), refresh_token, client_credentials"`
	ResponseTypes           []string        `json:"response_types,omitempty" maxItems:"1" doc:"code, where authorization_code is"`
	RedirectURIs            []string        `json:"redirect_uris,omitempty" maxItems:"50" doc:"exact; https, and for public clients a loopback address or a scheme of their own (RFC 8252)"`
	PostLogoutRedirectURIs  []string        `json:"post_logout_redirect_uris,omitempty" maxItems:"50"`
	JWKSURI                 string          `json:"jwks_uri,omitempty" maxLength:"2000" doc:"https, of a public host"`
	JWKS                    json.RawMessage `json:"jwks,omitempty" doc:"public keys of private_key_jwt (RFC 7517)"`
	Audience                []string        `json:"audience,omitempty" maxItems:"20" doc:"that its tokens may be for: it must ask R-Auth for one of them (audience=…); absent: those of the gateways (RAUTH_AUDIENCES); others, such as that of the admin API, only a platform administrator grants"`
	Roles                   []string        `json:"roles,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Scopes                  []string        `json:"scopes,omitempty" maxItems:"100" doc:"what its tokens can be for, and no more than it is; beyond OpenID Connect's own, only who holds the permission of that name gives a scope"`
}

// ClientPost is a new client.
type ClientPost struct {
	Tenant string `json:"tenant,omitempty" maxLength:"64" doc:"for ever; absent: a program of the platform"`
	ClientPut
}

func (p ClientPut) edit() admin.ClientEdit {
	keys := p.JWKS
	if string(keys) == "null" {
		keys = nil
	}
	return admin.ClientEdit{
		Registration: iam.Registration{
			ClientName: p.ClientName, TokenEndpointAuthMethod: p.TokenEndpointAuthMethod, GrantTypes: p.GrantTypes, ResponseTypes: p.ResponseTypes,
			RedirectURIs: p.RedirectURIs, PostLogoutRedirectURIs: p.PostLogoutRedirectURIs, JWKSURI: p.JWKSURI, JWKS: keys, Audience: p.Audience,
		},
		Roles: p.Roles, Scopes: p.Scopes,
	}
}

func wireClient(c iam.ManagedClient) clientBody {
	r := c.Wanted
	b := clientBody{
		ClientID: c.ClientID, Tenant: c.Tenant, Status: c.Status, Managed: c.Managed, Sync: c.Sync, SyncReason: c.Reason, Operation: c.Operation,
		ClientName: r.ClientName, TokenEndpointAuthMethod: r.TokenEndpointAuthMethod, GrantTypes: sorted(r.GrantTypes), ResponseTypes: sorted(r.ResponseTypes),
		RedirectURIs: sorted(r.RedirectURIs), PostLogoutRedirectURIs: sorted(r.PostLogoutRedirectURIs), JWKSURI: r.JWKSURI, JWKS: r.JWKS,
		Audience: sorted(r.Audience), Roles: sorted(c.Roles), Scopes: sorted(c.Scopes), SecretState: c.SecretState, OldSecretUntil: given(c.RetireAt), TokensNotBefore: given(c.TokensNotBefore),
		CreatedAt: c.CreatedAt.UTC(), UpdatedAt: c.UpdatedAt.UTC(), Version: c.Version,
	}
	if c.Managed {
		b.Type = r.Type()
		if !r.HasSecret() {
			b.SecretState = iam.SecretNone
		}
	}
	return b
}

func clientPath(id string) string { return "/v1/clients/" + url.PathEscape(id) }

func oneClient(c iam.ManagedClient, err error) (*one[clientBody], error) {
	if err != nil {
		return nil, err
	}
	return &one[clientBody]{Status: 200, ETag: etag(c.Version), Body: wireClient(c)}, nil
}

// outcome is the answer to a request about a client that could be finished later.
type outcome struct {
	Status     int
	Location   string `header:"Location"`
	ETag       string `header:"ETag"`
	Preference string `header:"Preference-Applied" doc:"respond-async, where that was asked for (RFC 7240)"`
	Body       *clientBody
}

func outcomeOf(r asked, res clients.Result, status int, later bool) *outcome {
	body := wireClient(res.Client)
	body.ClientSecret, body.ClientSecretStatus = string(res.Secret), res.SecretStatus
	out := &outcome{Status: status, ETag: etag(res.Client.Version), Body: &body}
	if status == 201 || res.Pending {
		out.Location = clientPath(res.Client.ClientID)
	}
	if res.Pending {
		out.Status = 202
		if later {
			out.Preference = "respond-async"
		}
	}
	if res.Replayed {
		r.header.Set("Idempotency-Replayed", "true")
	}
	return out
}

// OnClient is an input about a client, which says what the tenant is.
type OnClient struct {
	ID string `path:"id" maxLength:"255" doc:"client_id"`
}

func (OnClient) tenant() string { return "" }

func (i OnClient) object() string { return i.ID }

func (OnClient) client() {}

// Preferring is an input that says whether its caller wants to wait.
type Preferring struct {
	Prefer string `header:"Prefer" maxLength:"200" doc:"respond-async: the answer is 202, and the identity provider is told later (RFC 7240)"`
}

func (p Preferring) later() bool {
	for preference := range strings.SplitSeq(p.Prefer, ",") {
		name, _, _ := strings.Cut(preference, ";")
		if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
			return true
		}
	}
	return false
}

func (r asked) request(later bool) clients.Request {
	return clients.Request{Caller: r.caller, Task: r.task, Key: r.once, Later: later}
}

type listClientsIn struct {
	Paged
	Tenant string `query:"tenant" maxLength:"64" doc:"id of the tenant; absent: everything"`
	Status string `query:"status" enum:"active,blocked,deleted"`
	Sync   string `query:"sync" enum:"in_sync,pending,failed"`
	Type   string `query:"type" enum:"public,confidential"`
	Role   string `query:"role" maxLength:"64" doc:"that it has directly"`
	Name   string `query:"name" maxLength:"200" doc:"a part of client_name, whatever its case"`
}

func (i listClientsIn) tenant() string { return i.Tenant }

func (a *server) listClients(ctx context.Context, w *admin.Work, in *listClientsIn) (*many[clientBody], error) {
	f := postgres.ClientFilter{Tenant: in.Tenant, Status: in.Status, Sync: in.Sync, Type: in.Type, Role: in.Role, Name: in.Name, Limit: in.Limit + 1}
	if err := in.cursor(&f.After); err != nil {
		return nil, err
	}
	list, err := w.Clients(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireClient, func(c iam.ManagedClient) []any { return []any{c.ClientID} })
}

func (a *server) readClient(ctx context.Context, w *admin.Work, in *OnClient) (*one[clientBody], error) {
	return oneClient(w.Client(ctx, in.ID))
}

type createClientIn struct {
	Repeatable
	Preferring
	Body ClientPost
}

func (i createClientIn) tenant() string { return i.Body.Tenant }

func (a *server) createClient(ctx context.Context, r asked, in *createClientIn) (*outcome, error) {
	res, err := a.Clients.Create(ctx, r.request(in.later()), in.Body.Tenant, in.Body.edit())
	if err != nil {
		return nil, err
	}
	return outcomeOf(r, res, 201, in.later()), nil
}

func (a *server) putClient(ctx context.Context, r asked, in *struct {
	OnClient
	Conditional
	Preferring
	Body ClientPut
},
) (*outcome, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	res, err := a.Clients.Put(ctx, r.request(in.later()), in.ID, in.Body.edit(), c)
	if err != nil {
		return nil, err
	}
	return outcomeOf(r, res, 200, in.later()), nil
}

func (a *server) patchClient(ctx context.Context, w *admin.Work, in *struct {
	OnClient
	Conditional
	Body struct {
		Status string `json:"status" enum:"active,blocked"`
	} `contentType:"application/merge-patch+json"`
},
) (*one[clientBody], error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	return oneClient(w.SetClientStatus(ctx, in.ID, in.Body.Status, c))
}

func (a *server) revokeClient(ctx context.Context, w *admin.Work, in *struct {
	OnClient
	Repeatable
	Body *struct {
		Before *time.Time `json:"before,omitempty" doc:"tokens issued earlier, or less than 5 s later, are refused; absent: now. It never goes back."`
	}
},
) (*one[clientBody], error) {
	var before time.Time
	if in.Body != nil && in.Body.Before != nil {
		before = *in.Body.Before
	}
	return oneClient(w.RevokeClientTokens(ctx, in.ID, before))
}

func (a *server) rotateClient(ctx context.Context, r asked, in *struct {
	OnClient
	Repeatable
	Conditional
	Body *struct {
		Overlap   string `json:"overlap,omitempty" maxLength:"20" default:"24h" doc:"how long the old secret works, as in 24h or 90m, 720h at most; 0: it ends at once"`
		RetireOld bool   `json:"retire_old,omitempty" doc:"ends the overlap that is running, if there is one"`
	}
},
) (*outcome, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	rot := clients.Rotation{Overlap: 24 * time.Hour}
	if in.Body != nil {
		rot.RetireOld = in.Body.RetireOld
		if in.Body.Overlap != "" {
			if rot.Overlap, err = time.ParseDuration(in.Body.Overlap); err != nil {
				return nil, iam.Refuse([]iam.FieldError{{Pointer: "/overlap", Detail: "must be a time as in 24h or 90m, or 0"}})
			}
		}
	}
	res, err := a.Clients.Rotate(ctx, r.request(false), in.ID, c, rot)
	if err != nil {
		return nil, err
	}
	res.Pending = false
	return outcomeOf(r, res, 200, false), nil
}

func (a *server) deleteClient(ctx context.Context, r asked, in *struct {
	OnClient
	Conditional
	Preferring
},
) (*outcome, error) {
	c, err := in.condition()
	if err != nil {
		return nil, err
	}
	res, err := a.Clients.Delete(ctx, r.request(in.later()), in.ID, c)
	if err != nil {
		return nil, err
	}
	if !res.Pending {
		return &outcome{Status: 204}, nil
	}
	return outcomeOf(r, res, 202, in.later()), nil
}
