package adminapi_test

import (
	"fmt"
	"net/url"
	"testing"
)

// A page verifies the audit piece by piece, shows how far it is, and names what is broken.
func TestTheAuditIsVerifiedPieceByPiece(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for i := range 5 {
		w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": fmt.Sprint("r", i)})
		w.want(201, "root", "POST", "/v1/tenants/globex/roles", map[string]any{"name": fmt.Sprint("r", i)})
	}
	verify := func() (faults []map[string]any) {
		t.Helper()
		verified, after := -1.0, ""
		for range 100 {
			r := w.want(200, "audrey", "GET", "/v1/audit/verification?limit=3"+after, nil)
			now, _ := r.field("verified").(float64)
			total, _ := r.field("total").(float64)
			if now < verified || now > total {
				t.Errorf("from %v to %s", verified, r)
			}
			verified = now
			list, _ := r.field("faults").([]any)
			for _, f := range list {
				f, _ := f.(map[string]any)
				faults = append(faults, f)
			}
			next, more := r.field("next").(string)
			if !more {
				if now != total || total < 10 || r.field("chains_verified") != r.field("chains") || r.field("chain") != nil {
					t.Errorf("the end: %s", r)
				}
				return faults
			}
			after = "&after=" + url.QueryEscape(next)
		}
		t.Fatal("it does not end")
		return nil
	}
	if faults := verify(); len(faults) > 0 {
		t.Errorf("got %v", faults)
	}
	_, err := w.sql().Exec(ctx, `UPDATE audit SET object = 'forged' WHERE chain = 'acme' AND seq = 4`)
	w.OK(err)
	faults := verify()
	if len(faults) != 1 || faults[0]["chain"] != "acme" || faults[0]["seq"] != 4.0 || faults[0]["fault"] != "entry 4 was changed" || faults[0]["entry"].(map[string]any)["object"] != "forged" {
		t.Errorf("got %v", faults)
	}
	for _, after := range []string{"x", "WzEsMiwzXQ", "WyJhIixmYWxzZSwtMSwiIiwiMjAwMC0wMS0wMVQwMDowMDowMFoiXQ"} {
		if r := w.call("audrey", "GET", "/v1/audit/verification?after="+after, nil); r.status != 422 {
			t.Errorf("%s: %s", after, r)
		}
	}
	w.want(422, "audrey", "GET", "/v1/audit/verification?tenant=acme", nil) // the chains are the platform's
	tx, err := w.sql().Begin(ctx)
	w.OK(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `LOCK TABLE audit_heads`)
	w.OK(err)
	w.want(503, "audrey", "GET", "/v1/audit/verification", nil)
}
