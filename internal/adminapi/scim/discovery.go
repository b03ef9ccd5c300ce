package scim

import (
	"context"
	"net/http"
	"slices"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// described serves a document about the service to a client that provisions the tenant. What it returns for an id is the one
// document of that id.
func (s *server) described(document func(tenant string) any) handler {
	return func(w http.ResponseWriter, r *request) error {
		err := s.Service.Do(r.Context(), r.caller, r.task("read"), func(_ context.Context, work *admin.Work) error {
			return work.CheckProvisioner(r.tenant)
		})
		if err != nil {
			return err
		}
		v := document(r.tenant)
		list, isList := v.([]resource)
		switch id := r.id(); {
		case !isList:
			return encode(w, http.StatusOK, v)
		case id == "":
			all := page{Schemas: []string{listSchema}, TotalResults: len(list), StartIndex: 1, ItemsPerPage: len(list), Resources: list}
			return encode(w, http.StatusOK, all)
		default:
			i := slices.IndexFunc(list, func(d resource) bool { return d["id"] == id })
			if i < 0 {
				return iam.Errorf(iam.NotFound, "not found")
			}
			return encode(w, http.StatusOK, list[i])
		}
	}
}

// serviceProviderConfig is RFC 7643, section 5, with the paging of RFC 9865, section 4.
func serviceProviderConfig(tenant string) any {
	supported := func(is bool) map[string]any { return map[string]any{"supported": is} }
	return resource{
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"},
		"patch":   supported(true),
		"bulk":    map[string]any{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"filter":  map[string]any{"supported": true, "maxResults": maxCount},
		"pagination": map[string]any{
			"cursor": true, "index": true, "defaultPaginationMethod": "index", "defaultPageSize": defaultCount, "maxPageSize": maxCount,
		},
		"changePassword": supported(false),
		"sort":           supported(false),
		"etag":           supported(true),
		"authenticationSchemes": []map[string]any{{
			"type": "oauthbearertoken", "name": "OAuth Bearer Token",
			"description": "An access token of a client of the tenant with the scope scim, for the audience of the admin API",
			"specUri":     "https://www.rfc-editor.org/info/rfc6750", "primary": true,
		}},
		"meta": map[string]any{"resourceType": "ServiceProviderConfig", "location": "/scim/v2/" + tenant + "/ServiceProviderConfig"},
	}
}

func resourceTypes(tenant string) any {
	kind := func(name, endpoint, schema, description string) resource {
		return resource{
			"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ResourceType"},
			"id":      name, "name": name, "endpoint": endpoint, "description": description, "schema": schema,
			"schemaExtensions": []any{},
			"meta":             map[string]any{"resourceType": "ResourceType", "location": path(tenant, "ResourceTypes", name)},
		}
	}
	return []resource{
		kind("User", "/Users", userSchema, "A member of the tenant"),
		kind("Group", "/Groups", groupSchema, "A group of members; an administrator maps it to roles"),
	}
}

// described attributes (RFC 7643, section 7). Those that are not listed are ignored where they are written.
func schemas(tenant string) any {
	schema := func(id, name, description string, attributes ...map[string]any) resource {
		return resource{
			"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Schema"},
			"id":      id, "name": name, "description": description, "attributes": attributes,
			"meta": map[string]any{"resourceType": "Schema", "location": path(tenant, "Schemas", id)},
		}
	}
	attr := func(name, kind, description string, more map[string]any) map[string]any {
		a := map[string]any{
			"name": name, "type": kind, "multiValued": false, "description": description, "required": false,
			"mutability": "readWrite", "returned": "default", "uniqueness": "none",
		}
		if kind == "string" {
			a["caseExact"] = false
		}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	type more = map[string]any
	return []resource{
		schema(userSchema, "User", "A member of the tenant. No profile is stored.",
			attr("userName", "string", "The subject of the user's tokens (sub). It never changes.",
				more{"required": true, "caseExact": true, "mutability": "immutable", "uniqueness": "server"}),
			attr("active", "boolean", "Whether the membership is active; false suspends it.", nil),
			attr("groups", "complex", "The groups of the user.", more{
				"multiValued": true, "mutability": "readOnly",
				"subAttributes": []map[string]any{
					attr("value", "string", "The id of the group.", more{"mutability": "readOnly", "caseExact": true}),
					attr("$ref", "reference", "The URI of the group.", more{"mutability": "readOnly", "referenceTypes": []string{"Group"}}),
					attr("display", "string", "The displayName of the group.", more{"mutability": "readOnly"}),
					attr("type", "string", "direct", more{"mutability": "readOnly", "canonicalValues": []string{"direct"}}),
				},
			}),
		),
		schema(groupSchema, "Group", "A group of members of the tenant.",
			attr("displayName", "string", "The name of the group. It means nothing here.", more{"required": true, "uniqueness": "server"}),
			attr("members", "complex", "The members of the group: users.", more{
				"multiValued": true,
				"subAttributes": []map[string]any{
					attr("value", "string", "The id of the user.", more{"required": true, "mutability": "immutable", "caseExact": true}),
					attr("$ref", "reference", "The URI of the user.", more{"mutability": "immutable", "referenceTypes": []string{"User"}}),
					attr("type", "string", "User", more{"mutability": "immutable", "canonicalValues": []string{"User"}}),
				},
			}),
		),
	}
}
