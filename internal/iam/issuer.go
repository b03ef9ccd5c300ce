package iam

import "slices"

// Issuer is a trusted issuer of tokens, with the tenants that it is trusted for. Tokens of an
// issuer that is not listed mean nothing here.
type Issuer struct {
	URL      string   // the value of "iss"
	Tenants  []string // ids of the tenants it is trusted for; "*" is all
	Platform bool     // its subjects may hold platform roles
}

// Issuers are the trusted ones. What an issuer does not reach is rejected when
// it is written and ignored when it is read, whatever a policy decides.
type Issuers []Issuer

// Find returns the issuer with that URL.
func (is Issuers) Find(url string) (Issuer, bool) {
	i := slices.IndexFunc(is, func(i Issuer) bool { return i.URL == url })
	if i < 0 {
		return Issuer{}, false
	}
	return is[i], true
}

// Reaches reports whether the issuer is trusted for the tenant.
func (is Issuers) Reaches(url, tenant string) bool {
	i, ok := is.Find(url)
	return ok && i.Reaches(tenant)
}

// Reaches reports whether the issuer is trusted for the tenant.
func (i Issuer) Reaches(tenant string) bool {
	return slices.Contains(i.Tenants, "*") || slices.Contains(i.Tenants, tenant)
}
