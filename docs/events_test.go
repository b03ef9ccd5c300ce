// Package docs_test compares the documents with the code.
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

var update = flag.Bool("update", false, "rewrite the documents")

// events.md and asyncapi.yaml are made from iam.Events: go test ./docs -update
func TestDocumentsOfEventsMatchTheCode(t *testing.T) {
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
			t.Errorf("%s does not match the code (%v): go test ./docs -update", name, err)
		}
	}
}

// schemas are the JSON Schemas of all data, by name of their types.
func schemas(t *testing.T) (names []string, byName map[string]any) {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	seen := map[string]bool{}
	for _, e := range iam.Events {
		typ := dataOf(e)
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
		s.(map[string]any)["additionalProperties"] = true // a consumer ignores fields that are added later
	}
	return names, byName
}

// dataOf is the type of an event's data, which the event embeds.
func dataOf(e iam.EventDoc) reflect.Type { return reflect.TypeOf(e.Event).Field(0).Type }

func asyncAPI(t *testing.T) []byte {
	t.Helper()
	_, data := schemas(t)
	messages, all := map[string]any{}, map[string]any{}
	for _, e := range iam.Events {
		name := e.Event.EventType()
		all[name] = map[string]any{"$ref": "#/components/messages/" + name}
		messages[name] = map[string]any{
			"name": name, "title": e.Summary, "contentType": "application/cloudevents+json",
			"payload": map[string]any{"allOf": []any{
				map[string]any{"$ref": "#/components/schemas/CloudEvent"},
				map[string]any{"type": "object", "properties": map[string]any{
					"type": map[string]any{"const": name},
					"data": map[string]any{"$ref": "#/components/schemas/" + dataOf(e).Name()},
				}},
			}},
		}
	}
	str := func(doc string) map[string]any { return map[string]any{"type": "string", "description": doc} }
	data["CloudEvent"] = map[string]any{
		"type": "object", "required": []any{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"},
		"properties": map[string]any{
			"specversion": map[string]any{"const": "1.0"}, "id": str("UUID; also the Nats-Msg-Id, unless it is a replay: a repeated event has the same id"), "source": map[string]any{"const": "iam-service"},
			"type": str("type of the event"), "subject": str("id or name of the object"), "time": map[string]any{"type": "string", "format": "date-time"},
			"datacontenttype": map[string]any{"const": "application/json"}, "data": map[string]any{"type": "object"},
			"traceparent": str("trace of the request that changed something, if it had one (CloudEvents' distributed tracing extension)"),
		},
	}
	doc := map[string]any{
		"asyncapi": "3.0.0",
		"info":     map[string]any{"title": "iam-service", "version": "1.0.0", "description": "Events about tenants, roles, users, members, mappings, clients and policies. See events.md."},
		"channels": map[string]any{"events": map[string]any{
			"address": "iam.{tenant}.{kind}.{object}.{type}", "messages": all,
			"parameters": map[string]any{
				"tenant": map[string]any{"description": "id of the tenant; _ for the platform"}, "kind": map[string]any{"description": "kind of the object", "enum": kinds()},
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
	return append([]byte("# Generated from the code: go test ./docs -update\n"), b...)
}

func kinds() []any {
	var list []any
	seen := map[string]bool{}
	for _, e := range iam.Events {
		if kind := e.Event.EventKey().Kind; !seen[kind] {
			list, seen[kind] = append(list, kind), true
		}
	}
	return list
}

func markdown(t *testing.T) []byte {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# Events

<!-- Generated from the code: go test ./docs -update -->

Every change of state is recorded in the outbox in its own transaction, as an event in the past tense
([CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md)). Types are numbered:
a change that could break a consumer gets a new number. Fields may be added; ignore those that you do not
know. For programs: [asyncapi.yaml](asyncapi.yaml).

**Where.** NATS JetStream, stream ` + "`IAM`" + ` (` + "`NATS_STREAM`" + `), subject ` + "`iam.<tenant>.<kind>.<object>.<type>`" + `. The
tenant is ` + "`_`" + ` for the platform. Characters that a subject cannot hold are percent-encoded (` + "`a.b`" + ` is ` + "`a%2Eb`" + `).
A type has a dot of its own, so all new tenants are ` + "`iam.*.tenant.*.TenantCreated.v1`" + `, and all events of one
tenant are ` + "`iam.acme.>`" + `. The body is the whole CloudEvent as JSON.

**At least once.** A repeated event has the same ` + "`id`" + `, which is also the ` + "`Nats-Msg-Id`" + `: the stream drops
duplicates for ten minutes. A replay by an operator has the original ` + "`id`" + ` and a new ` + "`Nats-Msg-Id`" + `, so that the
stream accepts it: deduplicate by ` + "`id`" + `.

**Traces.** An event of a request with a trace context has it in the attribute ` + "`traceparent`" + ` (the distributed
tracing extension of CloudEvents), also where this service does not trace. The message has a header
` + "`traceparent`" + `: the span that published it, else the same value.

**Nothing personal, nothing secret.** A person is our id. Issuer, subject and values of attributes are left
out: a consumer that needs them reads the admin API, which is audited.

**Order.** Events of one object (tenant, kind and object together) keep their order. Events of different
objects do not.

| type | meaning | data |
| --- | --- | --- |
`)
	for _, e := range iam.Events {
		name := dataOf(e).Name()
		fmt.Fprintf(&b, "| `%s` | %s | [%s](#%s) |\n", e.Event.EventType(), e.Summary, name, strings.ToLower(name))
	}
	b.WriteString("\nOne change can be several events. Adding a user to a tenant with roles is `MemberAdded.v1`, then\n" +
		"`UserRolesAssigned.v1`, with `UserCreated.v1` before them for a new user. Erasing a user ends each membership\n" +
		"(`MemberRemoved.v1`). Deleting a tenant ends everything in it, without further events.\n")
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
