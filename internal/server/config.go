package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-service/internal/decisions"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/token"
)

// Config is all settings of serve, one for each environment variable. A variable
// marked secret can also be given as a file, by its name with _FILE.
type Config struct {
	DatabaseURL string `env:"DATABASE_URL" secret:"true" need:"true" doc:"PostgreSQL; may lead to a transaction pooler"`
	ListenURL   string `env:"DATABASE_LISTEN_URL" secret:"true" doc:"the same database, always direct: changes are heard over it; else DATABASE_URL"`

	FactsConns int32 `env:"DATABASE_FACTS_CONNS" envDefault:"10" doc:"most connections for look-ups of gateways' requests; 4 are kept open"`
	AdminConns int32 `env:"DATABASE_ADMIN_CONNS" envDefault:"10" doc:"most connections for everything else; 4 are kept open"`

	RAuthURL                string   `env:"RAUTH_URL" need:"true" doc:"issuer of tokens, byte by byte as in their iss"`
	RAuthID                 string   `env:"RAUTH_ID" envDefault:"rauth" doc:"what X-Upstream-IdP-ID calls it"`
	RAuthAudiences          []string `env:"RAUTH_AUDIENCES" need:"true" doc:"audiences that gateways' tokens are for, comma-separated"`
	RAuthTokenTypes         []string `env:"RAUTH_TOKEN_TYPES" envDefault:"at+jwt" doc:"accepted typ of tokens: at+jwt, JWT"`
	RAuthAuthorizedParties  []string `env:"RAUTH_AUTHORIZED_PARTIES" doc:"if set, tokens must be issued to one of these clients"`
	RAuthInsecureHTTP       bool     `env:"RAUTH_INSECURE_HTTP" doc:"1 lets issuers be plain http beyond loopback"`
	RAuthPrograms           []string `env:"RAUTH_PROGRAMS" doc:"how tokens of programs are marked, besides sub = client_id: claim, claim=value or claim=prefix* (the prefix and the client id), comma-separated"`
	IntrospectionURL        string   `env:"RAUTH_INTROSPECTION_URL" doc:"where opaque tokens are introspected; else what discovery says, with RAUTH_INTROSPECTION_CLIENT_ID"`
	IntrospectionClientID   string   `env:"RAUTH_INTROSPECTION_CLIENT_ID" doc:"turns introspection of opaque tokens on"`
	IntrospectionClientPass string   `env:"RAUTH_INTROSPECTION_CLIENT_SECRET" secret:"true" doc:"its secret"`
	TrustedIssuers          string   `env:"TRUSTED_ISSUERS" secret:"true" doc:"further issuers, a JSON list: see docs/configuration.md"`
	RAuthAdminURL           string   `env:"RAUTH_ADMIN_URL" doc:"R-Auth's admin API, without /admin; none: clients are not managed"`
	RAuthAdminClientID      string   `env:"RAUTH_ADMIN_CLIENT_ID" doc:"our client for the admin API, by client credentials"`
	RAuthAdminClientSecret  string   `env:"RAUTH_ADMIN_CLIENT_SECRET" secret:"true" doc:"its secret; a file is read again for each new token"`
	RAuthAdminTokenFile     string   `env:"RAUTH_ADMIN_TOKEN_FILE" doc:"file with a bearer token for the admin API, instead of a client; it is read for each call"`
	AdminAudience           string   `env:"ADMIN_AUDIENCE" doc:"audience of admins' tokens, never one of the gateways'; none: the admin API is off"`
	AdminWrites             int      `env:"ADMIN_WRITES_PER_MINUTE" envDefault:"600" doc:"that one caller may ask one replica for"`
	TenantMaxMembers        int64    `env:"TENANT_MAX_MEMBERS" envDefault:"1000000" doc:"members that one tenant may have"`
	TenantJoinsPerDay       int64    `env:"TENANT_JOINS_PER_DAY" envDefault:"100000" doc:"members that a tenant's own administrators may add in 24 hours"`
	BootstrapAdmin          string   `env:"BOOTSTRAP_ADMIN" doc:"subject of R-Auth's tokens that is made platform administrator at a start while there is none"`

	GatewayAddr string `env:"GATEWAY_ADDR" envDefault:":8080" doc:"listener for gateways"`
	AdminAddr   string `env:"ADMIN_ADDR" envDefault:":8081" doc:"listener for admins"`
	OpsAddr     string `env:"OPS_ADDR" envDefault:":9090" doc:"listener for operators, without authentication: only for them to reach"`
	OpsPprof    bool   `env:"OPS_PPROF" doc:"1 serves /debug/pprof/ on it"`

	TrustedProxies []netip.Prefix `env:"TRUSTED_PROXIES" doc:"networks whose X-Forwarded-… and X-Upstream-IdP-ID are believed, comma-separated"`
	AmbiguousPaths string         `env:"AMBIGUOUS_PATHS" envDefault:"when_read" doc:"paths that can be read in two ways are refused: when_read, where the policy reads the path; always_deny"`
	GatewayHeaders []string       `env:"GATEWAY_HEADERS" doc:"headers that the gateways copy; every 200 carries them all"`
	HeaderBudget   int            `env:"HEADER_BUDGET" envDefault:"3500" doc:"bytes that the headers of an answer may take together"`

	PolicyBundle        string `env:"POLICY_BUNDLE" doc:"bundle file or folder, watched; else the embedded policy"`
	OPAConfig           string `env:"OPA_CONFIG" doc:"file with an OPA configuration that fetches bundles"`
	PolicyKeyFile       string `env:"POLICY_KEY_FILE" doc:"PEM of the public key that POLICY_BUNDLE must be signed with"`
	PolicyAllowUnsigned bool   `env:"POLICY_ALLOW_UNSIGNED" doc:"1 lets policies come into force that nobody has signed, folders among them"`
	PolicyActivation    string `env:"POLICY_ACTIVATION" envDefault:"auto" doc:"auto: a new policy comes into force at once; managed: when somebody says so"`
	PoliciesKept        int    `env:"POLICY_REVISIONS_KEPT" envDefault:"20" doc:"superseded policies whose bundles stay in PostgreSQL, to roll back to"`
	StateDir            string `env:"STATE_DIR" doc:"folder of this replica's own, where the policy in force is kept for a start without its source; none: nowhere"`
	UnknownUsers        string `env:"UNKNOWN_USERS" envDefault:"deny" doc:"users that are not written down: deny or mapped"`

	FactsEntries     int           `env:"FACTS_ENTRIES" envDefault:"10000" doc:"documents kept in memory"`
	TokenEntries     int           `env:"TOKEN_ENTRIES" envDefault:"10000" doc:"verified tokens kept in memory"`
	DecisionEntries  int           `env:"DECISION_ENTRIES" envDefault:"10000" doc:"decisions kept in memory; 0: none"`
	MemoryAim        int64         `env:"MEMORY_AIM" envDefault:"134217728" doc:"bytes that the program aims at: bounds all caches, and garbage is collected accordingly"`
	MaxStaleness     time.Duration `env:"MAX_STALENESS" envDefault:"10s" doc:"how long facts are used without a proof that no change was missed"`
	JWKSMaxAge       time.Duration `env:"JWKS_MAX_AGE" envDefault:"24h" doc:"how long keys are used while their issuer is away"`
	IntrospectionTTL time.Duration `env:"INTROSPECTION_TTL" envDefault:"10s" doc:"how long a positive introspection is used"`
	Introspections   int           `env:"INTROSPECTION_LIMIT" envDefault:"100" doc:"opaque tokens not seen before, good ones not counted, that a replica asks about in a second, for gateways and for the admin API each; more are 503"`
	EnrichDeadline   time.Duration `env:"ENRICH_DEADLINE" envDefault:"150ms" doc:"longest time for one enrichment; the token and the facts may each take 2/5 of it, the evaluation 1/3"`

	NATSURL             string        `env:"NATS_URL" secret:"true" doc:"servers of NATS, comma-separated; none: no events"`
	NATSCredentialsFile string        `env:"NATS_CREDENTIALS_FILE" doc:"credentials file of NATS"`
	NATSCAFile          string        `env:"NATS_CA_FILE" doc:"PEM of who signs the certificates of NATS; else the system's"`
	NATSCertFile        string        `env:"NATS_CERT_FILE" doc:"our certificate for NATS, with NATS_KEY_FILE"`
	NATSKeyFile         string        `env:"NATS_KEY_FILE" doc:"its key"`
	NATSStream          string        `env:"NATS_STREAM" envDefault:"IAM" doc:"stream of events; it is made if there is none"`
	NATSStreamReplicas  int           `env:"NATS_STREAM_REPLICAS" envDefault:"1" doc:"replicas of a stream that is made: 3 in production"`
	OutboxRetention     time.Duration `env:"OUTBOX_RETENTION" envDefault:"168h" doc:"how long events are kept for a replay after they were sent; without NATS_URL, how long before they are deleted unsent"`

	MaxTokenLifetime    time.Duration `env:"MAX_TOKEN_LIFETIME" envDefault:"24h" doc:"of the longest token that R-Auth issues: a deleted client is refused for so long"`
	ReconcileMaxChanges int           `env:"RECONCILE_MAX_CHANGES" envDefault:"10" doc:"clients that are repaired in R-Auth at once; more are left until somebody has looked"`

	LogLevel        slog.Level    `env:"LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	DecisionFields  []string      `env:"DECISION_LOG_FIELDS" doc:"what of the input is logged: token.<claim>, request.<field>, comma-separated; else a list of usual ones"`
	DecisionConsole bool          `env:"DECISION_LOG_CONSOLE" envDefault:"true" doc:"decisions are lines of our own log"`
	DecisionFile    string        `env:"DECISION_LOG_FILE" doc:"file that decisions are appended to, as JSON lines"`
	DecisionSubject string        `env:"DECISION_LOG_NATS_SUBJECT" doc:"subject of NATS that decisions are published on, such as decisions.iam"`
	DecisionsURL    string        `env:"DECISIONS_DATABASE_URL" secret:"true" doc:"PostgreSQL where decisions can be queried, in production another one than DATABASE_URL; none: they cannot"`
	DecisionsKeep   time.Duration `env:"DECISIONS_RETENTION" envDefault:"72h" doc:"how long decisions can be queried"`
	DecisionSample  float64       `env:"DECISION_LOG_SAMPLE" envDefault:"0.01" doc:"share of answers from the cache that are logged, 0 to 1; evaluations all are"`
	StartTimeout    time.Duration `env:"START_TIMEOUT" envDefault:"10s" doc:"how long a start waits for PostgreSQL and R-Auth"`
	ShutdownDelay   time.Duration `env:"SHUTDOWN_DELAY" envDefault:"5s" doc:"how long to serve on after SIGTERM, not ready"`
	ShutdownGrace   time.Duration `env:"SHUTDOWN_GRACE" envDefault:"10s" doc:"how long requests in flight may take to end"`

	Issuers         iam.Issuers    // all that are trusted, R-Auth first
	Verified        []token.Issuer // the same, as tokens are verified
	adminSecretFile string         // of RAUTH_ADMIN_CLIENT_SECRET_FILE
	PolicyKey       *policy.Key    // of POLICY_KEY_FILE
	opaConfig       []byte         // content of OPA_CONFIG
	opaFetches      bool           // it brings policies
}

// Part is a part of ENRICH_DEADLINE: ms of its usual 150.
func (cfg *Config) Part(ms time.Duration) time.Duration { return cfg.EnrichDeadline / 150 * ms }

// ConfigError lists every fault of the configuration, by variable.
type ConfigError struct{ Faults []string }

// Faults is a ConfigError of these faults.
func Faults(faults ...string) error { return &ConfigError{faults} }

func (e *ConfigError) Error() string {
	return "the configuration is not valid:\n  " + strings.Join(e.Faults, "\n  ")
}

// ParseConfig reads environ ("NAME=value" each) and reports all that is wrong
// with it at once, by name and without any secret. It opens nothing but the files
// of secrets.
func ParseConfig(environ []string) (Config, error) {
	var cfg Config
	vars := env.ToMap(environ)
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	names := map[string]string{} // field → variable
	for f := range fieldsOf(cfg) {
		name := f.Tag.Get("env")
		names[f.Name] = name
		if f.Tag.Get("secret") == "true" {
			if err := FromFile(vars, name); err != nil {
				fault("%s", err)
				continue
			}
		}
		if f.Tag.Get("need") == "true" && vars[name] == "" {
			fault("%s is missing: %s", name, f.Tag.Get("doc"))
		}
	}
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: vars}); err != nil {
		for _, e := range unjoin(err) {
			if p, ok := errors.AsType[env.ParseError](e); ok {
				fault("%s cannot be read: %v", names[p.Name], p.Err)
				continue
			}
			fault("%v", e)
		}
	}
	cfg.adminSecretFile = vars["RAUTH_ADMIN_CLIENT_SECRET_FILE"]
	cfg.check(fault)
	if len(faults) > 0 {
		return cfg, &ConfigError{faults}
	}
	return cfg, nil
}

// Variables are the names of all settings with their defaults and what they mean.
func Variables() [][3]string {
	var all [][3]string
	for f := range fieldsOf(Config{}) {
		name := f.Tag.Get("env")
		if f.Tag.Get("secret") == "true" {
			name += "[_FILE]"
		}
		all = append(all, [3]string{name, f.Tag.Get("envDefault"), f.Tag.Get("doc")})
	}
	return all
}

func fieldsOf(cfg Config) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		t := reflect.TypeOf(cfg)
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

// FromFile puts the content of the file that NAME_FILE names into NAME.
func FromFile(vars map[string]string, name string) error {
	file := vars[name+"_FILE"]
	if file == "" {
		return nil
	}
	if vars[name] != "" {
		return fmt.Errorf("%s and %s_FILE are both set: one of them is allowed", name, name)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s_FILE cannot be read: %w", name, err)
	}
	vars[name] = strings.TrimSpace(string(b))
	if vars[name] == "" {
		return fmt.Errorf("%s_FILE names an empty file", name)
	}
	return nil
}

func unjoin(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// check looks at what each value means.
func (cfg *Config) check(fault func(string, ...any)) {
	for _, v := range []struct{ name, url string }{{"DATABASE_URL", cfg.DatabaseURL}, {"DATABASE_LISTEN_URL", cfg.ListenURL}} {
		if v.url == "" {
			continue
		}
		if err := postgres.CheckURL(v.url); err != nil {
			fault("%s cannot be used: %v", v.name, err)
		}
	}
	for server := range strings.SplitSeq(cfg.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); cfg.NATSURL != "" && (err != nil || u.Host == "") {
			fault("NATS_URL must be a list of nats://host:port; a password in it must be percent-encoded")
			break
		}
	}
	for name, file := range map[string]string{
		"NATS_CREDENTIALS_FILE": cfg.NATSCredentialsFile, "NATS_CA_FILE": cfg.NATSCAFile, "NATS_CERT_FILE": cfg.NATSCertFile, "NATS_KEY_FILE": cfg.NATSKeyFile,
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
	for name, addr := range map[string]string{"GATEWAY_ADDR": cfg.GatewayAddr, "ADMIN_ADDR": cfg.AdminAddr, "OPS_ADDR": cfg.OpsAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			fault("%s must be host:port or :port: %v", name, err)
		}
	}
	if cfg.GatewayHeaders != nil {
		if err := policy.CheckHeaders(cfg.GatewayHeaders...); err != nil {
			fault("GATEWAY_HEADERS: %v", err)
		}
	}
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
	cfg.checkDecisions(fault)
	cfg.CheckPolicyKey(fault)
	if !slices.Contains([]string{"auto", "managed"}, cfg.PolicyActivation) {
		fault("POLICY_ACTIVATION must be auto or managed, is %q", cfg.PolicyActivation)
	}
	if cfg.StateDir != "" {
		if err := checkStateDir(cfg.StateDir, os.Geteuid()); err != nil {
			fault("STATE_DIR %v", err)
		}
	}
	if !slices.Contains([]string{"when_read", "always_deny"}, cfg.AmbiguousPaths) {
		fault("AMBIGUOUS_PATHS must be when_read or always_deny, is %q", cfg.AmbiguousPaths)
	}
	if !slices.Contains([]string{"deny", "mapped"}, cfg.UnknownUsers) {
		fault("UNKNOWN_USERS must be deny or mapped, is %q", cfg.UnknownUsers)
	}
	if cfg.DecisionSample < 0 || cfg.DecisionSample > 1 {
		fault("DECISION_LOG_SAMPLE must be 0 to 1, is %v", cfg.DecisionSample)
	}
	for name, n := range map[string]int64{
		"DATABASE_FACTS_CONNS": int64(cfg.FactsConns), "DATABASE_ADMIN_CONNS": int64(cfg.AdminConns), "FACTS_ENTRIES": int64(cfg.FactsEntries), "MEMORY_AIM": cfg.MemoryAim, "TOKEN_ENTRIES": int64(cfg.TokenEntries),
		"ADMIN_WRITES_PER_MINUTE": int64(cfg.AdminWrites), "TENANT_MAX_MEMBERS": cfg.TenantMaxMembers, "POLICY_REVISIONS_KEPT": int64(cfg.PoliciesKept), "TENANT_JOINS_PER_DAY": cfg.TenantJoinsPerDay,
		"HEADER_BUDGET": int64(cfg.HeaderBudget), "MAX_STALENESS": int64(cfg.MaxStaleness), "JWKS_MAX_AGE": int64(cfg.JWKSMaxAge),
		"OUTBOX_RETENTION": int64(cfg.OutboxRetention), "MAX_TOKEN_LIFETIME": int64(cfg.MaxTokenLifetime), "RECONCILE_MAX_CHANGES": int64(cfg.ReconcileMaxChanges), "INTROSPECTION_TTL": int64(cfg.IntrospectionTTL), "INTROSPECTION_LIMIT": int64(cfg.Introspections), "ENRICH_DEADLINE": int64(cfg.EnrichDeadline), "START_TIMEOUT": int64(cfg.StartTimeout),
	} {
		if n <= 0 {
			fault("%s must be more than 0", name)
		}
	}
	if cfg.BootstrapAdmin != "" && !iam.ValidSubject(cfg.BootstrapAdmin) {
		fault("BOOTSTRAP_ADMIN must be a subject: 1 to %d printable ASCII characters", iam.MaxSubjectBytes)
	}
	if cfg.DecisionEntries < 0 {
		fault("DECISION_ENTRIES must not be less than 0")
	}
	if cfg.MaxStaleness > 0 && cfg.MaxStaleness < 3*time.Second {
		fault("MAX_STALENESS must be 3s or more, is %s: freshness is proved about once a second", cfg.MaxStaleness)
	}
	if (cfg.IntrospectionClientID == "") != (cfg.IntrospectionClientPass == "") {
		fault("RAUTH_INTROSPECTION_CLIENT_ID and RAUTH_INTROSPECTION_CLIENT_SECRET go together: set both or none")
	}
	cfg.checkRAuthAdmin(fault)
	cfg.CheckIssuers(fault)
}

// checkStateDir refuses a folder that others than root and the service, which runs as uid, can
// write to: whoever writes there decides which policy a start finds.
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
		return fmt.Errorf("must not be writable by its group or by everybody, as %s is (%s): whoever writes there decides which policy a start finds", dir, mode)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != uid {
		return fmt.Errorf("must belong to the service's own user or to root, and %s belongs to the user %d: whoever writes there decides which policy a start finds", dir, s.Uid)
	}
	return nil
}

func (cfg *Config) checkDecisions(fault func(string, ...any)) {
	if err := decisions.CheckFields(cfg.DecisionFields); err != nil {
		fault("DECISION_LOG_FIELDS: %v", err)
	}
	if cfg.DecisionSubject != "" && (cfg.NATSURL == "" || strings.ContainsAny(cfg.DecisionSubject, " *>") || strings.HasPrefix(cfg.DecisionSubject+".", "iam.")) {
		fault("DECISION_LOG_NATS_SUBJECT needs NATS_URL, and must be a subject without wildcards that does not begin with iam., which is for events")
	}
	if cfg.DecisionsURL != "" {
		if err := postgres.CheckURL(cfg.DecisionsURL); err != nil {
			fault("DECISIONS_DATABASE_URL cannot be used: %v", err)
		}
	}
	if cfg.DecisionsKeep < time.Hour {
		fault("DECISIONS_RETENTION must be 1h or more, is %s", cfg.DecisionsKeep)
	}
}

func (cfg *Config) CheckPolicyKey(fault func(string, ...any)) {
	if cfg.PolicyKeyFile == "" {
		if cfg.PolicyBundle != "" && !cfg.PolicyAllowUnsigned {
			fault("POLICY_KEY_FILE is missing: POLICY_BUNDLE must be signed, or POLICY_ALLOW_UNSIGNED=1")
		}
		if cfg.PolicyActivation == "managed" && !cfg.opaFetches && !cfg.PolicyAllowUnsigned {
			fault("POLICY_KEY_FILE is missing: what is sent with POLICY_ACTIVATION=managed must be signed, or POLICY_ALLOW_UNSIGNED=1")
		}
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

// TrustedIssuer is one entry of TRUSTED_ISSUERS.
type TrustedIssuer struct {
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

func (cfg *Config) CheckIssuers(fault func(string, ...any)) {
	all := []TrustedIssuer{{
		ID: cfg.RAuthID, URL: cfg.RAuthURL, Audiences: cfg.RAuthAudiences, Tenants: []string{"*"}, Platform: true,
		TokenTypes: cfg.RAuthTokenTypes, AuthorizedParties: cfg.RAuthAuthorizedParties,
		Programs: cfg.RAuthPrograms, IntrospectionURL: cfg.IntrospectionURL, IntrospectionClientID: cfg.IntrospectionClientID, IntrospectionClientSecret: cfg.IntrospectionClientPass,
	}}
	if cfg.TrustedIssuers != "" {
		var more []TrustedIssuer
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
			fault("%s is missing: tokens that are for nobody in particular are for nobody", audiences)
		}
		if cfg.AdminAudience != "" && slices.Contains(t.Audiences, cfg.AdminAudience) {
			fault("ADMIN_AUDIENCE must not be one of %s: a backend could replay an admin's token", audiences)
		}
		if i > 0 && len(t.Tenants) == 0 {
			fault(`%s.tenants is missing: list the ids of the tenants it may speak for, or "*"`, name)
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

// badIssuerURL says what is wrong with an issuer; "" if nothing is.
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
