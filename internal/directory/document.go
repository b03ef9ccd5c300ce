package directory

import (
	"slices"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/iam"
)

// document is the value that Rego reads, and the fields that Go checks itself.
type document struct {
	value     ast.Value
	id        string // of a user
	status    string
	notBefore time.Time // tokens issued earlier are rejected; zero: none
	tenants   []string  // those that a user's or a client's document references
	scopes    []string  // of a client
	version   int64     // of the row that was changed last: versions come from one sequence
}

// userDocument builds data.directory.users[issuer][subject]. The second result
// is its lifetime: until a membership in it expires, or a role of one starts or ends; 0: until it is invalidated.
func userDocument(u iam.UserFacts, issuers iam.Issuers) (*document, time.Duration) {
	issuer, _ := issuers.Find(u.Issuer) // unknown: reaches nothing
	platform := u.PlatformRoles
	if !issuer.Platform {
		platform = nil
	}
	var lives time.Duration
	version := u.Version
	memberships := make([][2]*ast.Term, 0, len(u.Memberships))
	tenants := make([]string, 0, len(u.Memberships))
	for _, m := range u.Memberships {
		if !issuer.Reaches(m.Tenant) {
			continue
		}
		version = max(version, m.Version)
		status := m.Status
		if status == iam.MembershipActive && !m.ExpiresAt.IsZero() && !m.ExpiresAt.After(u.AsOf) {
			status = iam.MembershipExpired
		}
		if next := m.NextChange(u.AsOf); !next.IsZero() {
			if left := next.Sub(u.AsOf); lives == 0 || left < lives {
				lives = left
			}
		}
		tenants = append(tenants, m.Tenant)
		memberships = append(memberships, item(m.Tenant, object(
			item("status", str(status)),
			item("roles", strs(m.RolesAt(u.AsOf))),
			item("attributes", attributes(m.Attributes)),
			item("tenant_status", str(m.TenantStatus)),
		)))
	}
	fields := [][2]*ast.Term{
		item("id", str(u.ID)),
		item("status", str(u.Status)),
		item("attributes", attributes(u.Attributes)),
		item("platform_roles", strs(platform)),
		item("memberships", object(memberships...)),
	}
	if u.DefaultTenant != "" && issuer.Reaches(u.DefaultTenant) {
		fields = append(fields, item("default_tenant", str(u.DefaultTenant)))
		if !slices.Contains(tenants, u.DefaultTenant) {
			tenants = append(tenants, u.DefaultTenant)
		}
	}
	if !u.TokensNotBefore.IsZero() {
		fields = append(fields, item("tokens_not_before", unix(u.TokensNotBefore)))
	}
	return &document{
		value: object(fields...).Value, id: u.ID, status: u.Status, notBefore: u.TokensNotBefore, tenants: tenants, version: version,
	}, lives
}

// tenantDocument builds data.directory.tenants[id]. A role's closure, all that
// holding it means, is worked out here, once, and not in every evaluation.
func tenantDocument(t iam.TenantFacts, issuers iam.Issuers) *document {
	closure := iam.Closure(t.Roles)
	version := t.Version
	roles := make([][2]*ast.Term, 0, len(t.Roles))
	for _, r := range t.Roles {
		version = max(version, r.Version)
		roles = append(roles, item(r.Name, object(
			item("permissions", strs(r.Permissions)),
			item("inherits", strs(r.Inherits)),
			item("closure", strs(closure[r.Name])),
		)))
	}
	return &document{
		value: object(
			item("id", str(t.ID)),
			item("slug", str(t.Slug)),
			item("name", str(t.Name)),
			item("status", str(t.Status)),
			item("attributes", attributes(t.Attributes)),
			item("roles", object(roles...)),
			item("mappings", mappings(t.Mappings, issuers)),
		).Value,
		status: t.Status, version: version,
	}
}

// mappings builds issuer → claim → value → roles, so that a policy finds the claims of a
// token by look-ups and not by an enumeration.
func mappings(list []iam.Mapping, issuers iam.Issuers) *ast.Term {
	tree := map[string]map[string]map[string][]string{}
	for _, m := range list {
		if !issuers.Reaches(m.Issuer, m.Tenant) {
			continue
		}
		if tree[m.Issuer] == nil {
			tree[m.Issuer] = map[string]map[string][]string{}
		}
		if tree[m.Issuer][m.Claim] == nil {
			tree[m.Issuer][m.Claim] = map[string][]string{}
		}
		tree[m.Issuer][m.Claim][m.Value] = m.Roles
	}
	byIssuer := ast.NewObject()
	for issuer, claims := range tree {
		byClaim := ast.NewObject()
		for claim, values := range claims {
			byValue := ast.NewObject()
			for value, roles := range values {
				byValue.Insert(str(value), strs(roles))
			}
			byClaim.Insert(str(claim), ast.NewTerm(byValue))
		}
		byIssuer.Insert(str(issuer), ast.NewTerm(byClaim))
	}
	return ast.NewTerm(byIssuer)
}

// clientDocument builds data.directory.clients[issuer][client_id]. A client
// whose tenant its issuer does not reach is absent.
func clientDocument(c iam.ClientFacts, issuers iam.Issuers) *document {
	issuer, known := issuers.Find(c.Issuer)
	if !known || c.Tenant != "" && !issuer.Reaches(c.Tenant) || c.Tenant == "" && !issuer.Platform {
		return nil
	}
	fields := [][2]*ast.Term{
		item("client_id", str(c.ClientID)),
		item("status", str(c.Status)),
		item("roles", strs(c.Roles)),
		item("scopes", strs(c.Scopes)),
	}
	if c.Tenant != "" {
		fields = append(fields, item("tenant", str(c.Tenant)))
	}
	if !c.TokensNotBefore.IsZero() {
		fields = append(fields, item("tokens_not_before", unix(c.TokensNotBefore)))
	}
	doc := &document{value: object(fields...).Value, status: c.Status, notBefore: c.TokensNotBefore, version: c.Version, scopes: c.Scopes}
	if c.Tenant != "" {
		doc.tenants = []string{c.Tenant}
	}
	return doc
}

func str(s string) *ast.Term { return ast.InternedTerm(s) }

func unix(t time.Time) *ast.Term {
	return ast.NewTerm(ast.Number(strconv.FormatInt(t.Unix(), 10)))
}

func strs(list []string) *ast.Term {
	sorted := slices.Sorted(slices.Values(list))
	terms := make([]*ast.Term, len(sorted))
	for i, s := range sorted {
		terms[i] = str(s)
	}
	return ast.ArrayTerm(terms...)
}

func item(k string, v *ast.Term) [2]*ast.Term { return [2]*ast.Term{str(k), v} }

func object(items ...[2]*ast.Term) *ast.Term { return ast.ObjectTerm(items...) }

func attributes(a map[string]any) *ast.Term {
	v, err := ast.InterfaceToValue(a)
	if err != nil || len(a) == 0 {
		return object() // it came from JSON, so it converts
	}
	return ast.NewTerm(v)
}

// weigh estimates the bytes that v occupies. It counts on the high side: shared
// strings are counted each time.
func weigh(v ast.Value) int64 {
	const term = 72 // a Term, the interface in it, and its place in the parent
	var n int64 = term
	switch v := v.(type) {
	case ast.String:
		n += int64(len(v)) + 16
	case ast.Number:
		n += int64(len(v)) + 16
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { n += weigh(t.Value) + 16 })
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { n += weigh(k.Value) + weigh(t.Value) + 48 })
	}
	return n
}
