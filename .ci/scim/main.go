// Command scim provisions a tenant with SCIM clients that others have written: those of GitHub's and Databricks' SDKs.
// Each creates three users and a group, finds them again, and changes them as an identity provider does. It fails at the first
// answer that the client does not understand.
//
// usage: scim github|databricks URL TENANT TOKEN PREFIX      URL is that of the admin listener
//
// What is left: the user PREFIX-ada is active and in the group "PREFIX editors", PREFIX-bob is suspended, PREFIX-eve is gone.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// target is the tenant to provision.
type target struct {
	url, tenant, token, prefix string
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: scim github|databricks URL TENANT TOKEN PREFIX")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	provision := map[string]func(context.Context, target) error{"github": github, "databricks": databricks}[os.Args[1]]
	if provision == nil {
		fmt.Fprintln(os.Stderr, "scim: no client", os.Args[1])
		os.Exit(2)
	}
	if err := provision(ctx, target{os.Args[2], os.Args[3], os.Args[4], os.Args[5]}); err != nil {
		fmt.Fprintln(os.Stderr, "scim:", err)
		os.Exit(1)
	}
}

// rewriting sends requests below the path of a product's own SCIM endpoint to that of the tenant. The client is unchanged.
type rewriting struct {
	from, to string
	token    string
	under    http.RoundTripper
}

func (t rewriting) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	rest, ok := strings.CutPrefix(r.URL.Path, t.from)
	if !ok {
		return nil, fmt.Errorf("a request outside of SCIM: %s", r.URL)
	}
	r.URL.Path, r.URL.RawPath = t.to+rest, ""
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.under.RoundTrip(r)
}

func (t target) transport(from string) http.RoundTripper {
	return rewriting{from: from, to: "/scim/v2/" + t.tenant, token: t.token, under: http.DefaultTransport}
}

// doing adds what was being done to an error.
func doing(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
