package identity_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"iam-service/pkg/identity"
)

// A backend verifies each request before its handlers see it.
func ExampleVerifier_Middleware() {
	verifier, err := identity.New(identity.Config{
		JWKS:      "https://iam.example.com/.well-known/jwks.json",
		Issuer:    "https://iam.example.com",
		Audiences: []string{"orders.example.com"},
		OnError: func(r *http.Request, err error) {
			slog.WarnContext(r.Context(), "identity rejected", slog.Any("err", err))
		},
	})
	if err != nil {
		panic(err)
	}
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := identity.FromContext(r.Context()) // there is one, since the middleware passes no request without
		if !id.HasRole("order-reader") {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "the orders of %s", id.Tenant)
	})
	handler := verifier.Middleware(orders)

	// A request that did not come through the gateway.
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/orders", nil))
	fmt.Println(w.Code)
	// Output: 401
}

// A test of a handler needs no keys.
func ExampleNewContext() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := identity.FromContext(r.Context())
		fmt.Fprint(w, id.Tenant, " ", id.HasRole("auditor"), " ", len(id.Roles))
	})
	ctx := identity.NewContext(context.Background(), &identity.Identity{ID: "https://auth.example.com#alice", Tenant: "acme", Roles: []string{}})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	fmt.Println(w.Body)
	// Output: acme false 0
}

// What faults a configuration has is said at once, at the start.
func ExampleNew() {
	_, err := identity.New(identity.Config{JWKS: "http://iam.example.com/.well-known/jwks.json", Algorithms: []string{"HS256"}})
	fmt.Println(err)
	// Output:
	// identity: JWKS must be https: the host that serves it chooses the keys; plain http is for loopback, or with AllowHTTP
	// identity: Issuer is missing: it is ASSERTION_ISSUER of iam-service
	// identity: Audiences must have one or more names, none of them empty: an assertion for another backend must not be valid here
	// identity: Algorithms may name ES256 and EdDSA, and not "HS256"
}
