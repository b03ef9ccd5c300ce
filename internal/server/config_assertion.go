package server

import (
	"net/http"
	"slices"
	"strings"

	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// addAssertionHeader adds the header of signed identities to those that the gateways copy: where they are on, each
// 200 carries it, also where it is empty, so that no forged one passes.
func (cfg *Config) addAssertionHeader() {
	if cfg.AssertionIssuer == "" {
		return
	}
	if cfg.GatewayHeaders == nil {
		cfg.GatewayHeaders = policy.DefaultHeaders
	}
	own := http.CanonicalHeaderKey(assertion.Header)
	if !slices.ContainsFunc(cfg.GatewayHeaders, func(name string) bool { return http.CanonicalHeaderKey(name) == own }) {
		cfg.GatewayHeaders = append(slices.Clone(cfg.GatewayHeaders), assertion.Header)
	}
}

// checkAssertion validates the settings of the keys. A fault shows nothing of a key.
func (cfg *Config) checkAssertion(fault func(string, ...any)) {
	oneOf(fault, "ASSERTION_ALG", cfg.AssertionAlg, assertion.Algorithms...)
	if cfg.AssertionRotation < assertion.MinRotation {
		fault("ASSERTION_ROTATION must be %s or more, is %s: a key is published before it signs", assertion.MinRotation, cfg.AssertionRotation)
	}
	if a := cfg.AssertionAudience; a != "" && !iam.ValidSubject(a) {
		fault("ASSERTION_AUDIENCE must be 1 to %d printable ASCII characters", iam.MaxSubjectBytes)
	}
	if cfg.AssertionKEK == "" {
		if cfg.AssertionKEK2 != "" {
			fault("ASSERTION_KEY_ENCRYPTION_KEY_2 is set, and ASSERTION_KEY_ENCRYPTION_KEY is missing")
		}
		return
	}
	first, err := assertion.ParseKey(cfg.AssertionKEK)
	if err != nil {
		fault("ASSERTION_KEY_ENCRYPTION_KEY %v", err)
		return
	}
	var second []byte
	if cfg.AssertionKEK2 != "" {
		if second, err = assertion.ParseKey(cfg.AssertionKEK2); err != nil {
			fault("ASSERTION_KEY_ENCRYPTION_KEY_2 %v", err)
			return
		}
	}
	if cfg.AssertionEncryption, err = assertion.NewEncryption(first, second); err != nil {
		fault("ASSERTION_KEY_ENCRYPTION_KEY cannot be used: %v", err)
	}
	cfg.AssertionKEK, cfg.AssertionKEK2 = "", "" // nothing reads them again
}

// checkAssertionUse validates what turns signed identities on.
func (cfg *Config) checkAssertionUse(fault func(string, ...any)) {
	if cfg.AssertionIssuer == "" {
		if cfg.AssertionEncryption != nil || cfg.AssertionAudience != "" {
			fault("ASSERTION_ISSUER is missing: ASSERTION_KEY_ENCRYPTION_KEY or ASSERTION_AUDIENCE is set")
		}
		return
	}
	if why := badIssuerURL(cfg.AssertionIssuer, cfg.RAuthInsecureHTTP); why != "" {
		fault("ASSERTION_ISSUER %s", why)
	}
	for _, issuer := range cfg.Issuers {
		if strings.TrimSuffix(issuer.URL, "/") == strings.TrimSuffix(cfg.AssertionIssuer, "/") {
			fault("ASSERTION_ISSUER must be no issuer of access tokens, and %s is one: a backend could take one for the other", issuer.URL)
		}
	}
	if most := assertion.Lifetime / 2; cfg.GatewayCache > most { // one is signed again when half of its lifetime remains
		fault("GATEWAY_CACHE must not be more than %s with ASSERTION_ISSUER, is %s: a gateway would repeat an expired identity", most, cfg.GatewayCache)
	}
	if cfg.AssertionEncryption == nil && cfg.AssertionKEK == "" { // else it is set, and its fault is reported
		fault("ASSERTION_KEY_ENCRYPTION_KEY is missing: ASSERTION_ISSUER is set")
	}
}
