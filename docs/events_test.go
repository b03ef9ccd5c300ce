// Package docs_test keeps what the documents say of the code true.
package docs_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"sigs.k8s.io/yaml"

	"iam-service/internal/iam"
)

var update = flag.Bool("update", false, "write the documents anew")

// events.md and asyncapi.yaml are made from iam.Events: go test ./docs -update
func TestTheDocumentsOfEventsSayWhatTheCodeSays(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]byte{"events.md": markdown(t), "asyncapi.yaml": asyncAPI(t)} {
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code says (%v): go test ./docs -update", name, err)
		}
	}
}

// schemas are the JSON Schemas of all data, by name of their types.
func schemas(t *testing.T) (names []string, byName map[string]any) {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	seen := map[string]bool{}
	for _, e := range iam.Events {
		typ := reflect.TypeOf(e.Data)
		registry.Schema(typ, true, "")
		if !seen[typ.Name()] {
			names, seen[typ.Name()] = append(names, typ.Name()), true
		}
	}
	b, err := json.Marshal(registry.Map())
	if err == nil {
		err = json.Unmarshal(b, &byName)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range byName {
		s.(map[string]any)["additionalProperties"] = true // a reader passes over what is added later
	}
	return names, byName
}

func asyncAPI(t *testing.T) []byte {
	t.Helper()
	_, data := schemas(t)
	messages, all := map[string]any{}, map[string]any{}
	for _, e := range iam.Events {
		name := e.Type
		all[name] = map[string]any{"$ref": "#/components/messages/" + name}
		messages[name] = map[string]any{
			"name": name, "title": e.Says, "contentType": "application/cloudevents+json",
			"payload": map[string]any{"allOf": []any{
				map[string]any{"$ref": "#/components/schemas/CloudEvent"},
				map[string]any{"type": "object", "properties": map[string]any{
					"type": map[string]any{"const": name},
					"data": map[string]any{"$ref": "#/components/schemas/" + reflect.TypeOf(e.Data).Name()},
				}},
			}},
		}
	}
	str := func(doc string) map[string]any { return map[string]any{"type": "string", "description": doc} }
	data["CloudEvent"] = map[string]any{
		"type": "object", "required": []any{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"},
		"properties": map[string]any{
			"specversion": map[string]any{"const": "1.0"}, "id": str("UUID; also the Nats-Msg-Id, unless it is a replay: the same event twice has one id"), "source": map[string]any{"const": "iam-service"},
			"type": str("what happened"), "subject": str("id or name of what it happened to"), "time": map[string]any{"type": "string", "format": "date-time"},
			"datacontenttype": map[string]any{"const": "application/json"}, "data": map[string]any{"type": "object"},
		},
	}
	doc := map[string]any{
		"asyncapi": "3.0.0",
		"info":     map[string]any{"title": "iam-service", "version": "1.0.0", "description": "What has become true about tenants, roles, users, members and mappings. See events.md."},
		"channels": map[string]any{"events": map[string]any{
			"address": "iam.{tenant}.{kind}.{object}.{type}", "messages": all,
			"parameters": map[string]any{
				"tenant": map[string]any{"description": "id of the tenant; _ for the platform"}, "kind": map[string]any{"description": "what it happened to", "enum": kinds()},
				"object": map[string]any{"description": "id or name"}, "type": map[string]any{"description": "type of the event"},
			},
		}},
		"operations": map[string]any{"announce": map[string]any{"action": "send", "channel": map[string]any{"$ref": "#/channels/events"}}},
		"components": map[string]any{"messages": messages, "schemas": data},
	}
	b, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("# Made from the code: go test ./docs -update\n"), b...)
}

func kinds() []any {
	var list []any
	seen := map[string]bool{}
	for _, e := range iam.Events {
		if !seen[e.Kind] {
			list, seen[e.Kind] = append(list, e.Kind), true
		}
	}
	return list
}

func markdown(t *testing.T) []byte {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# Events

<!-- Made from the code: go test ./docs -update -->

Every change of state is written to the outbox in the transaction that makes it true, as an event in the past tense
([CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md)). Types are numbered: what could break a reader gets
a new number. Fields may be added; pass over those that you do not know. For programs: [asyncapi.yaml](asyncapi.yaml).

**Where.** NATS JetStream, stream ` + "`IAM`" + ` (` + "`NATS_STREAM`" + `), subject ` + "`iam.<tenant>.<kind>.<object>.<type>`" + `: the tenant is ` + "`_`" + ` for the platform, and what cannot
stand in a subject is percent-encoded (` + "`a.b`" + ` is ` + "`a%2Eb`" + `). A type has a dot of its own, so all new tenants are ` + "`iam.*.tenant.*.TenantCreated.v1`" + `, and all of one
tenant is ` + "`iam.acme.>`" + `. The body is the whole CloudEvent as JSON.

**At least once.** The same event twice has one ` + "`id`" + `, which is also the ` + "`Nats-Msg-Id`" + `: the stream drops a second one for ten minutes. An operator can have
events sent again, with their ` + "`id`" + ` and a ` + "`Nats-Msg-Id`" + ` of their own, so that they arrive: drop by ` + "`id`" + ` those that you know.

**Nothing personal, nothing secret.** A person is our id. Issuer, subject and values of attributes do not travel: who needs them
asks the admin API, and is audited.

**Order.** Events of one object (tenant, kind and object together) keep their order. Events of different objects do not.

| type | what is true now | data |
| --- | --- | --- |
`)
	for _, e := range iam.Events {
		name := reflect.TypeOf(e.Data).Name()
		fmt.Fprintf(&b, "| `%s` | %s | [%s](#%s) |\n", e.Type, e.Says, name, strings.ToLower(name))
	}
	b.WriteString("\nOne change can be several events: who is added to a tenant with roles is `MemberAdded.v1`, then `UserRolesAssigned.v1`; if they were not known,\n`UserCreated.v1` before. With a user who is erased, each membership ends (`MemberRemoved.v1`); with a tenant that is deleted, all in it does, without further events.\n")
	names, byName := schemas(t)
	for _, name := range names {
		schema, err := json.MarshalIndent(byName[name], "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n## %s\n\n```json\n%s\n```\n", name, schema)
	}
	return []byte(b.String())
}
