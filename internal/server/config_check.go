package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"iam-service/internal/decisions"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/token"
)

// check validates what each value means, of the groups that are needed.
func (cfg *Config) check(needs *Needs, fault func(string, ...any)) {
	for _, group := range []struct {
		name  string
		check func(fault func(string, ...any))
	}{
		{"database", cfg.checkDatabase},
		{"gate", cfg.checkGate},
		{"signature", cfg.checkPolicyKey},
		{"budgets", cfg.checkBudgets},
		{"provider", cfg.checkProvider},
		{"decisions", cfg.checkDecisions},
		{"ops", cfg.checkOps},
		{"assertion", cfg.checkAssertion},
		{"issuers", cfg.checkIssuers},
		{"signals", cfg.checkSignals}, // after the issuers, whose users they are about
	} {
		if needs.read(group.name) {
			group.check(fault)
		}
	}
	if needs.Serve {
		cfg.checkServe(fault)
	}
}

func (cfg *Config) checkDatabase(fault func(string, ...any)) {
	for _, v := range []struct{ name, url string }{{"DATABASE_URL", cfg.DatabaseURL}, {"DATABASE_LISTEN_URL", cfg.ListenURL}} {
		if v.url == "" {
			continue
		}
		if err := postgres.CheckURL(v.url); err != nil {
			fault("%s cannot be used: %v", v.name, err)
		}
	}
}

func (cfg *Config) checkGate(fault func(string, ...any)) {
	var err error
	if cfg.Profiles, err = gateway.Profiles(cfg.GatewayProfiles...); err != nil {
		fault("GATEWAY_PROFILE: %v", err)
	}
	if cfg.GatewayHeaders != nil {
		if err := policy.CheckHeaders(cfg.GatewayHeaders...); err != nil {
			fault("GATEWAY_HEADERS: %v", err)
		}
	}
	cfg.addAssertionHeader()
}

// spelledHeaders are the headers that gateways are configured for, as they are written.
func (cfg *Config) spelledHeaders() []string {
	if cfg.GatewayHeaders == nil {
		return policy.DefaultHeaders
	}
	return cfg.GatewayHeaders
}

func (cfg *Config) checkBudgets(fault func(string, ...any)) {
	if !emptyValue.MatchString(cfg.GatewayEmpty) {
		fault("GATEWAY_EMPTY_VALUE must be at most 16 printable ASCII characters without blanks and commas")
	}
	oneOf(fault, "UNKNOWN_USERS", cfg.UnknownUsers, "deny", "mapped")
	positive(fault, map[string]int64{"HEADER_BUDGET": int64(cfg.HeaderBudget), "ENRICH_DEADLINE": int64(cfg.EnrichDeadline)})
}

// gatewayTLS are the files of the gateways' listener.
func (cfg *Config) gatewayTLS() *tlsFiles {
	return &tlsFiles{prefix: "GATEWAY", cert: cfg.GatewayCert, key: cfg.GatewayKey, clientCA: cfg.GatewayClientCA}
}

// gatewaySecret is what a header can carry without quotes, and not be guessed.
var gatewaySecret = regexp.MustCompile(`^[!-~]{32,512}$`)

// sharedSecrets splits what callers must send: one secret, or two while it is changed.
func sharedSecrets(fault func(string, ...any), name, value string) [][]byte {
	if value == "" {
		return nil
	}
	secrets := strings.Split(value, ",")
	if len(secrets) > 2 {
		fault("%s must be one secret, or two while it is changed, is %d", name, len(secrets))
	}
	var all [][]byte
	for _, secret := range secrets {
		if !gatewaySecret.MatchString(secret) {
			fault("%s must be 32 to 512 printable ASCII characters without blanks and commas, each of the two while it is changed", name)
			return nil
		}
		all = append(all, []byte(secret))
	}
	return all
}

func (cfg *Config) checkGatewaySecret(fault func(string, ...any)) {
	if cfg.gatewaySecrets = sharedSecrets(fault, "GATEWAY_SECRET", cfg.GatewaySecret); cfg.GatewaySecret == "" {
		return
	}
	if able, unable := cfg.profilesBySecret(); len(able) == 0 && len(unable) > 0 {
		fault("GATEWAY_SECRET is set, and GATEWAY_PROFILE is %s alone: the opa plugins of Kong and APISIX cannot send a secret, so every request would be denied; "+
			"unset GATEWAY_SECRET, or use the profile kong or apisix", strings.Join(unable, ","))
	}
}

// profilesBySecret are the names of the enabled profiles whose gateways can send GATEWAY_SECRET, and of the others.
func (cfg *Config) profilesBySecret() (able, unable []string) {
	for i := range cfg.Profiles {
		if p := &cfg.Profiles[i]; p.SendsSecret() {
			able = append(able, p.Name)
		} else {
			unable = append(unable, p.Name)
		}
	}
	return able, unable
}

// emptyValue is what a header without a value can hold: a comma would be a list.
var emptyValue = regexp.MustCompile(`^[!-+.-~-]{0,16}$`)

func (cfg *Config) checkProvider(fault func(string, ...any)) {
	positive(fault, map[string]int64{
		"MAX_TOKEN_LIFETIME":    int64(cfg.MaxTokenLifetime),
		"RECONCILE_MAX_CHANGES": int64(cfg.ReconcileMaxChanges),
		"START_TIMEOUT":         int64(cfg.StartTimeout),
	})
	cfg.checkRAuthAdmin(fault)
}

func (cfg *Config) checkOps(fault func(string, ...any)) {
	address(fault, "OPS_ADDR", cfg.OpsAddr)
	cfg.opsTokens = sharedSecrets(fault, "OPS_TOKEN", cfg.OpsToken)
}

// checkServe validates what serve alone reads.
func (cfg *Config) checkServe(fault func(string, ...any)) {
	cfg.checkNATS(fault)
	cfg.checkAssertionUse(fault)
	address(fault, "GATEWAY_ADDR", cfg.GatewayAddr)
	address(fault, "ADMIN_ADDR", cfg.AdminAddr)
	cfg.gatewayTLS().check(fault)
	cfg.checkGatewaySecret(fault)
	cfg.checkTracing(fault)
	if cfg.GatewayCache < 0 || cfg.GatewayCache > cfg.MaxStaleness || cfg.GatewayCache%time.Second != 0 {
		fault("GATEWAY_CACHE must be whole seconds, and not more than MAX_STALENESS (%s), is %s", cfg.MaxStaleness, cfg.GatewayCache)
	}
	cfg.checkExtAuthz(fault)
	cfg.checkAuthzen(fault)
	if cfg.OPAConfig != "" {
		var err error
		if cfg.opaConfig, err = os.ReadFile(cfg.OPAConfig); err != nil {
			fault("OPA_CONFIG cannot be read: %v", err)
		} else if cfg.opaFetches, err = policy.Fetches(cfg.opaConfig); err != nil {
			fault("OPA_CONFIG cannot be used: %v", err)
		}
	}
	if cfg.PolicyBundle != "" && cfg.opaFetches {
		fault("POLICY_BUNDLE and OPA_CONFIG both bring policies: one of them is allowed")
	}
	if cfg.PolicyKeyFile == "" && !cfg.PolicyAllowUnsigned {
		if cfg.PolicyBundle != "" {
			fault("POLICY_KEY_FILE is missing: POLICY_BUNDLE must be signed, or POLICY_ALLOW_UNSIGNED=1")
		}
		if cfg.PolicyActivation == "managed" && !cfg.opaFetches {
			fault("POLICY_KEY_FILE is missing: what is sent with POLICY_ACTIVATION=managed must be signed, or POLICY_ALLOW_UNSIGNED=1")
		}
	}
	oneOf(fault, "POLICY_ACTIVATION", cfg.PolicyActivation, "auto", "managed")
	oneOf(fault, "POLICY_ENGINE", cfg.PolicyEngine, "auto", "topdown")
	if cfg.PolicyVerifyShare < 0 || cfg.PolicyVerifyShare > 1 || math.IsNaN(cfg.PolicyVerifyShare) {
		fault("POLICY_VERIFY_SHARE must be 0 to 1, is %v", cfg.PolicyVerifyShare)
	}
	if cfg.StateDir != "" {
		if err := checkStateDir(cfg.StateDir, os.Geteuid()); err != nil {
			fault("STATE_DIR %v", err)
		}
	}
	oneOf(fault, "AMBIGUOUS_PATHS", cfg.AmbiguousPaths, "when_read", "always_deny")
	cfg.checkDecisionLog(fault)
	cfg.checkConsole(fault)
	if cfg.DecisionsKeep < time.Hour {
		fault("DECISIONS_RETENTION must be 1h or more, is %s", cfg.DecisionsKeep)
	}
	if (cfg.IntrospectionClientID == "") != (cfg.IntrospectionClientPass == "") {
		fault("RAUTH_INTROSPECTION_CLIENT_ID and RAUTH_INTROSPECTION_CLIENT_SECRET go together: set both or none")
	}
	positive(fault, map[string]int64{
		"DATABASE_FACTS_CONNS":    int64(cfg.FactsConns),
		"DATABASE_ADMIN_CONNS":    int64(cfg.AdminConns),
		"FACTS_ENTRIES":           int64(cfg.FactsEntries),
		"TOKEN_ENTRIES":           int64(cfg.TokenEntries),
		"MEMORY_AIM":              cfg.MemoryAim,
		"ADMIN_WRITES_PER_MINUTE": int64(cfg.AdminWrites),
		"SCIM_WRITES_PER_MINUTE":  int64(cfg.SCIMWrites),
		"TENANT_MAX_MEMBERS":      cfg.TenantMaxMembers,
		"TENANT_JOINS_PER_DAY":    cfg.TenantJoinsPerDay,
		"POLICY_REVISIONS_KEPT":   int64(cfg.PoliciesKept),
		"MAX_STALENESS":           int64(cfg.MaxStaleness),
		"JWKS_MAX_AGE":            int64(cfg.JWKSMaxAge),
		"OUTBOX_RETENTION":        int64(cfg.OutboxRetention),
		"ROLE_EXPIRY_NOTICE":      int64(cfg.RoleExpiryNotice),
		"ROLE_REQUEST_LIFETIME":   int64(cfg.RoleRequestLifetime),
		"INTROSPECTION_TTL":       int64(cfg.IntrospectionTTL),
		"INTROSPECTION_LIMIT":     int64(cfg.Introspections),
	})
	if cfg.BootstrapAdmin != "" && !iam.ValidSubject(cfg.BootstrapAdmin) {
		fault("BOOTSTRAP_ADMIN must be a subject: 1 to %d printable ASCII characters", iam.MaxSubjectBytes)
	}
	if cfg.DecisionEntries < 0 {
		fault("DECISION_ENTRIES must not be less than 0")
	}
	if cfg.MaxStaleness > 0 && cfg.MaxStaleness < 3*time.Second {
		fault("MAX_STALENESS must be 3s or more, is %s: freshness is confirmed about once a second", cfg.MaxStaleness)
	}
}

func (cfg *Config) checkNATS(fault func(string, ...any)) {
	for server := range strings.SplitSeq(cfg.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); cfg.NATSURL != "" && (err != nil || u.Host == "") {
			fault("NATS_URL must be a list of nats://host:port; a password in it must be percent-encoded")
			break
		}
	}
	for name, file := range map[string]string{
		"NATS_CREDENTIALS_FILE": cfg.NATSCredentialsFile,
		"NATS_CA_FILE":          cfg.NATSCAFile,
		"NATS_CERT_FILE":        cfg.NATSCertFile,
		"NATS_KEY_FILE":         cfg.NATSKeyFile,
	} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			fault("%s cannot be read: %v", name, err)
		}
	}
	if (cfg.NATSCertFile == "") != (cfg.NATSKeyFile == "") {
		fault("NATS_CERT_FILE and NATS_KEY_FILE go together: set both or none")
	}
	if cfg.NATSStreamReplicas < 1 || cfg.NATSStreamReplicas > 5 {
		fault("NATS_STREAM_REPLICAS must be 1 to 5, is %d", cfg.NATSStreamReplicas)
	}
	if cfg.NATSStream == "" || strings.ContainsAny(cfg.NATSStream, " .*>/\\") {
		fault("NATS_STREAM must be a name without blanks, dots, slashes or wildcards, is %q", cfg.NATSStream)
	}
}

func address(fault func(string, ...any), name, addr string) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		fault("%s must be host:port or :port: %v", name, err)
	}
}

func oneOf(fault func(string, ...any), name, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		fault("%s must be %s, is %q", name, strings.Join(allowed, " or "), value)
	}
}

func positive(fault func(string, ...any), values map[string]int64) {
	for name, n := range values {
		if n <= 0 {
			fault("%s must be more than 0", name)
		}
	}
}

// checkStateDir rejects a folder that others than root and the service, which runs as uid, can
// write to: write access to it decides which policy a start finds.
func checkStateDir(dir string, uid int) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) { // it is made; where it would be must be there
		if _, above := os.Stat(filepath.Dir(filepath.Clean(dir))); above == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot be used: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("must be a folder, %s is none", dir)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("must not be writable by its group or by all users, as %s is (%s): write access to it decides which policy a start finds", dir, mode)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != uid {
		return fmt.Errorf("must belong to the service's own user or to root, and %s belongs to the user %d: write access to it decides which policy a start finds", dir, s.Uid)
	}
	return nil
}

func (cfg *Config) checkDecisionLog(fault func(string, ...any)) {
	oneOf(fault, "USAGE_RECORDING", cfg.UsageRecording, "auto", "on", "off")
	if err := decisions.CheckFields(cfg.DecisionFields); err != nil {
		fault("DECISION_LOG_FIELDS: %v", err)
	}
	if cfg.DecisionSubject != "" && (cfg.NATSURL == "" || strings.ContainsAny(cfg.DecisionSubject, " *>") || strings.HasPrefix(cfg.DecisionSubject+".", "iam.")) {
		fault("DECISION_LOG_NATS_SUBJECT needs NATS_URL, and must be a subject without wildcards that does not begin with iam., which is for events")
	}
	if cfg.DecisionSample < 0 || cfg.DecisionSample > 1 {
		fault("DECISION_LOG_SAMPLE must be 0 to 1, is %v", cfg.DecisionSample)
	}
}

func (cfg *Config) checkDecisions(fault func(string, ...any)) {
	if cfg.DecisionsURL != "" {
		if err := postgres.CheckURL(cfg.DecisionsURL); err != nil {
			fault("DECISIONS_DATABASE_URL cannot be used: %v", err)
		}
	}
}

func (cfg *Config) checkPolicyKey(fault func(string, ...any)) {
	if cfg.PolicyKeyFile == "" {
		return
	}
	text, err := os.ReadFile(cfg.PolicyKeyFile)
	if err != nil {
		fault("POLICY_KEY_FILE cannot be read: %v", err)
		return
	}
	if cfg.PolicyKey, err = policy.ParseKey(text); err != nil {
		fault("POLICY_KEY_FILE cannot be used: %v", err)
	}
}

func (cfg *Config) checkRAuthAdmin(fault func(string, ...any)) {
	if cfg.RAuthAdminURL == "" {
		for name, value := range map[string]string{
			"RAUTH_ADMIN_CLIENT_ID": cfg.RAuthAdminClientID, "RAUTH_ADMIN_CLIENT_SECRET": cfg.RAuthAdminClientSecret,
			"RAUTH_ADMIN_TOKEN_FILE": cfg.RAuthAdminTokenFile,
		} {
			if value != "" {
				fault("%s is set, and RAUTH_ADMIN_URL is missing", name)
			}
		}
		return
	}
	if why := badIssuerURL(cfg.RAuthAdminURL, cfg.RAuthInsecureHTTP); why != "" {
		fault("RAUTH_ADMIN_URL %s", why)
	}
	if (cfg.RAuthAdminClientID == "") != (cfg.RAuthAdminClientSecret == "") {
		fault("RAUTH_ADMIN_CLIENT_ID and RAUTH_ADMIN_CLIENT_SECRET go together: set both or none")
	}
	if cfg.RAuthAdminTokenFile != "" {
		if cfg.RAuthAdminClientID != "" {
			fault("RAUTH_ADMIN_TOKEN_FILE and RAUTH_ADMIN_CLIENT_ID are both set: one of them is allowed")
		}
		if _, err := os.ReadFile(cfg.RAuthAdminTokenFile); err != nil {
			fault("RAUTH_ADMIN_TOKEN_FILE cannot be read: %v", err)
		}
	}
}

// trustedIssuer is one entry of TRUSTED_ISSUERS.
type trustedIssuer struct {
	ID                        string   `json:"id"`
	URL                       string   `json:"url"`
	Audiences                 []string `json:"audiences"`
	Tenants                   []string `json:"tenants"`
	Platform                  bool     `json:"platform"`
	TokenTypes                []string `json:"token_types"`
	AuthorizedParties         []string `json:"authorized_parties"`
	Programs                  []string `json:"programs"`
	IntrospectionURL          string   `json:"introspection_url"`
	IntrospectionClientID     string   `json:"introspection_client_id"`
	IntrospectionClientSecret string   `json:"introspection_client_secret"`
}

func (cfg *Config) checkIssuers(fault func(string, ...any)) {
	all := []trustedIssuer{{
		ID: cfg.RAuthID, URL: cfg.RAuthURL, Audiences: cfg.RAuthAudiences, Tenants: []string{"*"}, Platform: true,
		TokenTypes: cfg.RAuthTokenTypes, AuthorizedParties: cfg.RAuthAuthorizedParties,
		Programs: cfg.RAuthPrograms, IntrospectionURL: cfg.IntrospectionURL, IntrospectionClientID: cfg.IntrospectionClientID, IntrospectionClientSecret: cfg.IntrospectionClientPass,
	}}
	if cfg.TrustedIssuers != "" {
		var more []trustedIssuer
		d := json.NewDecoder(strings.NewReader(cfg.TrustedIssuers))
		d.DisallowUnknownFields()
		if err := d.Decode(&more); err != nil {
			fault("TRUSTED_ISSUERS is not the JSON that is wanted: %v", err)
		} else if _, err := d.Token(); !errors.Is(err, io.EOF) {
			fault("TRUSTED_ISSUERS is not the JSON that is wanted: something follows the list")
		}
		all = append(all, more...)
	}
	urls, ids := map[string]bool{}, map[string]bool{}
	for i, t := range all {
		name, audiences, types, programs, introspection := "RAUTH_URL", "RAUTH_AUDIENCES", "RAUTH_TOKEN_TYPES", "RAUTH_PROGRAMS", "RAUTH_INTROSPECTION_URL"
		if i > 0 {
			name = fmt.Sprintf("TRUSTED_ISSUERS[%d]", i-1)
			audiences, types, programs, introspection = name+".audiences", name+".token_types", name+".programs", name+".introspection_url"
		}
		if i > 0 || t.URL != "" {
			if why := badIssuerURL(t.URL, cfg.RAuthInsecureHTTP); why != "" {
				fault("%s %s", name, why)
			}
		}
		if urls[t.URL] && t.URL != "" {
			fault("%s: %s is listed twice", name, t.URL)
		}
		if ids[t.ID] && t.ID != "" {
			fault("%s: the id %q is given twice", name, t.ID)
		}
		urls[t.URL], ids[t.ID] = true, true
		if i > 0 && len(t.Audiences) == 0 {
			fault("%s is missing: a token without an audience is valid nowhere", audiences)
		}
		if cfg.AdminAudience != "" && slices.Contains(t.Audiences, cfg.AdminAudience) {
			fault("ADMIN_AUDIENCE must not be one of %s: a backend could replay an admin's token", audiences)
		}
		if i > 0 && len(t.Tenants) == 0 {
			fault(`%s.tenants is missing: list the ids of the tenants it is trusted for, or "*"`, name)
		}
		for _, tenant := range t.Tenants {
			if tenant != "*" && !iam.ValidTenantID(tenant) {
				fault("%s.tenants: %q is not the id of a tenant", name, tenant)
			}
		}
		accepted := make([]string, 0, len(t.TokenTypes))
		for _, typ := range t.TokenTypes {
			typ = strings.ToLower(typ)
			if typ != "at+jwt" && typ != "jwt" {
				fault("%s: %q is neither at+jwt nor JWT", types, typ)
			}
			accepted = append(accepted, typ)
		}
		marks := make([]token.ProgramMark, 0, len(t.Programs))
		for _, p := range t.Programs {
			m, err := token.ParseProgramMark(p)
			if err != nil {
				fault("%s: %v", programs, err)
			}
			marks = append(marks, m)
		}
		if t.IntrospectionURL != "" {
			if why := badIssuerURL(t.IntrospectionURL, cfg.RAuthInsecureHTTP); why != "" {
				fault("%s %s", introspection, why)
			}
		}
		cfg.Issuers = append(cfg.Issuers, iam.Issuer{URL: t.URL, Tenants: t.Tenants, Platform: t.Platform})
		cfg.Verified = append(cfg.Verified, token.Issuer{
			ID: t.ID, URL: t.URL, Audiences: t.Audiences, Types: accepted, AuthorizedParties: t.AuthorizedParties, Programs: marks,
			IntrospectionURL: t.IntrospectionURL, IntrospectionClientID: t.IntrospectionClientID, IntrospectionClientSecret: t.IntrospectionClientSecret,
		})
	}
}

// badIssuerURL returns what is invalid in an issuer; "" if nothing is.
func badIssuerURL(s string, insecure bool) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || !iam.ValidIssuer(s):
		return "must be a URL such as https://auth.example.com"
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "must have no user, query or fragment (RFC 8414, section 2)"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must be https"
	case insecure || isLoopback(u.Hostname()):
		return ""
	}
	return "must be https; plain http is for loopback, or with RAUTH_INSECURE_HTTP=1"
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
