package token

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// A token that is cached lends its signature to no other payload or header.
func TestASignatureIsForItsOwnPayloadAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	good := w.sign(nil, nil)
	for range 2 { // verified, and cached
		if got, err := w.verify(good); err != nil || got.Subject != "alice" {
			t.Fatalf("%v, %v", got, err)
		}
	}
	part := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	root := strings.Replace(string(payload), "alice", "root0", 1)
	if root == string(payload) {
		t.Fatal("the payload has no subject")
	}
	bob := strings.Split(w.sign(nil, map[string]any{"sub": "bob"}), ".")
	for name, raw := range map[string]string{
		"another subject":           part[0] + "." + encoded(root) + "." + part[2],
		"one more blank":            part[0] + "." + encoded(string(payload)+" ") + "." + part[2],
		"the payload of another":    part[0] + "." + bob[1] + "." + part[2],
		"the signature of another":  part[0] + "." + part[1] + "." + bob[2],
		"another header":            encoded(`{"alg":"none","typ":"at+jwt"}`) + "." + part[1] + "." + part[2],
		"no signature":              part[0] + "." + part[1] + ".",
		"padding after the payload": part[0] + "." + part[1] + "=." + part[2],
	} {
		for range 2 {
			if got, err := w.verify(raw); err == nil {
				t.Errorf("%s: verified as %s", name, got.Subject)
			}
		}
	}
	if got, err := w.verify(good); err != nil || got.Subject != "alice" {
		t.Errorf("the good one: %v, %v", got, err)
	}
}

// A backend that receives a token for enrichment cannot use it on the admin API, nor the other way round.
func TestATokenIsForEnrichmentOrForTheAdminAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	admin := w.v.ForAudience("iam-admin")
	for name, c := range map[string]struct {
		aud           any
		enrich, admin bool
	}{
		"for enrichment":                {aud: audience, enrich: true},
		"for the admin API":             {aud: "iam-admin", admin: true},
		"for both":                      {aud: []string{audience, "iam-admin"}, enrich: true},
		"for the admin API and another": {aud: []string{"iam-admin", "files"}, admin: true},
		"for another":                   {aud: "files"},
		"for another and enrichment":    {aud: []string{"files", audience}, enrich: true},
		"for none":                      {aud: []string{}},
	} {
		raw := w.sign(nil, map[string]any{"aud": c.aud})
		for range 2 {
			if _, err := w.verify(raw); (err == nil) != c.enrich {
				t.Errorf("%s: enrichment: %v", name, err)
			}
			if _, err := admin.Verify(ctx, raw, "", w.v.cfg.now().Add(time.Hour)); (err == nil) != c.admin {
				t.Errorf("%s: the admin API: %v", name, err)
			}
		}
	}
}
