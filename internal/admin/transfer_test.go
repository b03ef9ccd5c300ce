package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// An export read into another place says the same there, and the same again changes
// nothing.
func TestAnImportReproducesTheExport(t *testing.T) {
	t.Parallel()
	from, to := newOffice(t), newOffice(t)
	for _, o := range []*office{from, to} {
		o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutManifest(ctx, iam.Manifest{Service: "s", Attributes: []iam.AttributeSchema{{Key: "n", Type: "integer"}}})
			return err
		}))
	}
	from.tenant("acme")
	from.ok(from.do("acme", func(ctx context.Context, w *admin.Work) error {
		for _, r := range []iam.Role{{Tenant: "acme", Name: "z", Permissions: []string{"a:b"}}, {Tenant: "acme", Name: "a", Inherits: []string{"z"}}} {
			if _, _, err := w.PutRole(ctx, r, admin.Condition{Absent: true}); err != nil {
				return err
			}
		}
		if _, err := w.CreateMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: "g", Roles: []string{"a"}}); err != nil {
			return err
		}
		rows := make([]admin.Row, 700)
		for i := range rows {
			m := iam.Membership{Status: iam.MembershipActive, Roles: []string{"a"}, Attributes: map[string]any{"n": json.Number("9007199254740993")}}
			if i%2 == 0 {
				m.Status, m.ExpiresAt = iam.MembershipSuspended, time.Date(2030, 1, 1, 0, 0, 0, 123456000, time.UTC)
				m.Terms = map[string]iam.RoleTerm{"a": {StartsAt: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), ExpiresAt: m.ExpiresAt, Reason: "a move"}}
			}
			rows[i] = admin.Row{Issuer: pgtest.Issuer, Subject: fmt.Sprint("u", i), Membership: m}
		}
		if _, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: rows, Existing: admin.RejectExisting}); err != nil {
			return err
		}
		_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, admin.Condition{})
		return err
	}))
	export := func(o *office) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		o.ok(o.s.Export(ctx, operator, "acme", func(l admin.Line) error { return e.Encode(l) }))
		lines := strings.Split(b.String(), "\n")
		slices.Sort(lines) // members come by our ids, which differ
		return strings.Join(lines, "\n")
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	from.ok(from.s.Export(ctx, operator, "acme", func(l admin.Line) error { return e.Encode(l) }))
	sum, err := to.s.Import(ctx, operator, bytes.NewReader(text.Bytes()))
	to.ok(err)
	if sum != (admin.Imported{Tenant: "acme", Added: 704}) {
		t.Errorf("the first time: %+v", sum)
	}
	if a, b := export(from), export(to); a != b {
		t.Errorf("%s\nbecame\n%s", a, b)
	}
	before := to.rows("audit") + to.rows("outbox")
	sum, err = to.s.Import(ctx, operator, bytes.NewReader(text.Bytes()))
	to.ok(err)
	if sum != (admin.Imported{Tenant: "acme", Same: 704}) || to.rows("audit")+to.rows("outbox") != before {
		t.Errorf("the second time: %+v", sum)
	}

	for name, c := range map[string]struct{ text, says string }{
		"no JSON":         {"{", "line 1:"},
		"no tenant":       {`{"member":{"issuer":"x","subject":"y","status":"active"}}`, "line 1: the first line must be the tenant"},
		"an unknown word": {`{"tenat":{}}`, `line 1: json: unknown field "tenat"`},
		"a bad role":      {strings.SplitAfter(text.String(), "\n")[0] + "\n" + `{"role":{"name":"B"}}`, "line 3:"},
		"a bad member":    {strings.SplitAfter(text.String(), "\n")[0] + `{"member":{"issuer":"` + pgtest.Issuer + `","subject":"ok","status":"active"}}` + "\n" + `{"member":{"issuer":"` + pgtest.Issuer + `","subject":"bad","status":"active","roles":["none"]}}`, "line 3: /roles/0"},
		"nothing":         {"", "empty"},
	} {
		if _, err := to.s.Import(ctx, operator, strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if to.rows("audit")+to.rows("outbox") != before {
		t.Error("a failed import left something")
	}
}

// As many roles, mappings and members as are allowed come in by one import.
func TestTheLargestTenantIsImported(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	o.ok(e.Encode(admin.Line{Tenant: &admin.LineTenant{ID: "big", Slug: "big", Name: "Big", Status: iam.TenantActive}}))
	for i := range iam.MaxRolesPerTenant {
		o.ok(e.Encode(admin.Line{Role: &admin.LineRole{Name: fmt.Sprint("r", i), Permissions: []string{fmt.Sprint("p:", i)}, Inherits: map[bool][]string{true: {"r0"}}[i > 0]}}))
	}
	for i := range iam.MaxMappingsPerTenant {
		o.ok(e.Encode(admin.Line{Mapping: &admin.LineMapping{Issuer: pgtest.Issuer, Claim: "groups", Value: fmt.Sprint("g", i), Roles: []string{fmt.Sprint("r", i)}}}))
	}
	for i := range 1500 {
		o.ok(e.Encode(admin.Line{Member: &admin.LineMember{Issuer: pgtest.Issuer, Subject: fmt.Sprint("m", i), Status: "active", Roles: []string{fmt.Sprint("r", i%1000)}}}))
	}
	for _, want := range []admin.Imported{{Tenant: "big", Added: 3501}, {Tenant: "big", Same: 3501}} {
		if sum, err := o.s.Import(ctx, operator, bytes.NewReader(b.Bytes())); err != nil || sum != want {
			t.Errorf("%+v %v, want %+v", sum, err, want)
		}
	}
}

// A line says one thing: what is passed over would be lost.
func TestAnImportLineHoldsExactlyOneObject(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	tenant := `{"tenant":{"id":"acme","slug":"acme","name":"A","status":"active"}}` + "\n"
	for text, says := range map[string]string{
		tenant + `{"role":{"name":"a"}} {"role":{"name":"b"}}`:                                          "line 2: has more than one value",
		tenant + `{"role":{"name":"a"},"mapping":{"issuer":"x","claim":"y","value":"z","roles":["a"]}}`: "line 2: must be one",
		tenant + `{}`: "line 2: must be one",
		tenant + `{"role":{"name":"a"}}` + "\n" + `{"role":{"name":"a"}}`: "line 3: the role \"a\" is a duplicate",
	} {
		if _, err := o.s.Import(ctx, operator, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// What SCIM decides of a member stays where an import says otherwise, and the import warns of it.
func TestAnImportLeavesWhatSCIMDecides(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
		for _, name := range []string{"managed", "free"} {
			if _, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: name}, admin.Condition{Absent: true}); err != nil {
				return err
			}
		}
		rows := []admin.Row{}
		for subject, m := range map[string]iam.Membership{
			"in":  {Status: iam.MembershipActive, Roles: []string{"managed"}},
			"out": {Status: iam.MembershipActive},
			"off": {Status: iam.MembershipSuspended},
		} {
			rows = append(rows, admin.Row{Issuer: pgtest.Issuer, Subject: subject, Membership: m})
		}
		_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: rows})
		return err
	}))
	o.sql(`INSERT INTO scim_groups (tenant, issuer, display_name, roles) VALUES ('acme', $1, 'g', '{managed}')`, pgtest.Issuer)
	o.sql(`INSERT INTO scim_users (tenant, user_id, active, suspended) SELECT 'acme', id, false, true FROM users WHERE subject = 'off'`)
	var text strings.Builder
	text.WriteString(`{"tenant":{"id":"acme","slug":"acme","name":"acme","status":"active"}}` + "\n")
	for _, m := range []string{
		`"subject":"in","status":"active","roles":["free"]`,
		`"subject":"out","status":"active","roles":["free","managed"],"role_terms":{"managed":{"expires_at":"2040-01-01T00:00:00Z"}}`,
		`"subject":"off","status":"active","roles":["free"]`,
		`"subject":"new","status":"active","roles":["managed"]`,
	} {
		fmt.Fprintf(&text, `{"member":{"issuer":%q,%s}}`+"\n", pgtest.Issuer, m)
	}
	for _, want := range []admin.Imported{{Tenant: "acme", Added: 1, Changed: 3, Same: 1}, {Tenant: "acme", Same: 5}} {
		sum, err := o.s.Import(ctx, operator, strings.NewReader(text.String()))
		o.ok(err)
		if want.Warning = "roles that SCIM groups manage are left as the groups say: managed (3 members); 1 member whom the provisioning client calls inactive is left suspended"; sum != want {
			t.Errorf("got %+v, want %+v", sum, want)
		}
	}
	o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
		list, err := w.Members(ctx, "acme", postgres.MemberFilter{Limit: 10})
		got := []string{}
		for _, m := range list {
			slices.Sort(m.Roles)
			got = append(got, fmt.Sprintf("%s %s%v%d", m.Subject, m.Status, m.Roles, len(m.Terms)))
		}
		slices.Sort(got)
		if want := []string{"in active[free managed]0", "new active[]0", "off suspended[free]0", "out active[free]0"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		return err
	}))
}
