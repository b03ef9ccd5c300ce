package enrich

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// compare looks for a moment of each fact for which the oracle gives the answer:
// mostly it is now.
func (w *walk) compare(got answered, q Request, n int, since time.Duration) error {
	if err := w.compareAt(got, q, n, []time.Duration{w.at}); err == nil {
		return nil
	}
	moments := []time.Duration{w.at, max(0, since)}
	for _, s := range w.history {
		if s.from > since && s.from < w.at {
			moments = append(moments, s.from, s.from-1)
		}
	}
	return w.compareAt(got, q, n, moments)
}

func (w *walk) compareAt(got answered, q Request, n int, moments []time.Duration) error {
	sub, _ := w.claims[n]["sub"].(string)
	client, _ := w.claims[n]["client_id"].(string)
	users, clients := w.docs(moments, "users", w.issuer, sub), w.docs(moments, "clients", w.issuer, client)
	acme, globex := w.docs(moments, "tenants", "acme", ""), w.docs(moments, "tenants", "globex", "")
	var nearest answered
	for _, now := range []time.Duration{w.at, w.at - promise, w.at - promise/2} {
		for _, u := range users {
			for _, c := range clients {
				for _, a := range acme {
					for _, g := range globex {
						want, err := w.oracle(q, n, now, u, c, a, g)
						if err != nil {
							return err
						}
						if cmp.Equal(got, want) {
							return nil
						}
						if nearest.Status == 0 {
							nearest = want
						}
					}
				}
			}
		}
	}
	return fmt.Errorf("answered %v; an evaluation now gives %v, and none within the promise gives the answer", got, nearest)
}

// docs are the different documents of one fact at these moments; nil for absent.
func (w *walk) docs(moments []time.Duration, path ...string) []any {
	var all []any
	for _, m := range moments {
		w.past.at.moment = m
		w.past.store.InvalidateAll()
		v, err := w.past.store.View(directory.Caller{Issuer: w.issuer}, time.Now().Add(time.Minute)).
			Read(context.Background(), slices.DeleteFunc(append([]string{"directory"}, path...), func(s string) bool { return s == "" }))
		var doc any
		if err == nil {
			if doc, err = ast.JSON(v); err != nil {
				w.Fatal(err)
			}
		} else if errors.As(err, new(*iam.Error)) {
			continue // it ended at that very moment
		}
		if !slices.ContainsFunc(all, func(x any) bool { return cmp.Equal(x, doc) }) {
			all = append(all, doc)
		}
	}
	return all
}

// oracle is OPA itself, over everything, and what Go decides before it.
func (w *walk) oracle(q Request, n int, now time.Duration, user, client, acme, globex any) (answered, error) {
	if w.lacks(&q.Facts) {
		return answered{Status: 403}, nil
	}
	claims := w.claims[n]
	at := w.began.Add(now)
	dir := map[string]any{"users": map[string]any{}, "clients": map[string]any{}, "tenants": map[string]any{}}
	put := func(kind string, doc any, path ...string) {
		if doc == nil {
			return
		}
		under := dir[kind].(map[string]any)
		for _, p := range path[:len(path)-1] {
			under[p] = map[string]any{}
			under = under[p].(map[string]any)
		}
		under[path[len(path)-1]] = doc
	}
	if claims != nil {
		iat, _ := claims["iat"].(json.Number).Float64()
		sub, _ := claims["sub"].(string)
		id, _ := claims["client_id"].(string)
		for _, doc := range []any{client, user} {
			d, _ := doc.(map[string]any)
			if nbf, ok := d["tokens_not_before"].(json.Number); ok {
				if f, _ := nbf.Float64(); iat < f && (sub != id || d["client_id"] != nil) {
					return answered{Status: 401}, nil
				}
			}
		}
		if c, _ := client.(map[string]any); c != nil && c["status"] != "active" {
			return answered{Status: 401}, nil
		}
		put("users", user, w.issuer, sub)
		put("clients", client, w.issuer, id)
	}
	put("tenants", acme, "acme")
	put("tenants", globex, "globex")
	request := map[string]any{"gateway": q.Facts.Gateway, "method": q.Facts.Method, "path": q.Facts.Path, "client_ip": q.Facts.ClientIP.String(), "anonymous": false,
		"scheme": q.Facts.Scheme, "host": q.Facts.Host, "raw_path": q.Facts.RawPath}
	if q.TenantHint != "" && claims != nil {
		request["tenant_hint"] = q.TenantHint
	}
	input := map[string]any{"request": request, "now": json.Number(fmt.Sprint(at.Unix())), "settings": map[string]any{"unknown_users": "mapped"}}
	if claims != nil {
		input["token"] = claims
	}
	if err := storage.WriteOne(context.Background(), w.store, storage.ReplaceOp, storage.Path{"directory"}, dir); err != nil {
		return answered{}, err
	}
	rs, err := w.prepared.Eval(context.Background(), rego.EvalInput(input), rego.EvalTime(at))
	if err != nil || len(rs) != 1 {
		return answered{Status: 503}, err
	}
	d := rs[0].Bindings["x"].(map[string]any)
	if d["allow"] != true || claims == nil {
		status := 403
		if s, ok := d["status"].(json.Number); ok && s == "401" || claims == nil {
			status = 401
		}
		if claims == nil && d["allow"] == true {
			status = 503 // an allow without a subject, which no policy may make
		}
		return answered{Status: status}, nil
	}
	if c, _ := client.(map[string]any); c != nil && c["tenant"] != nil && d["tenant"] != c["tenant"] {
		return answered{Status: 403}, nil // whatever the policy says
	}
	out := answered{Status: 200, Headers: map[string]string{}}
	for name, v := range d["headers"].(map[string]any) {
		text, ok := v.(string)
		if !ok {
			var parts []string
			for _, p := range v.([]any) {
				parts = append(parts, p.(string))
			}
			text = strings.Join(parts, ",")
		}
		if text != "" {
			out.Headers[http.CanonicalHeaderKey(name)] = text
		}
	}
	return out, nil
}

func member(tenant string) iam.UserFacts {
	return iam.UserFacts{
		User:        iam.User{ID: "id", Status: iam.UserActive},
		Memberships: []iam.Membership{{Tenant: tenant, Status: iam.MembershipActive, Roles: []string{"viewer"}}},
	}
}

func open(id string) iam.TenantFacts {
	return iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: id, Status: iam.TenantActive}, Roles: []iam.Role{{Tenant: id, Name: "viewer"}}}
}
