package policy_test

import (
	"log/slog"
	"strings"
	"testing"

	"iam-service/internal/policy"
)

func TestAnOPAConfigurationThatWouldAcceptAnythingIsRejected(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]string{
		"it does nothing":  `{}`,
		`"type": "oci"`:    `{"services": {"s": {"url": "https://127.0.0.1:1", "type": "OCI"}}, "bundles": {"b": {"service": "s", "resource": "r"}}}`,
		`service "s" has`:  `{"services": [{"name": "s", "url": "https://127.0.0.1:1", "type": "oci"}], "discovery": {"service": "s", "resource": "d"}}`,
		`"file:" resource`: `{"bundles": {"b": {"resource": "file:///b.tar.gz"}}}`,
		"use \"bundles\"":  `{"bundle": {"name": "x"}, "bundles": {"a": {}}}`,
		"no \"signing\"":   "keys: {k: {key: x}}\nbundles: {main: {resource: /x}}",
		"neither JSON":     "\t{",
	} {
		if _, err := policy.StartManager(ctx, engine(t), []byte(config), "test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// Where only signed bundles are accepted, OPA must be configured to verify them.
func TestAnOPAConfigurationThatWouldAcceptUnsignedBundlesIsRejected(t *testing.T) {
	t.Parallel()
	e, err := policy.NewEngine(policy.Config{SignedOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`bundles: {main: {resource: /x}}`:            `bundle "main" has no "signing"`,
		`bundles: {main: {resource: /x, signing: }}`: `bundle "main" has no "signing"`,
		`discovery: {resource: /x}`:                  `"discovery" has no "signing"`,
		`discovery: {resource: /x, signing: null}`:   `"discovery" has no "signing"`,
	} {
		if _, err := policy.StartManager(ctx, e, []byte(config), "test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}
