package adminapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What Okta sends, as in its SCIM 2.0 reference (developer.okta.com, "Okta SCIM API"): the test of the connector, a new user who
// may exist, a changed profile by PUT, deactivation by PATCH without a path, and a pushed group.
func TestOktasRequestsAreServed(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	if r := p.must(200, "GET", "/Users?startIndex=1&count=2", nil); r.field("startIndex") != 1.0 || r.field("itemsPerPage") != 2.0 {
		t.Errorf("the test of the connector: %s", r)
	}
	if r := p.must(200, "GET", `/Users?filter=userName%20eq%20%2200u1%22&startIndex=1&count=100`, nil); r.field("totalResults") != 0.0 || r.field("Resources") == nil {
		t.Errorf("an unknown user: %s", r)
	}
	r := p.must(201, "POST", "/Users", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"00u1","name":{"givenName":"Test","familyName":"User"},
		"emails":[{"primary":true,"value":"test.user@example.com","type":"work"}],"displayName":"Test User","locale":"en-US","externalId":"00ujl29u0le5T6Aj10h7","groups":[],"password":"1mz050nq","active":true}`)
	id, _ := r.field("id").(string)
	p.must(409, "POST", "/Users", `{"userName":"00u1","active":true}`)
	r = p.must(200, "PUT", "/Users/"+id, `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"id":"`+id+`","userName":"00u1","name":{"givenName":"Another","middleName":"","familyName":"User"},
		"emails":[{"primary":true,"value":"test.user@example.com","type":"work","display":"test.user@example.com"}],"active":true,"groups":[],"meta":{"resourceType":"User"}}`)
	if r.field("active") != true {
		t.Errorf("replaced: %s", r)
	}
	r = p.must(200, "PATCH", "/Users/"+id, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","value":{"active":false}}]}`)
	if r.field("active") != false {
		t.Errorf("deactivated: %s", r)
	}
	p.must(200, "PATCH", "/Users/"+id, `{"Operations":[{"op":"replace","value":{"active":true}}]}`)
	r = p.must(201, "POST", "/Groups", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":"Test SCIMv2","members":[]}`)
	group, _ := r.field("id").(string)
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"replace","value":{"id":"`+group+`","displayName":"Test SCIMv2 renamed"}}]}`)
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"remove","path":"members[value eq \"00000000-0000-0000-0000-000000000000\"]"},
		{"op":"add","path":"members","value":[{"value":"`+id+`","display":"test.user@example.com"}]}]}`)
	r = p.must(200, "GET", "/Groups/"+group, nil)
	if r.field("displayName") != "Test SCIMv2 renamed" || !slices.Equal(memberIDs(r), []string{id}) {
		t.Errorf("the group: %s", r)
	}
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"replace","path":"members","value":[]}]}`)
	p.must(204, "DELETE", "/Groups/"+group, nil)
}

// What Entra ID sends, as in "Develop and plan provisioning for a SCIM endpoint" (learn.microsoft.com): a query by a random
// name, op with a capital, booleans as strings, simple attributes as lists, members to remove in the value.
func TestEntraIDsRequestsAreServed(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	p.must(200, "GET", `/Users?filter=userName+eq+%22non-existent%20user%22`, nil)
	r := p.must(201, "POST", "/Users", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],
		"externalId":"0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef","userName":"Test_User_ab6490ee","active":true,"emails":[{"primary":true,"type":"work","value":"t@example.com"}],
		"meta":{"resourceType":"User"},"name":{"formatted":"givenName familyName","familyName":"familyName","givenName":"givenName"},"roles":[]}`)
	id, _ := r.field("id").(string)
	if r := p.must(200, "GET", `/Users?filter=externalId%20eq%20%220a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef%22`, nil); r.field("totalResults") != 1.0 {
		t.Errorf("by externalId: %s", r)
	}
	for _, body := range []string{
		`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"Replace","path":"emails[type eq \"work\"].value","value":"updated@example.com"},{"op":"Replace","path":"name.familyName","value":"updated"}]}`,
		`{"Operations":[{"op":"Add","path":"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department","value":"x"},{"op":"add","value":{"name.givenName":"x","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager":"y"}}]}`,
		`{"Operations":[{"op":"Replace","path":"displayName","value":[{"$ref":null,"value":"x"}]}]}`,
	} {
		if got := p.must(200, "PATCH", "/Users/"+id, body); got.field("active") != true || got.field("userName") != "Test_User_ab6490ee" {
			t.Errorf("%s: %s", body, got)
		}
	}
	for i, value := range []string{`"False"`, `"True"`, `false`, `true`, `[{"$ref":null,"value":"false"}]`, `"true"`} {
		r := p.must(200, "PATCH", "/Users/"+id, `{"Operations":[{"op":"Replace","path":"active","value":`+value+`}]}`)
		if want := i%2 == 1; r.field("active") != want {
			t.Errorf("active by %s: %s", value, r)
		}
	}
	r = p.must(201, "POST", "/Groups", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group","http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
		"externalId":"8aa1a0c0-c4c3-4bc0-b4a5-2ef676900159","displayName":"displayName","meta":{"resourceType":"Group"}}`)
	group, _ := r.field("id").(string)
	r = p.must(200, "GET", `/Groups?excludedAttributes=members&filter=displayName+eq+%22DISPLAYNAME%22`, nil)
	if r.field("totalResults") != 1.0 || strings.Contains(r.String(), "members") {
		t.Errorf("the group by its name: %s", r)
	}
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"Replace","path":"displayName","value":"1879db59"}]}`)
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"Add","path":"members","value":[{"$ref":null,"value":"`+id+`"}]}]}`)
	if r := p.must(200, "GET", "/Groups/"+group+"?excludedAttributes=members", nil); r.field("members") != nil {
		t.Errorf("without members: %s", r)
	}
	p.must(204, "PATCH", "/Groups/"+group, `{"Operations":[{"op":"Remove","path":"members","value":[{"$ref":null,"value":"`+id+`"}]}]}`)
	if got := memberIDs(p.must(200, "GET", "/Groups/"+group, nil)); len(got) != 0 {
		t.Errorf("after the removal: %v", got)
	}
	p.must(204, "DELETE", "/Groups/"+group, nil)
	p.must(204, "DELETE", "/Users/"+id, nil)
}

func TestSCIMFindsWhatAFilterNames(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ids := map[string]string{}
	for _, name := range []string{"Ann", "ann", `q"uote`, `back\slash`, "per%cent", "under_score"} {
		r := p.must(201, "POST", "/Users", map[string]any{"userName": name, "externalId": "x-" + name, "active": name != "ann"})
		ids[name], _ = r.field("id").(string)
	}
	group := p.group("Crew", ids["Ann"])
	for filter, want := range map[string]string{
		`userName eq "Ann"`: "Ann",
		`USERNAME Eq "Ann"`: "Ann",
		`urn:ietf:params:scim:schemas:core:2.0:User:userName eq "Ann"`: "Ann",
		`userName eq "q\"uote"`:                                          `q"uote`,
		`userName eq "back\\slash"`:                                      `back\slash`,
		`userName co "%"`:                                                "per%cent",
		`userName sw "under_"`:                                           "under_score",
		`userName sw "underX"`:                                           "",
		`userName ew "nn" and active eq false`:                           "ann",
		`userName ew "nn" and active eq "False"`:                         "ann",
		`userName ew "nn" and not (active eq true)`:                      "ann",
		`externalId eq "x-ann" or externalId eq "x-Ann"`:                 "Ann ann",
		`id eq "` + ids["Ann"] + `"`:                                     "Ann",
		`id eq "x"`:                                                      "",
		`userName gt "Am" and userName lt "Ao"`:                          "Ann",
		`userName ne "Ann" and (userName ge "an" and userName le "anz")`: "ann",
		`userName sw "Ann" and externalId pr and meta.created gt "2020-01-01T00:00:00Z"`: "Ann",
		`meta.lastModified lt "2020-01-01T00:00:00Z"`:                                    "",
		`userName eq "\u0041nn"`:                                                         "Ann",
	} {
		var names []string
		r := p.must(200, "GET", "/Users?filter="+escape(filter), nil)
		list, _ := r.field("Resources").([]any)
		for _, u := range list {
			one, _ := u.(map[string]any)
			name, _ := one["userName"].(string)
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want || r.field("totalResults") != float64(len(names)) {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
	for filter, want := range map[string]float64{
		`displayName eq "crew"`: 1, `displayName sw "CR"`: 1, `members eq "` + ids["Ann"] + `"`: 1, `members.value eq "` + ids["ann"] + `"`: 0,
		`members[value eq "` + ids["Ann"] + `"]`: 1, `members pr`: 1, `members eq "x"`: 0, `id eq "` + group + `" and externalId pr`: 0,
	} {
		if r := p.must(200, "GET", "/Groups?filter="+escape(filter), nil); r.field("totalResults") != want {
			t.Errorf("%s: got %s, want %v", filter, r, want)
		}
	}
	for _, filter := range []string{
		`emails.value eq "x"`, `emails[type eq "work"]`, `userName`, `userName eq`, `userName xx "a"`, `userName eq "a`, `active gt true`, `userName eq 1`, `active eq "x"`,
		`meta.created eq "yesterday"`, `userName eq "\x"`, `userName eq "\u0000"`, `(((((((((userName pr)))))))))`, strings.Repeat("a", 3000), `members eq "x"`, `userName eq null`,
	} {
		if r := p.must(400, "GET", "/Users?filter="+escape(filter), nil); r.field("scimType") != "invalidFilter" {
			t.Errorf("%s: %s", filter, r)
		}
	}
}

func TestSCIMListsHavePagesOfBothKinds(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	for i := range 7 {
		p.user(fmt.Sprint("page-", i))
	}
	of := "filter=" + escape(`userName sw "page-"`)
	seen := map[string]bool{}
	for start := 1; start <= 7; start += 3 {
		r := p.must(200, "GET", fmt.Sprintf("/Users?%s&count=3&startIndex=%d", of, start), nil)
		list, _ := r.field("Resources").([]any)
		if r.field("totalResults") != 7.0 || r.field("startIndex") != float64(start) || r.field("itemsPerPage") != float64(len(list)) {
			t.Errorf("page from %d: %s", start, r)
		}
		for _, u := range list {
			id, _ := u.(map[string]any)["id"].(string)
			seen[id] = true
		}
	}
	if len(seen) != 7 {
		t.Errorf("pages by index have %d users", len(seen))
	}
	pages := 0
	for next := ""; ; pages++ {
		r := p.must(200, "GET", "/Users?"+of+"&count=3&cursor="+next, nil)
		list, _ := r.field("Resources").([]any)
		for _, u := range list {
			id, _ := u.(map[string]any)["id"].(string)
			if pages == 0 && next == "" && len(seen) == 7 {
				seen = map[string]bool{}
			}
			if seen[id] {
				t.Errorf("%s is on two pages", id)
			}
			seen[id] = true
		}
		if next, _ = r.field("nextCursor").(string); next == "" {
			break
		}
	}
	if pages != 2 || len(seen) != 7 {
		t.Errorf("%d pages by cursor after the first, %d users", pages, len(seen))
	}
	if r := p.must(200, "GET", "/Users?"+of+"&count=0", nil); r.field("totalResults") != 7.0 || r.field("itemsPerPage") != 0.0 {
		t.Errorf("no entries: %s", r)
	}
	p.must(200, "GET", "/Users?count=-1&startIndex=-5", nil)
	p.must(200, "GET", "/Users?sortBy=userName&sortOrder=descending", nil)
	for query, kind := range map[string]string{"cursor=x": "invalidCursor", "cursor=%00": "invalidCursor", "count=x": "invalidValue", "startIndex=9999999": "invalidValue", "cursor=&startIndex=1": "invalidValue"} {
		if r := p.must(400, "GET", "/Users?"+query, nil); r.field("scimType") != kind {
			t.Errorf("%s: %s", query, r)
		}
	}
	r := p.must(200, "POST", "/Users/.search", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:SearchRequest"],"attributes":["userName"],"filter":"userName sw \"page-\"","startIndex":1,"count":2}`)
	if r.field("totalResults") != 7.0 || r.field("itemsPerPage") != 2.0 || strings.Contains(r.String(), "active") {
		t.Errorf("searched: %s", r)
	}
	a, b := p.group("One"), p.group("Two")
	r = p.must(200, "GET", "/Groups?count=1&cursor=", nil)
	next, _ := r.field("nextCursor").(string)
	if r = p.must(200, "GET", "/Groups?count=1&cursor="+next, nil); r.field("nextCursor") != nil || !strings.Contains(r.String(), max(a, b)) {
		t.Errorf("groups: %s", r)
	}
}

func TestSCIMShowsTheAttributesThatAreAskedFor(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ada := p.user("ada")
	g := p.group("G", ada)
	for query, want := range map[string]string{
		"?attributes=userName":                                          "id schemas userName",
		"?attributes=USERNAME,meta.created":                             "id meta schemas userName",
		"?attributes=urn:ietf:params:scim:schemas:core:2.0:User:active": "active id schemas",
		"?excludedAttributes=groups,meta,id":                            "active id schemas userName",
		"?attributes=emails":                                            "id schemas",
	} {
		var all map[string]any
		if err := json.Unmarshal(p.must(200, "GET", "/Users/"+ada+query, nil).body, &all); err != nil {
			t.Fatal(err)
		}
		names := make([]string, 0, len(all))
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	if r := p.must(200, "GET", "/Groups/"+g+"?attributes=members.value", nil); strings.Contains(r.String(), "$ref") || len(memberIDs(r)) != 1 {
		t.Errorf("a part of members: %s", r)
	}
	if r := p.must(200, "PATCH", "/Groups/"+g+"?attributes=displayName", patchOps(op("replace", "displayName", "H"))); r.field("displayName") != "H" || r.field("members") != nil {
		t.Errorf("a PATCH with attributes: %s", r)
	}
}

func TestSCIMRejectsWhatItCannotDo(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	ada := p.user("ada")
	p.must(200, "PUT", "/Users/"+ada, map[string]any{"userName": "ada", "externalId": "1"})
	bob := p.user("bob")
	g := p.group("G", ada)
	p.group("H")
	for _, c := range []struct {
		name, method, path string
		body               any
		status             int
		kind               string
	}{
		{"no JSON", "POST", "/Users", `{"userName":`, 400, "invalidSyntax"},
		{"no object", "POST", "/Users", `[]`, 400, "invalidSyntax"},
		{"a name twice", "POST", "/Users", `{"userName":"x","USERNAME":"y"}`, 400, "invalidSyntax"},
		{"no userName", "POST", "/Users", `{}`, 400, "invalidValue"},
		{"a userName that is no string", "POST", "/Users", `{"userName":1}`, 400, "invalidValue"},
		{"a userName that is no subject", "POST", "/Users", `{"userName":"ä"}`, 400, "invalidValue"},
		{"active that is no boolean", "POST", "/Users", `{"userName":"x","active":"yes"}`, 400, "invalidValue"},
		{"an externalId that is taken", "POST", "/Users", `{"userName":"new","externalId":"1"}`, 409, "uniqueness"},
		{"an externalId that is taken, by a change", "PATCH", "/Users/" + bob, patchOps(op("add", "externalId", "1")), 409, "uniqueness"},
		{"another userName", "PATCH", "/Users/" + ada, patchOps(op("replace", "userName", "eve")), 400, "mutability"},
		{"another userName by PUT", "PUT", "/Users/" + ada, `{"userName":"eve"}`, 400, "mutability"},
		{"an id", "PATCH", "/Users/" + ada, patchOps(op("replace", "id", "x")), 400, "mutability"},
		{"groups of a user", "PATCH", "/Users/" + ada, patchOps(op("add", "groups", refs(g))), 400, "mutability"},
		{"active removed", "PATCH", "/Users/" + ada, patchOps(op("remove", "active", nil)), 400, "mutability"},
		{"no operations", "PATCH", "/Users/" + ada, `{}`, 400, "invalidSyntax"},
		{"an unknown operation", "PATCH", "/Users/" + ada, patchOps(op("move", "active", true)), 400, "invalidSyntax"},
		{"no value", "PATCH", "/Users/" + ada, patchOps(op("add", "active", nil)), 400, "invalidValue"},
		{"no path to remove", "PATCH", "/Users/" + ada, patchOps(op("remove", "", nil)), 400, "noTarget"},
		{"a malformed path", "PATCH", "/Users/" + ada, patchOps(op("replace", "emails[type eq", "x")), 400, "invalidPath"},
		{"a part of a simple attribute", "PATCH", "/Users/" + ada, patchOps(op("replace", "active.x", true)), 400, "invalidPath"},
		{"a displayName that is taken", "POST", "/Groups", `{"displayName":"g"}`, 409, "uniqueness"},
		{"a displayName that is taken, by a change", "PATCH", "/Groups/" + g, patchOps(op("replace", "displayName", "h")), 409, "uniqueness"},
		{"no displayName", "POST", "/Groups", `{}`, 400, "invalidValue"},
		{"a group in a group", "POST", "/Groups", `{"displayName":"x","members":[{"value":"` + g + `","type":"Group"}]}`, 400, "invalidValue"},
		{"a member without a value", "POST", "/Groups", `{"displayName":"x","members":[{"display":"x"}]}`, 400, "invalidValue"},
		{"a member that is replaced", "PATCH", "/Groups/" + g, patchOps(op("replace", `members[value eq "`+ada+`"]`, refs(bob))), 400, "mutability"},
		{"members by an unknown part", "PATCH", "/Groups/" + g, patchOps(op("remove", `members[email eq "x"]`, nil)), 400, "invalidFilter"},
		{"another version", "PUT", "/Users/" + ada, `{"userName":"ada"}`, 412, ""},
		{"Bulk", "POST", "/Bulk", `{}`, 501, ""},
		{"Me", "GET", "/Me", nil, 501, ""},
		{"an unknown path", "GET", "/Devices", nil, 404, ""},
		{"an unknown method", "PATCH", "/Users", `{}`, 405, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			if c.status == 412 {
				headers = []string{`If-Match: W/"1"`}
			}
			r := p.send(c.method, c.path, c.body, headers...)
			kind, _ := r.field("scimType").(string)
			if r.status != c.status || kind != c.kind {
				t.Errorf("got %s, want %d %s", r, c.status, c.kind)
			}
		})
	}
	if r := p.send("POST", "/Users", `{}`, "Content-Type: text/plain"); r.status != 415 {
		t.Errorf("text: %s", r)
	}
	if r := p.send("POST", "/Users", `{"userName":"large","title":"`+strings.Repeat("x", 300<<10)+`"}`); r.status != 413 {
		t.Errorf("a large body: %s", r)
	}
	if got := memberIDs(p.must(200, "GET", "/Groups/"+g, nil)); !slices.Equal(got, []string{ada}) {
		t.Errorf("members after what was rejected: %v", got)
	}
}

func TestARetryOfSCIMHasNoFurtherEffect(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	first := p.must(201, "POST", "/Users", `{"userName":"ada"}`, "Idempotency-Key: 1")
	again := p.must(201, "POST", "/Users", `{"userName":"ada"}`, "Idempotency-Key: 1")
	if first.field("id") != again.field("id") {
		t.Errorf("%s and %s", first, again)
	}
	p.must(400, "POST", "/Users", `{"userName":"bob"}`, "Idempotency-Key: 1")
	id, _ := first.field("id").(string)
	g := p.group("G")
	add := patchOps(op("add", "members", refs(id)))
	tag := p.must(204, "PATCH", "/Groups/"+g, add).header.Get("ETag")
	if got := p.must(204, "PATCH", "/Groups/"+g, add).header.Get("ETag"); got != tag {
		t.Errorf("a repeated change makes the version %s, was %s", got, tag)
	}
}

func TestSCIMWritesAreLimitedForEachClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{scimWrites: 3})
	p := w.provision("acme")
	for i := range 3 {
		p.user(fmt.Sprint("u", i))
	}
	if r := p.send("POST", "/Users", `{"userName":"more"}`); r.status != 429 || r.header.Get("Retry-After") == "" {
		t.Errorf("got %s %v", r, r.header)
	}
	p.must(200, "GET", "/Users?count=1", nil) // reads are not limited
	w.provision("globex").user("other")
}

func TestProvisioningIsAuditedAndPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	p := w.provision("acme")
	r := p.must(201, "POST", "/Users", `{"userName":"ada","externalId":"secret-external-id"}`)
	ada, _ := r.field("id").(string)
	g := p.group("G", ada)
	p.role("writer")
	p.maps(g, "writer")
	p.must(200, "PATCH", "/Users/"+ada, patchOps(op("replace", "active", false), op("replace", "externalId", "other-external-id")))
	p.must(204, "DELETE", "/Groups/"+g, nil)
	p.must(204, "DELETE", "/Users/"+ada, nil)
	rows, err := w.sql().Query(ctx, `SELECT type, data::text FROM outbox WHERE data::text LIKE '%' || $1 || '%' OR data::text LIKE '%' || $2 || '%' ORDER BY seq`, ada, g)
	w.OK(err)
	var types []string
	for rows.Next() {
		var kind, data string
		w.OK(rows.Scan(&kind, &data))
		types = append(types, kind)
		if strings.Contains(data, "external-id") || strings.Contains(data, `"ada"`) {
			t.Errorf("%s tells %s", kind, data)
		}
	}
	w.OK(rows.Err())
	want := "UserCreated.v1 MemberAdded.v1 ScimGroupCreated.v1 UserRolesAssigned.v1 ScimGroupUpdated.v1 MemberSuspended.v1 UserRolesAssigned.v1 ScimGroupDeleted.v1 UserUpdated.v1 MemberRemoved.v1"
	got := slices.DeleteFunc(types, func(s string) bool { return s == "UserUpdated.v1" })
	if strings.Join(got, " ") != strings.ReplaceAll(want, "UserUpdated.v1 ", "") {
		t.Errorf("events: %v", got)
	}
	entries := w.want(200, "root", "GET", "/v1/audit?tenant=acme&limit=100", nil)
	if body := string(entries.body); strings.Contains(body, "external-id") || !strings.Contains(body, `"scim:delete"`) || !strings.Contains(body, `"scim:create"`) || !strings.Contains(body, `"client"`) {
		t.Errorf("the audit: %s", body)
	}
}

func TestASchemaIsFoundByItsEscapedName(t *testing.T) {
	t.Parallel()
	p := newWorld(t, settings{}).provision("acme")
	const id = "urn:ietf:params:scim:schemas:core:2.0:User"
	for _, path := range []string{id, strings.ReplaceAll(id, ":", "%3A"), strings.ReplaceAll(id, ":", "%3a")} {
		if r := p.must(200, "GET", "/Schemas/"+path, nil); r.field("id") != id {
			t.Errorf("%s: %s", path, r)
		}
	}
	p.must(404, "GET", "/Schemas/"+strings.ReplaceAll(id, ":", "%253A"), nil)
}
