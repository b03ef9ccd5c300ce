package scim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Whatever is sent as a filter is parsed or rejected, in a moment: the filter that results has what was sent as values alone.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		`userName eq "x"`, `userName eq "x" and (active eq true or not (externalId pr))`, `members[value eq "x"]`, `emails[type eq "work" and value co "@"]`,
		`urn:ietf:params:scim:schemas:core:2.0:User:userName sw "\u00e4\""`, `meta.lastModified gt "2011-05-13T04:42:34Z"`, `a eq 1.5e-3`, `a eq null`,
		strings.Repeat("(", 2000), strings.Repeat("not(", 500), strings.Repeat(`a pr and `, 200) + "a pr", strings.Repeat(`a pr or (`, 200), `a[b eq "` + strings.Repeat(`\"`, 900) + `"]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		began := time.Now()
		filter, err := parseFilter(text)
		if took := time.Since(began); took > time.Second {
			t.Fatalf("took %s", took)
		}
		if err != nil {
			if iam.CodeOf(err) != invalidFilter {
				t.Fatalf("%v", err)
			}
			return
		}
		var walk func(*postgres.SCIMFilter)
		walk = func(x *postgres.SCIMFilter) {
			if x == nil || x.Logic == "" && (x.Attribute == "" || x.Operator == "") {
				t.Fatalf("%q became %+v", text, x)
			}
			for _, of := range x.Of {
				walk(of)
			}
		}
		walk(filter)
	})
}

// Whatever is sent as a PATCH is applied or rejected with a type of SCIM's: it changes nothing of a user but what is kept.
func FuzzPatch(f *testing.F) {
	for _, seed := range []string{
		`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"Replace","path":"active","value":"False"}]}`,
		`{"Operations":[{"op":"add","value":{"externalId":"x","name.givenName":"y","active":[{"value":true}]}}]}`,
		`{"Operations":[{"op":"remove","path":"members[value eq \"x\" or value eq \"y\"]"},{"op":"add","path":"members","value":[{"value":"z"}]}]}`,
		`{"Operations":[{"op":"replace","path":"members","value":{"value":"z","type":"User"}},{"op":"Remove","path":"members","value":[{"value":"z"}]}]}`,
		`{"Operations":[{"op":"replace","path":"emails[type eq \"work\"].value","value":null}]}`,
		`{"Operations":[{"op":"replace","path":"urn:ietf:params:scim:schemas:core:2.0:Group:displayName","value":"x"}]}`,
		`{"operations":[{"OP":"ADD","Path":"userName","VALUE":"x"}]}`, `{"Operations":[{"op":"add","path":"a[","value":1}]}`, `{"Operations":null}`, `[]`, `null`,
	} {
		f.Add([]byte(seed))
	}
	types := map[string]bool{invalidFilter: true, mutability: true, invalidSyntax: true, invalidPath: true, noTarget: true, invalidValue: true}
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(err error) {
			if err != nil && !types[iam.CodeOf(err)] {
				t.Fatalf("%s: %v", body, err)
			}
		}
		operations, err := parsePatch(body)
		check(err)
		if err == nil && !json.Valid(body) {
			t.Fatalf("%s is no JSON", body)
		}
		e := admin.SCIMUserEdit{UserName: "u"}
		for _, o := range operations {
			check(o.user(&e))
			g, err := o.group()
			check(err)
			if err == nil && g.Where != nil {
				g.Where("x")
			}
		}
	})
}

// Lists and objects of a body end at their limits: what is after them is not decoded. It is not parallel, since it counts allocations.
func TestWhatABodyListsIsDecodedUpToItsLimitAlone(t *testing.T) { //nolint:paralleltest // see above
	many := func(open, one, end string) string { return open + strings.Repeat(one+",", 300_000) + one + end }
	names := make([]string, 300_000)
	for i := range names {
		names[i] = fmt.Sprintf(`"a%d":1`, i)
	}
	wide := "{" + strings.Join(names, ",") + "}"
	member := `{"op":"add","path":"members","value":[` + strings.Repeat(`{"value":"x"},`, 1_000_000) + `{"value":"x"}]}`
	for name, c := range map[string]struct{ body, says string }{
		"operations that are empty":     {many(`{"Operations":[`, `{}`, `]}`), "op must be"},
		"operations":                    {many(`{"Operations":[`, `{"op":"remove","path":"externalId"}`, `]}`), "1,000 operations"},
		"operations without a path":     {many(`{"Operations":[`, `{"op":"add","value":{"a":1,"b":2,"c":3}}`, `]}`), "1,000 operations"},
		"attributes":                    {wide, "256 attributes"},
		"attributes of a value":         {`{"Operations":[{"op":"add","value":` + wide + `}]}`, "must be an object of attributes"},
		"members":                       {`{"Operations":[` + member + `]}`, "100,000 members"},
		"members that are empty":        {`{"Operations":[{"op":"add","path":"members","value":` + many("[", "{}", "]") + `}]}`, "must have the id"},
		"values of a simple attribute":  {`{"Operations":[{"op":"add","path":"externalId","value":` + many("[", `{"value":"x"}`, "]") + `}]}`, "must be a string"},
		"values of a boolean attribute": {`{"Operations":[{"op":"add","path":"externalId","value":` + many("[", `{}`, "]") + `}]}`, "must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			allocations := testing.AllocsPerRun(1, func() {
				var operations []operation
				if operations, err = parsePatch([]byte(c.body)); err == nil {
					_, err = operations[0].group()
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			most := 60_000.0
			switch name {
			case "members": // those of a full group
				most = 1_000_000
			case "operations": // the parser of paths has 1,400 for each
				most = 2_000_000
			}
			if allocations > most {
				t.Errorf("%.0f allocations", allocations)
			}
		})
	}
}

func TestAFilterThatIsNestedOrLongIsParsedInAMoment(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("(", maxNesting) + "a pr" + strings.Repeat(")", maxNesting),
		strings.Repeat("not (", maxNesting) + "a pr" + strings.Repeat(")", maxNesting),
		strings.Repeat("(a pr and ", maxNesting) + "a pr" + strings.Repeat(")", maxNesting),
		strings.Repeat("(", maxNesting) + "a pr" + strings.Repeat(")", maxNesting-1),
		strings.Repeat("(((((((( a eq", 1) + " x",
		strings.Repeat(`a eq "b" and `, maxFilter/14) + "a pr",
		"a[" + strings.Repeat("(", maxNesting-1) + "b pr" + strings.Repeat(")", maxNesting-1) + "]",
		strings.Repeat("a.", 900), strings.Repeat("a:", 900) + "b pr",
	} {
		began := time.Now()
		_, err := parseFilter(text)
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("%.60q took %s (%v)", text, took, err)
		}
	}
}

// The first requests of a client have a turn, some wait, and more are rejected; other clients have turns of their own.
func TestAClientHasFewTurnsAtOnce(t *testing.T) {
	t.Parallel()
	all := turns{atOnce: turnsAtOnce}
	var held []func()
	for range turnsAtOnce {
		done, err := all.wait(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, done)
	}
	waiting := make(chan error, turnsQueued)
	for range turnsQueued {
		go func() {
			done, err := all.wait(t.Context(), "a")
			if err == nil {
				done()
			}
			waiting <- err
		}()
	}
	await.True(t, "all wait", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return all.of["a"].users == turnsAtOnce+turnsQueued
	})
	if _, err := all.wait(t.Context(), "a"); iam.KindOf(err) != iam.TooManyRequests {
		t.Errorf("one too many: %v", err)
	}
	done, err := all.wait(t.Context(), "b")
	if err != nil {
		t.Errorf("another client: %v", err)
	}
	done()
	for _, done := range held {
		done()
	}
	for range turnsQueued {
		if err := <-waiting; err != nil {
			t.Errorf("a request that waited: %v", err)
		}
	}
	if len(all.of) != 0 {
		t.Errorf("%d clients are left", len(all.of))
	}
}
