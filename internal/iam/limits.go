package iam

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what may be written. They bound what one evaluation can read.
const (
	MaxAttributesBytes    = 4096 // one object, as compact JSON
	MaxRolesPerTenant     = 1000
	MaxPermissionsPerRole = 500
	MaxInheritanceDepth   = 16
	MaxMembershipsPerUser = 1000
	MaxMappingsPerTenant  = 1000
	MaxNameBytes          = 64
	MaxIssuerBytes        = 512
	MaxSubjectBytes       = 255
	MaxClientIDBytes      = 255
	MaxRolesPerHolder     = 100 // of a membership, a mapping, a client
	MaxScopesPerClient    = 100
	MaxRolesPerManifest   = 200
	MaxAttributesDeclared = 200 // by one manifest
	MaxDescriptionBytes   = 1000
	MaxNumberBytes        = 400 // of a number in an attribute or a claim, as it is written

	// Limits on all roles that one tenant sees together, so that its document
	// can be built within a request and cached.
	MaxPermissionsPerTenant = 50_000
	MaxClosurePerTenant     = 20_000 // names in the closures of all roles
)

// ValidName reports whether s is 1 to 64 bytes of [a-z0-9][a-z0-9._-]*: the
// shape of role names, permissions' parts, slugs.
func ValidName(s string) bool {
	return len(s) <= MaxNameBytes && nameLike(s, "._-")
}

// ValidRoleName is ValidName with one colon allowed after the prefix "iam",
// which marks the roles the service itself reserves.
func ValidRoleName(s string) bool {
	return ValidName(strings.TrimPrefix(s, "iam:")) && len(s) <= MaxNameBytes
}

// ValidTenantID reports whether s is 1 to 64 bytes of [a-z0-9][a-z0-9_-]*. A
// tenant's id is a token of a NATS subject, so it holds no dot.
func ValidTenantID(s string) bool {
	return len(s) <= MaxNameBytes && nameLike(s, "_-")
}

// ValidPermission reports whether s is 1 to 64 bytes of [a-z0-9][a-z0-9._:-]*,
// as in "invoice:read".
func ValidPermission(s string) bool {
	return len(s) <= MaxNameBytes && nameLike(s, "._:-")
}

func nameLike(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			continue
		}
		if i == 0 || strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return s != ""
}

// ValidScope reports whether s is a scope-token (RFC 6749, section 3.3) of at
// most 255 bytes, and holds no comma, since scopes travel comma-separated.
func ValidScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' || c == ',' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// ValidSubject reports whether s can be a subject: 1 to 255 bytes of printable
// ASCII, as RFC 7519 asks of a StringOrURI and as a header can carry.
func ValidSubject(s string) bool { return len(s) <= MaxSubjectBytes && printableASCII(s) }

// ValidIssuer reports whether s can be an issuer: 1 to 512 printable ASCII
// bytes without blanks.
func ValidIssuer(s string) bool {
	return len(s) <= MaxIssuerBytes && printableASCII(s) && !strings.Contains(s, " ")
}

// ValidClientID reports whether s can be a client id: VSCHAR of RFC 6749,
// appendix A.1, at most 255 bytes.
func ValidClientID(s string) bool { return len(s) <= MaxClientIDBytes && printableASCII(s) }

func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' '
}

// Check returns one entry for each invalid field.
func (t Tenant) Check() []FieldError {
	var c check
	c.that(ValidTenantID(t.ID), "/id", "must be 1 to 64 of a-z 0-9 _ - and begin with a letter or digit, is %q", t.ID)
	c.that(ValidName(t.Slug), "/slug", "must be 1 to 64 of a-z 0-9 . _ - and begin with a letter or digit, is %q", t.Slug)
	c.text("/name", t.Name, 200)
	c.oneOf("/status", t.Status, TenantActive, TenantSuspended, TenantArchived)
	c.attributes("/attributes", t.Attributes)
	return c
}

// Check returns one entry for each invalid field.
func (r Role) Check() []FieldError {
	var c check
	if r.Tenant != "" {
		c.that(ValidTenantID(r.Tenant), "/tenant", "is not the id of a tenant: %q", r.Tenant)
	}
	c.that(ValidRoleName(r.Name), "/name", "must be 1 to 64 of a-z 0-9 . _ - and begin with a letter or digit, is %q", r.Name)
	c.each("/permissions", r.Permissions, MaxPermissionsPerRole, ValidPermission, "must be 1 to 64 of a-z 0-9 . _ : - and begin with a letter or digit")
	c.roles("/inherits", r.Inherits)
	c.that(!slices.Contains(r.Inherits, r.Name), "/inherits", "a role cannot inherit itself")
	c.description("/description", r.Description)
	if r.Request != nil {
		for _, f := range r.Request.Check() {
			c = append(c, FieldError{"/request" + f.Pointer, f.Detail})
		}
	}
	return c
}

// Check returns one entry for each invalid field.
func (m Manifest) Check() []FieldError {
	var c check
	c.that(ValidTenantID(m.Service), "/service", "must be 1 to 64 of a-z 0-9 _ - and begin with a letter or digit, is %q", m.Service)
	c.that(len(m.Roles) <= MaxRolesPerManifest, "/roles", "has %d entries, at most %d are allowed", len(m.Roles), MaxRolesPerManifest)
	c.that(len(m.Attributes) <= MaxAttributesDeclared, "/attributes", "has %d entries, at most %d are allowed", len(m.Attributes), MaxAttributesDeclared)
	declared := map[string]bool{}
	for i, r := range m.Roles {
		at := "/roles/" + strconv.Itoa(i)
		for _, invalid := range r.Check() {
			c = append(c, FieldError{at + invalid.Pointer, invalid.Detail})
		}
		c.that(!strings.HasPrefix(r.Name, "iam:"), at+"/name", "names that begin with iam: are reserved")
		c.that(!declared[r.Name], at+"/name", "%q is listed twice", r.Name)
		declared[r.Name] = true
		for j, p := range r.Permissions {
			c.that(strings.HasPrefix(p, m.Service+":"), at+"/permissions/"+strconv.Itoa(j),
				"a service declares permissions of its own: they begin with %q", m.Service+":")
		}
	}
	for i, r := range m.Roles {
		for j, p := range r.Inherits {
			c.that(declared[p], fmt.Sprintf("/roles/%d/inherits/%d", i, j), "the manifest has no role named %q", p)
		}
	}
	keys := map[string]bool{}
	for i, a := range m.Attributes {
		at := "/attributes/" + strconv.Itoa(i)
		c.that(ValidName(a.Key), at+"/key", "must be 1 to 64 of a-z 0-9 . _ - and begin with a letter or digit, is %q", a.Key)
		c.that(!keys[a.Key], at+"/key", "%q is listed twice", a.Key)
		keys[a.Key] = true
		c.oneOf(at+"/type", a.Type, AttributeTypes...)
		c.description(at+"/description", a.Description)
	}
	return c
}

// CheckAttributes validates values by their declarations. The pointers begin with at.
func CheckAttributes(at string, values map[string]any, declared map[string]AttributeSchema) []FieldError {
	var c check
	for _, key := range slices.Sorted(maps.Keys(values)) {
		pointer := at + "/" + escapePointer(key)
		schema, ok := declared[key]
		if !ok {
			c.that(false, pointer, "no service declares such an attribute in its manifest")
			continue
		}
		c.that(schema.Fits(values[key]), pointer, "must be of type %s, as %s declares", schema.Type, schema.Service)
	}
	return c
}

// escapePointer writes a name as a part of a JSON Pointer (RFC 6901, section 3).
func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// Fits reports whether a value, as decoded from JSON, is of the declared type.
func (a AttributeSchema) Fits(v any) bool {
	switch a.Type {
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "string[]":
		list, ok := v.([]any)
		return ok && !slices.ContainsFunc(list, func(x any) bool { _, ok := x.(string); return !ok })
	case "number", "integer":
		var text string
		switch n := v.(type) {
		case json.Number:
			text = n.String()
		case float64:
			text = strconv.FormatFloat(n, 'f', -1, 64)
		case int:
			return true
		default:
			return false
		}
		_, err := strconv.ParseInt(text, 10, 64)
		return a.Type == "number" || err == nil
	}
	return false
}

// Check returns one entry for each invalid field.
func (u User) Check() []FieldError {
	var c check
	c.that(ValidIssuer(u.Issuer), "/issuer", "must be 1 to %d printable ASCII characters without blanks", MaxIssuerBytes)
	c.that(ValidSubject(u.Subject), "/subject", "must be 1 to %d printable ASCII characters, no blank at an end", MaxSubjectBytes)
	c.oneOf("/status", u.Status, UserActive, UserBlocked)
	c.attributes("/attributes", u.Attributes)
	for i, r := range u.PlatformRoles {
		c.oneOf("/platform_roles/"+strconv.Itoa(i), r, PlatformRoles...)
	}
	if u.DefaultTenant != "" {
		c.that(ValidTenantID(u.DefaultTenant), "/default_tenant", "is not the id of a tenant: %q", u.DefaultTenant)
	}
	return c
}

// Check returns one entry for each invalid field.
func (m Membership) Check() []FieldError {
	var c check
	c.that(ValidTenantID(m.Tenant), "/tenant", "is not the id of a tenant: %q", m.Tenant)
	c.oneOf("/status", m.Status, MembershipActive, MembershipSuspended)
	c.roles("/roles", m.Roles)
	c.terms("/role_terms", m)
	c.attributes("/attributes", m.Attributes)
	return c
}

// personal are claims that name one person (OpenID Connect Core, section 5.1, and what
// providers add). A mapping stays when a user is erased, so it must not name one.
var personal = []string{
	"sub", "name", "given_name", "family_name", "middle_name", "nickname", "preferred_username", "profile", "picture", "website", "email",
	"gender", "birthdate", "phone_number", "address", "upn", "oid", "unique_name",
}

// Check returns one entry for each invalid field.
func (m Mapping) Check() []FieldError {
	var c check
	c.that(ValidTenantID(m.Tenant), "/tenant", "is not the id of a tenant: %q", m.Tenant)
	c.that(ValidIssuer(m.Issuer), "/issuer", "must be 1 to %d printable ASCII characters without blanks", MaxIssuerBytes)
	c.that(ValidSubject(m.Claim), "/claim", "must be the name of a claim")
	c.that(!slices.Contains(personal, m.Claim), "/claim", "identifies a person: add them as a member; a mapping is for groups")
	c.text("/value", m.Value, 255)
	c.that(len(m.Roles) > 0, "/roles", "needs at least one")
	c.roles("/roles", m.Roles)
	return c
}

// Check returns one entry for each invalid field.
func (cl Client) Check() []FieldError {
	var c check
	c.that(ValidIssuer(cl.Issuer), "/issuer", "must be 1 to %d printable ASCII characters without blanks", MaxIssuerBytes)
	c.that(ValidClientID(cl.ClientID), "/client_id", "must be 1 to %d printable ASCII characters", MaxClientIDBytes)
	if cl.Tenant != "" {
		c.that(ValidTenantID(cl.Tenant), "/tenant", "is not the id of a tenant: %q", cl.Tenant)
	}
	c.oneOf("/status", cl.Status, ClientActive, ClientBlocked, ClientDeleted)
	c.roles("/roles", cl.Roles)
	c.each("/scopes", cl.Scopes, MaxScopesPerClient, ValidScope, "must be a scope-token of RFC 6749 without a comma")
	return c
}

// check collects the invalid fields.
type check []FieldError

func (c *check) that(ok bool, pointer, format string, args ...any) {
	if !ok {
		*c = append(*c, FieldError{pointer, fmt.Sprintf(format, args...)})
	}
}

func (c *check) description(pointer, s string) {
	c.that(len(s) <= MaxDescriptionBytes && utf8.ValidString(s), pointer, "must be text of at most %d bytes", MaxDescriptionBytes)
}

func (c *check) oneOf(pointer, got string, allowed ...string) {
	c.that(slices.Contains(allowed, got), pointer, "must be one of %s, is %q", strings.Join(allowed, ", "), got)
}

func (c *check) text(pointer, s string, most int) {
	c.that(s != "" && len(s) <= most, pointer, "must be 1 to %d bytes", most)
	c.that(utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0, pointer, "must be text without control characters")
}

func (c *check) each(pointer string, list []string, most int, valid func(string) bool, want string) {
	c.that(len(list) <= most, pointer, "has %d entries, at most %d are allowed", len(list), most)
	seen := make(map[string]bool, len(list))
	for i, s := range list {
		at := pointer + "/" + strconv.Itoa(i)
		c.that(valid(s), at, "%s, is %q", want, s)
		c.that(!seen[s], at, "%q is listed twice", s)
		seen[s] = true
	}
}

func (c *check) roles(pointer string, list []string) {
	c.each(pointer, list, MaxRolesPerHolder, ValidRoleName, "must be the name of a role")
}

func (c *check) attributes(pointer string, a map[string]any) {
	if len(a) == 0 {
		return
	}
	b, err := json.Marshal(a)
	c.that(err == nil, pointer, "must be a JSON object")
	c.that(ValidNumbers(a), pointer, "holds a number with an exponent beyond 308 or of more than %d characters", MaxNumberBytes)
	c.that(len(b) <= MaxAttributesBytes, pointer, "is %d bytes, at most %d are allowed", len(b), MaxAttributesBytes)
}

// ValidNumber reports whether s is a decimal number of at most MaxNumberBytes with an exponent
// of at most 308, as float64 has it. Longer ones are short to write and expensive to use: the
// database stores 1e131071 as 131,072 digits, and a policy needs 300 ms to multiply 1e-30000.
func ValidNumber(s string) bool {
	if s == "" || len(s) > MaxNumberBytes {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', c == '.', c == 'e', c == 'E', c == '+', c == '-':
		default:
			return false
		}
	}
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return true
	}
	n, err := strconv.Atoi(s[i+1:])
	return err == nil && -308 <= n && n <= 308
}

// ValidNumbers reports whether all numbers within v, as decoded from JSON, are ValidNumbers.
func ValidNumbers(v any) bool {
	switch v := v.(type) {
	case json.Number:
		return ValidNumber(string(v))
	case map[string]any:
		for _, x := range v {
			if !ValidNumbers(x) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(v, func(x any) bool { return !ValidNumbers(x) })
	}
	return true
}
