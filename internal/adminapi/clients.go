package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// clientBody has the fields of RFC 7591 and the state of the client here.
type clientBody struct {
	ClientID string `json:"client_id"`
	Tenant   string `json:"tenant,omitempty" doc:"absent: a client of the platform"`
	Status   string `json:"status" enum:"active,blocked,deleted" doc:"effective here at once"`
	Managed  bool   `json:"managed" doc:"false: it was not created here; only status, roles and scopes are known"`

	Sync       string `json:"sync,omitempty" enum:"in_sync,pending,failed" doc:"whether the identity provider has the same; failed: it has rejected the last change, which was reverted"`
	SyncReason string `json:"sync_reason,omitempty" doc:"why it is pending or failed, or why the last rotation failed"`
	Operation  string `json:"operation,omitempty" enum:"create,update,delete,rotate,retire" doc:"the change that the identity provider has not confirmed"`

	Type                    string          `json:"type,omitempty" enum:"public,confidential"`
	ClientName              string          `json:"client_name,omitempty"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty"`
	GrantTypes              []string        `json:"grant_types"`
	ResponseTypes           []string        `json:"response_types"`
	RedirectURIs            []string        `json:"redirect_uris"`
	PostLogoutRedirectURIs  []string        `json:"post_logout_redirect_uris"`
	JWKSURI                 string          `json:"jwks_uri,omitempty"`
	JWKS                    json.RawMessage `json:"jwks,omitempty"`
	Audience                []string        `json:"audience" doc:"allowed audiences of its tokens; empty: of a client from an earlier version that was not reconciled yet"`
	Roles                   []string        `json:"roles"`
	Scopes                  []string        `json:"scopes"`

	SecretState     string     `json:"secret_state,omitempty" enum:"none,not_issued,issued,unknown" doc:"unknown: a rotation has an unknown outcome; rotate again"`
	OldSecretUntil  *time.Time `json:"old_secret_until,omitempty" doc:"until when the previous secret is valid"`
	TokensNotBefore *time.Time `json:"tokens_not_before,omitempty"`
	CreatedAt       time.Time  `json:"created_at"`
	UpdatedAt       time.Time  `json:"updated_at"`
	Version         int64      `json:"version" doc:"as in the ETag"`

	ClientSecret       string `json:"client_secret,omitempty" doc:"in this response only"`
	ClientSecretStatus string `json:"client_secret_status,omitempty" enum:"given,not_issued" doc:"given: in this response, or in the first one to this request; not_issued: no caller has received it, rotate"`
}

// ClientPut has the fields of a client that a PUT replaces.
type ClientPut struct {
	ClientName              string          `json:"client_name" maxLength:"200"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty" enum:"none,client_secret_basic,client_secret_post,private_key_jwt" default:"client_secret_basic" doc:"none: a public client, with PKCE and without a secret"`
	GrantTypes              []string        `json:"grant_types,omitempty" maxItems:"3" doc:"authorization_code (the default), refresh_token, client_credentials"`
	ResponseTypes           []string        `json:"response_types,omitempty" maxItems:"1" doc:"code, with authorization_code"`
	RedirectURIs            []string        `json:"redirect_uris,omitempty" maxItems:"50" doc:"exact; https, and for public clients a loopback address or a scheme of their own (RFC 8252)"`
	PostLogoutRedirectURIs  []string        `json:"post_logout_redirect_uris,omitempty" maxItems:"50"`
	JWKSURI                 string          `json:"jwks_uri,omitempty" maxLength:"2000" doc:"https, of a public host"`
	JWKS                    json.RawMessage `json:"jwks,omitempty" doc:"public keys of private_key_jwt (RFC 7517)"`
	Audience                []string        `json:"audience,omitempty" maxItems:"20" doc:"allowed audiences of its tokens: it must request one of them from R-Auth (audience=…); absent: those of the gateways (RAUTH_AUDIENCES); others, such as that of the admin API, only a platform administrator grants"`
	Roles                   []string        `json:"roles,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Scopes                  []string        `json:"scopes,omitempty" maxItems:"100" doc:"allowed scopes of its tokens; a caller grants a scope only with the permission of that name, except those of OpenID Connect"`
}

// ClientPost is a new client.
type ClientPost struct {
	Tenant string `json:"tenant,omitempty" maxLength:"64" doc:"permanent; absent: a client of the platform"`
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
		ClientID:   c.ClientID,
		Tenant:     c.Tenant,
		Status:     c.Status,
		Managed:    c.Managed,
		Sync:       c.Sync,
		SyncReason: c.Reason,
		Operation:  c.Operation,

		ClientName:              r.ClientName,
		TokenEndpointAuthMethod: r.TokenEndpointAuthMethod,
		GrantTypes:              sorted(r.GrantTypes),
		ResponseTypes:           sorted(r.ResponseTypes),
		RedirectURIs:            sorted(r.RedirectURIs),
		PostLogoutRedirectURIs:  sorted(r.PostLogoutRedirectURIs),
		JWKSURI:                 r.JWKSURI,
		JWKS:                    r.JWKS,
		Audience:                sorted(r.Audience),
		Roles:                   sorted(c.Roles),
		Scopes:                  sorted(c.Scopes),

		SecretState:     c.SecretState,
		OldSecretUntil:  optionalTime(c.RetireAt),
		TokensNotBefore: optionalTime(c.TokensNotBefore),
		CreatedAt:       c.CreatedAt.UTC(),
		UpdatedAt:       c.UpdatedAt.UTC(),
		Version:         c.Version,
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

func clientResource(c iam.ManagedClient, err error) (*resource[clientBody], error) {
	if err != nil {
		return nil, err
	}
	return &resource[clientBody]{Status: 200, ETag: etag(c.Version), Body: wireClient(c)}, nil
}

// clientChange is the response to a change of a client, which the identity provider may not have confirmed yet.
type clientChange struct {
	Status     int
	Location   string `header:"Location"`
	ETag       string `header:"ETag"`
	Preference string `header:"Preference-Applied" doc:"respond-async, if the request preferred it (RFC 7240)"`
	Body       *clientBody
}

// clientChanged is the response with a status: 202 where the change is pending.
func clientChanged(c call, status int, p Preferring, res clients.Result) *clientChange {
	body := wireClient(res.Client)
	body.ClientSecret, body.ClientSecretStatus = string(res.Secret), res.SecretStatus
	out := &clientChange{Status: status, ETag: etag(res.Client.Version), Body: &body}
	if status == http.StatusCreated || res.Pending {
		out.Location = clientPath(res.Client.ClientID)
	}
	if res.Pending {
		out.Status = http.StatusAccepted
		if p.async() {
			out.Preference = respondAsync
		}
	}
	if res.Replayed {
		c.header.Set("Idempotency-Replayed", "true")
	}
	return out
}

// OnClient is an input about a client, whose record names the tenant.
type OnClient struct {
	ID string `path:"id" maxLength:"255" doc:"client_id"`
}

func (i OnClient) target() target { return target{object: i.ID, client: true} }

// Preferring is an input whose caller may prefer not to wait for the identity provider.
type Preferring struct {
	Prefer string `header:"Prefer" maxLength:"200" doc:"respond-async: the response is 202, and the identity provider is updated later (RFC 7240)"`
}

const respondAsync = "respond-async"

func (p Preferring) async() bool {
	for preference := range strings.SplitSeq(p.Prefer, ",") {
		name, _, _ := strings.Cut(preference, ";")
		if strings.EqualFold(strings.TrimSpace(name), respondAsync) {
			return true
		}
	}
	return false
}

func (c call) clientRequest(p Preferring) clients.Request {
	return clients.Request{Caller: c.caller, Task: c.task, Key: c.key, Later: p.async()}
}

type listClientsIn struct {
	Paged
	Tenant string `query:"tenant" maxLength:"64" doc:"id of the tenant; absent: the whole platform"`
	Status string `query:"status" enum:"active,blocked,deleted"`
	Sync   string `query:"sync" enum:"in_sync,pending,failed"`
	Type   string `query:"type" enum:"public,confidential"`
	Role   string `query:"role" maxLength:"64" doc:"assigned directly"`
	Name   string `query:"name" maxLength:"200" doc:"a part of client_name, in any letter case"`
}

func (i listClientsIn) target() target { return target{tenant: i.Tenant} }

func (a *server) listClients(ctx context.Context, w *admin.Work, in *listClientsIn) (*collection[clientBody], error) {
	f := postgres.ClientFilter{
		Tenant: in.Tenant,
		Status: in.Status,
		Sync:   in.Sync,
		Type:   in.Type,
		Role:   in.Role,
		Name:   in.Name,
		Limit:  in.Limit + 1,
	}
	if err := in.cursor(&f.After); err != nil {
		return nil, err
	}
	list, err := w.Clients(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireClient, func(c iam.ManagedClient) []any { return []any{c.ClientID} })
}

func (a *server) readClient(ctx context.Context, w *admin.Work, in *OnClient) (*resource[clientBody], error) {
	return clientResource(w.Client(ctx, in.ID))
}

type createClientIn struct {
	Repeatable
	Preferring
	Body ClientPost
}

func (i createClientIn) target() target { return target{tenant: i.Body.Tenant} }

func (a *server) createClient(ctx context.Context, c call, in *createClientIn) (*clientChange, error) {
	res, err := a.Clients.Create(ctx, c.clientRequest(in.Preferring), in.Body.Tenant, in.Body.edit())
	if err != nil {
		return nil, err
	}
	return clientChanged(c, http.StatusCreated, in.Preferring, res), nil
}

func (a *server) putClient(ctx context.Context, c call, in *struct {
	OnClient
	Conditional
	Preferring
	Body ClientPut
},
) (*clientChange, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	res, err := a.Clients.Put(ctx, c.clientRequest(in.Preferring), in.ID, in.Body.edit(), cond)
	if err != nil {
		return nil, err
	}
	return clientChanged(c, http.StatusOK, in.Preferring, res), nil
}

func (a *server) patchClient(ctx context.Context, w *admin.Work, in *struct {
	OnClient
	Conditional
	Body struct {
		Status string `json:"status" enum:"active,blocked"`
	} `contentType:"application/merge-patch+json"`
},
) (*resource[clientBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return clientResource(w.SetClientStatus(ctx, in.ID, in.Body.Status, cond))
}

func (a *server) revokeClient(ctx context.Context, w *admin.Work, in *struct {
	OnClient
	Repeatable
	Body *struct {
		Before *time.Time `json:"before,omitempty" doc:"tokens issued earlier, or less than 5 s later, are rejected; absent: now. It never moves back."`
	}
},
) (*resource[clientBody], error) {
	var before time.Time
	if in.Body != nil {
		before = timeOrZero(in.Body.Before)
	}
	return clientResource(w.RevokeClientTokens(ctx, in.ID, before))
}

func (a *server) rotateClient(ctx context.Context, c call, in *struct {
	OnClient
	Repeatable
	Conditional
	Body *struct {
		Overlap   string `json:"overlap,omitempty" maxLength:"20" default:"24h" doc:"how long the old secret stays valid, as in 24h or 90m, 720h at most; 0: it is revoked at once"`
		RetireOld bool   `json:"retire_old,omitempty" doc:"ends the current overlap, if there is one"`
	}
},
) (*clientChange, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	rot := clients.Rotation{Overlap: 24 * time.Hour}
	if in.Body != nil {
		rot.RetireOld = in.Body.RetireOld
		if in.Body.Overlap != "" {
			if rot.Overlap, err = time.ParseDuration(in.Body.Overlap); err != nil {
				return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/overlap", Detail: "must be a duration as in 24h or 90m, or 0"}})
			}
		}
	}
	res, err := a.Clients.Rotate(ctx, c.clientRequest(Preferring{}), in.ID, cond, rot)
	if err != nil {
		return nil, err
	}
	res.Pending = false
	return clientChanged(c, http.StatusOK, Preferring{}, res), nil
}

func (a *server) deleteClient(ctx context.Context, c call, in *struct {
	OnClient
	Conditional
	Preferring
},
) (*clientChange, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	res, err := a.Clients.Delete(ctx, c.clientRequest(in.Preferring), in.ID, cond)
	if err != nil {
		return nil, err
	}
	if !res.Pending {
		return &clientChange{Status: http.StatusNoContent}, nil
	}
	return clientChanged(c, http.StatusAccepted, in.Preferring, res), nil
}
