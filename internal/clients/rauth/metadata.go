package rauth

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"iam-service/internal/iam"
)

// clientBody is a response with a client.
type clientBody struct {
	iam.Registration
	Secret string `json:"client_secret,omitempty"`
}

// UnmarshalJSON reads a client, and at least the id of one that has fields of other types: one
// malformed client must not hide all others.
func (r *clientBody) UnmarshalJSON(text []byte) error {
	type plain clientBody
	var all plain
	err := json.Unmarshal(text, &all)
	if err == nil {
		*r = clientBody(all)
		r.Unmanaged = unmanaged(text)
		return nil
	}
	var partial struct {
		ID     string    `json:"client_id"`
		Marks  iam.Marks `json:"metadata"`
		Secret string    `json:"client_secret"`
	}
	if json.Unmarshal(text, &partial) != nil || partial.ID == "" {
		return err
	}
	*r = clientBody{iam.Registration{ClientID: partial.ID, Metadata: partial.Marks, Unmanaged: unmanaged(text)}, partial.Secret}
	return nil
}

// managed are the fields of a client that we write.
var managed = func() (names []string) {
	t := reflect.TypeFor[iam.Registration]()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}()

// readOnly are fields of a response that a request must not contain (RFC 7592, section 2.2),
// and the times that Ory Hydra adds.
var readOnly = []string{"client_secret", "client_secret_expires_at", "client_id_issued_at", "registration_access_token", "registration_client_uri", "created_at", "updated_at"}

// sensitive are fields that we do not manage and that change what a client is authorized for,
// or where its tokens go; so are all whose names end in _lifespan.
var sensitive = []string{
	"skip_consent", "skip_logout_consent", "access_token_strategy", "allowed_cors_origins", "frontchannel_logout_uri", "backchannel_logout_uri",
	"request_uris", "sector_identifier_uri", "subject_type", "token_endpoint_auth_signing_alg",
}

// unmanaged names the sensitive fields of a client that have another value than the
// provider's default: an empty one, and "public" of subject_type.
func unmanaged(text []byte) (names []string) {
	var all map[string]any
	_ = json.Unmarshal(text, &all) // no object: it has none
	for name, v := range all {
		if !slices.Contains(sensitive, name) && !strings.HasSuffix(name, "_lifespan") {
			continue
		}
		switch v := v.(type) {
		case nil:
			continue
		case bool:
			if !v {
				continue
			}
		case float64:
			if v == 0 {
				continue
			}
		case string:
			if v == "" || name == "subject_type" && v == "public" {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// merge replaces the managed fields of a client, and removes those that are empty.
func merge(there map[string]json.RawMessage, r iam.Registration) error {
	encoded, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var ours map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &ours); err != nil {
		return err
	}
	var marks map[string]json.RawMessage
	if json.Unmarshal(there["metadata"], &marks) != nil || marks == nil {
		marks = map[string]json.RawMessage{} // no object: it has no marks of others
	}
	for name, value := range r.Metadata {
		if marks[name], err = json.Marshal(value); err != nil {
			return err
		}
	}
	if ours["metadata"], err = json.Marshal(marks); err != nil {
		return err
	}
	for _, name := range slices.Concat(managed, readOnly) {
		if name == "audience" && len(r.Audience) == 0 {
			continue // a client of a version that did not manage audiences
		}
		delete(there, name)
	}
	maps.Copy(there, ours)
	return nil
}
