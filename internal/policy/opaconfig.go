package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/config"
	"sigs.k8s.io/yaml"
)

// Fetches reports whether an OPA configuration provides policies, rather than only reporting
// decisions and status.
func Fetches(config []byte) (bool, error) {
	var c struct {
		Bundles   map[string]json.RawMessage `json:"bundles"`
		Discovery json.RawMessage            `json:"discovery"`
	}
	if err := yaml.Unmarshal(config, &c); err != nil {
		return false, fmt.Errorf("it is neither JSON nor YAML: %w", err)
	}
	return len(c.Bundles) > 0 || c.Discovery != nil, nil
}

// maxDecisionBuffer bounds the bytes of decisions that wait for upload.
const maxDecisionBuffer = 32 << 20

// configLimits adds limits to a configuration, static or discovered, that sets none: on the size
// of each file of a bundle, and on the buffer of the decision log.
type configLimits struct{}

func (b configLimits) OnConfigDiscovery(ctx context.Context, c *config.Config) (*config.Config, error) {
	return b.OnConfig(ctx, c)
}

func (configLimits) OnConfig(_ context.Context, c *config.Config) (*config.Config, error) {
	bound := func(part *json.RawMessage, change func(map[string]any)) error {
		if isAbsent(*part) {
			return nil
		}
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(*part))
		d.UseNumber()
		err := d.Decode(&m)
		if err == nil {
			change(m)
			*part, err = json.Marshal(m)
		}
		return err
	}
	return c, errors.Join(onlyHTTP(c),
		bound(&c.Bundles, func(bundles map[string]any) {
			for _, b := range bundles {
				if b, ok := b.(map[string]any); ok && b["size_limit_bytes"] == nil {
					b["size_limit_bytes"] = MaxBundle
				}
			}
		}),
		bound(&c.DecisionLogs, func(logs map[string]any) {
			reporting, _ := logs["reporting"].(map[string]any) // none: created below
			if reporting == nil {
				reporting = map[string]any{}
				logs["reporting"] = reporting
			}
			if reporting["buffer_size_limit_bytes"] == nil && reporting["buffer_type"] != "event" {
				reporting["buffer_size_limit_bytes"] = maxDecisionBuffer
			}
		}),
	)
}

// onlyHTTP rejects bundles that OPA would read without our limits: OCI uses its own client, and
// files need none.
func onlyHTTP(c *config.Config) error {
	type service struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	var services []service
	if !isAbsent(c.Services) && json.Unmarshal(c.Services, &services) != nil { // a list, or by name
		var byName map[string]service
		if err := json.Unmarshal(c.Services, &byName); err != nil {
			return fmt.Errorf("services: %w", err)
		}
		services = nil
		for name, s := range byName {
			services = append(services, service{name, s.Type})
		}
	}
	var errs []error
	for _, s := range services {
		if strings.EqualFold(s.Type, "oci") {
			errs = append(errs, fmt.Errorf(`service %q has "type": "oci", whose bundles could not be checked before OPA unpacks them: serve them over HTTP or S3`, s.Name))
		}
	}
	var bundles map[string]struct {
		Resource string `json:"resource"`
	}
	if !isAbsent(c.Bundles) {
		if err := json.Unmarshal(c.Bundles, &bundles); err != nil {
			return fmt.Errorf("bundles: %w", err)
		}
	}
	for name, b := range bundles {
		if u, err := url.Parse(b.Resource); err == nil && u.Scheme == "file" {
			errs = append(errs, fmt.Errorf(`bundle %q has a "file:" resource, which could not be checked before OPA unpacks it: name the file in POLICY_BUNDLE`, name))
		}
	}
	return errors.Join(errs...)
}

// signedSource is the part of a bundle's configuration about its signature.
type signedSource struct {
	Signing *bundle.VerificationConfig `json:"signing"`
}

// checkConfig rejects insecure or useless configurations that OPA would accept.
func checkConfig(config []byte, signedOnly bool) error {
	var c struct {
		Bundle       json.RawMessage            `json:"bundle"`
		Keys         map[string]json.RawMessage `json:"keys"`
		Bundles      map[string]signedSource    `json:"bundles"`
		Discovery    *signedSource              `json:"discovery"`
		DecisionLogs json.RawMessage            `json:"decision_logs"`
		Status       json.RawMessage            `json:"status"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	var errs []error
	if c.Bundle != nil {
		errs = append(errs, errors.New(`it uses "bundle", which OPA has replaced: use "bundles"`))
	}
	if len(c.Bundles) == 0 && c.Discovery == nil && c.DecisionLogs == nil && c.Status == nil {
		errs = append(errs, errors.New(`it has neither "bundles" nor "discovery", "decision_logs" or "status": it does nothing`))
	}
	for name, b := range c.Bundles {
		if len(c.Keys) > 0 && b.Signing == nil {
			errs = append(errs, fmt.Errorf(`bundle %q has no "signing" although there are "keys": OPA would accept it unsigned`, name))
		} else if signedOnly && b.Signing == nil {
			errs = append(errs, fmt.Errorf(`bundle %q has no "signing": OPA would accept it unsigned; configure a key, or allow that with POLICY_ALLOW_UNSIGNED=1`, name))
		} else if b.Signing != nil && b.Signing.KeyID == "" {
			errs = append(errs, fmt.Errorf(`bundle %q has a "signing" without "keyid": name one of "keys"`, name))
		}
	}
	if signedOnly && c.Discovery != nil && c.Discovery.Signing == nil {
		errs = append(errs, errors.New(`"discovery" has no "signing": its server could name any bundle; configure a key, or allow that with POLICY_ALLOW_UNSIGNED=1`))
	} else if c.Discovery != nil && c.Discovery.Signing != nil && c.Discovery.Signing.KeyID == "" {
		errs = append(errs, errors.New(`"discovery" has a "signing" without "keyid": name one of "keys"`))
	}
	return errors.Join(errs...)
}

// isAbsent reports whether a part of a configuration is absent or null.
func isAbsent(part json.RawMessage) bool { return len(part) == 0 || string(part) == "null" }
