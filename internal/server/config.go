package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-service/internal/gateway"
	"iam-service/internal/gateway/assertion"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
	"iam-service/internal/token/signals"
)

// Config is all settings of serve, one for each environment variable. A variable marked secret can
// also be given as a file, by its name with _FILE. The tag of is the group of Needs that reads it;
// serve reads all.
type Config struct {
	DatabaseURL string `env:"DATABASE_URL" of:"database" secret:"true" need:"true" doc:"PostgreSQL; may lead to a transaction pooler"`
	ListenURL   string `env:"DATABASE_LISTEN_URL" of:"database" secret:"true" doc:"the same database, always direct, for change notifications and locks; unset: DATABASE_URL"`

	FactsConns int32 `env:"DATABASE_FACTS_CONNS" envDefault:"10" doc:"maximum of connections for look-ups of gateways' requests; 4 stay open"`
	AdminConns int32 `env:"DATABASE_ADMIN_CONNS" envDefault:"10" doc:"maximum of connections for everything else; 4 stay open"`

	RAuthURL                string   `env:"RAUTH_URL" of:"issuers" need:"true" doc:"issuer of tokens, byte by byte as in their iss"`
	RAuthID                 string   `env:"RAUTH_ID" of:"issuers" envDefault:"rauth" doc:"its name in X-Upstream-IdP-ID"`
	RAuthAudiences          []string `env:"RAUTH_AUDIENCES" of:"issuers" need:"true" doc:"audiences that gateways' tokens are for, comma-separated"`
	RAuthTokenTypes         []string `env:"RAUTH_TOKEN_TYPES" of:"issuers" envDefault:"at+jwt" doc:"accepted typ of tokens: at+jwt, JWT"`
	RAuthAuthorizedParties  []string `env:"RAUTH_AUTHORIZED_PARTIES" of:"issuers" doc:"if set, tokens must be issued to one of these clients"`
	RAuthInsecureHTTP       bool     `env:"RAUTH_INSECURE_HTTP" of:"issuers" doc:"1 allows issuers over plain http beyond loopback"`
	RAuthPrograms           []string `env:"RAUTH_PROGRAMS" of:"issuers" doc:"how tokens of programs are marked, besides sub = client_id: claim, claim=value or claim=prefix* (the prefix and the client id), comma-separated"`
	IntrospectionURL        string   `env:"RAUTH_INTROSPECTION_URL" doc:"endpoint that introspects opaque tokens; unset: that of discovery, with RAUTH_INTROSPECTION_CLIENT_ID"`
	IntrospectionClientID   string   `env:"RAUTH_INTROSPECTION_CLIENT_ID" doc:"client for introspection of opaque tokens; none: they are rejected"`
	IntrospectionClientPass string   `env:"RAUTH_INTROSPECTION_CLIENT_SECRET" secret:"true" doc:"its secret"`
	TrustedIssuers          string   `env:"TRUSTED_ISSUERS" of:"issuers" secret:"true" doc:"further issuers, a JSON list: see docs/configuration.md"`
	RAuthAdminURL           string   `env:"RAUTH_ADMIN_URL" of:"provider" doc:"R-Auth's admin API, without /admin; none: clients are not managed"`
	RAuthAdminClientID      string   `env:"RAUTH_ADMIN_CLIENT_ID" of:"provider" doc:"client for the admin API, by client credentials"`
	RAuthAdminClientSecret  string   `env:"RAUTH_ADMIN_CLIENT_SECRET" of:"provider" secret:"true" doc:"its secret; a file is read again for each new token"`
	RAuthAdminTokenFile     string   `env:"RAUTH_ADMIN_TOKEN_FILE" of:"provider" doc:"file with a bearer token for the admin API, instead of a client; it is read for each call"`
	AdminAudience           string   `env:"ADMIN_AUDIENCE" of:"gate" doc:"audience of admins' tokens, never one of the gateways'; none: the admin API is off"`
	AdminWrites             int      `env:"ADMIN_WRITES_PER_MINUTE" envDefault:"600" doc:"admin writes of one caller at one replica in a minute"`
	SCIMWrites              int      `env:"SCIM_WRITES_PER_MINUTE" envDefault:"3000" doc:"writes of one provisioning client (SCIM) at one replica in a minute"`
	TenantMaxMembers        int64    `env:"TENANT_MAX_MEMBERS" envDefault:"1000000" doc:"maximum of members of a tenant"`
	TenantJoinsPerDay       int64    `env:"TENANT_JOINS_PER_DAY" envDefault:"100000" doc:"maximum of members that a tenant's own administrators add in 24 hours"`
	SignalsFile             string   `env:"SIGNALS_FILE" of:"signals" doc:"file with the streams of security event tokens that are received (docs/signals.md); a change takes a restart; none: POST /v1/signals does not exist"`
	BootstrapAdmin          string   `env:"BOOTSTRAP_ADMIN" doc:"subject at R-Auth that becomes platform administrator at a start while there is none"`

	ConsoleURL          string        `env:"CONSOLE_URL" doc:"URL under which browsers reach /console of ADMIN_ADDR, such as https://iam.example.com/console; none: the console is off"`
	ConsoleClientID     string        `env:"CONSOLE_CLIENT_ID" doc:"client of the console at R-Auth, with the redirect URI CONSOLE_URL/callback"`
	ConsoleClientSecret string        `env:"CONSOLE_CLIENT_SECRET" secret:"true" doc:"its secret; a file is read again for each use; none: the client is public"`
	ConsoleKey          string        `env:"CONSOLE_KEY" secret:"true" doc:"encrypts sessions of the console, 32 random characters or more; two, comma-separated, while it is changed: the first encrypts"`
	ConsoleIdle         time.Duration `env:"CONSOLE_IDLE" envDefault:"30m" doc:"after which time without a request a session of the console ends"`
	ConsoleSession      time.Duration `env:"CONSOLE_SESSION" envDefault:"8h" doc:"after which time a session of the console ends in any case"`
	ConsoleScopes       []string      `env:"CONSOLE_SCOPES" envDefault:"openid,offline_access" doc:"scopes that a login at the console asks for, comma-separated; openid is one; without offline_access a session may end with its first access token"`

	RoleExpiryNotice    time.Duration `env:"ROLE_EXPIRY_NOTICE" envDefault:"168h" doc:"how long before its end a role of a member is announced (UserRolesExpiring.v1)"`
	RoleRequestLifetime time.Duration `env:"ROLE_REQUEST_LIFETIME" envDefault:"72h" doc:"after which an undecided request for a role expires"`

	GatewayAddr          string        `env:"GATEWAY_ADDR" envDefault:":8080" doc:"listener for gateways"`
	GatewayCert          string        `env:"GATEWAY_CERT_FILE" doc:"PEM of the certificate of GATEWAY_ADDR, with GATEWAY_KEY_FILE; it is read again when it changes; none: plain HTTP"`
	GatewayKey           string        `env:"GATEWAY_KEY_FILE" doc:"its key"`
	GatewayClientCA      string        `env:"GATEWAY_CLIENT_CA_FILE" doc:"PEM of the authorities of gateways' certificates: only they can connect, and are trusted as those in TRUSTED_PROXIES; none: they need no certificate"`
	GatewaySecret        string        `env:"GATEWAY_SECRET" secret:"true" doc:"what gateways send in X-Gateway-Secret, 32 characters or more; two, comma-separated, while it is changed; none: they send none"`
	GatewayCache         time.Duration `env:"GATEWAY_CACHE" envDefault:"0s" doc:"how long a gateway may cache a 200, at most MAX_STALENESS: a change takes so much longer; 0s: not at all"`
	AuthzenURL           string        `env:"AUTHZEN_URL" doc:"URL under which clients reach GATEWAY_ADDR for the AuthZEN API, such as https://iam.example.com; none: it is off"`
	AdminAddr            string        `env:"ADMIN_ADDR" envDefault:":8081" doc:"listener for admins"`
	ExtAuthzAddr         string        `env:"EXT_AUTHZ_ADDR" doc:"listener for gateways that ask by Envoy's gRPC protocol (envoy.service.auth.v3); none: it is off"`
	ExtAuthzCertFile     string        `env:"EXT_AUTHZ_CERT_FILE" doc:"PEM of its certificate and intermediates, read again when it changes; none: plain text"`
	ExtAuthzKeyFile      string        `env:"EXT_AUTHZ_KEY_FILE" doc:"PEM of the certificate's key"`
	ExtAuthzClientCAFile string        `env:"EXT_AUTHZ_CLIENT_CA_FILE" doc:"PEM of the CAs of client certificates, without which no connection is accepted then; such a peer is trusted as one in TRUSTED_PROXIES"`
	OpsAddr              string        `env:"OPS_ADDR" of:"ops" envDefault:":9090" doc:"listener for operators, in plain text: keep it private"`
	OpsToken             string        `env:"OPS_TOKEN" of:"ops" secret:"true" doc:"bearer token that operators' requests must have, 32 characters or more, except /healthz and /readyz without details; two, comma-separated, while it is changed; none: they need none"`
	OpsPprof             bool          `env:"OPS_PPROF" doc:"1 serves /debug/pprof/ on it"`

	GatewayProfiles []string       `env:"GATEWAY_PROFILE" of:"gate" envDefault:"traefik" doc:"kinds of gateways that ask, comma-separated: traefik, nginx, ingress-nginx, caddy, apisix, haproxy, kong, envoy-http, gateway-api, opa; each has an endpoint and one source of each fact"`
	TrustedProxies  []netip.Prefix `env:"TRUSTED_PROXIES" doc:"networks whose X-Forwarded-… and X-Upstream-IdP-ID are trusted, comma-separated"`
	AmbiguousPaths  string         `env:"AMBIGUOUS_PATHS" envDefault:"when_read" doc:"ambiguous paths are denied: when_read, where the policy reads the path; always_deny"`
	GatewayHeaders  []string       `env:"GATEWAY_HEADERS" of:"gate" doc:"headers that the gateways copy; every 200 carries all of them"`
	GatewayEmpty    string         `env:"GATEWAY_EMPTY_VALUE" of:"budgets" doc:"value of an identity header that has none, such as -, for gateways that drop empty headers; unset: empty"`
	HeaderBudget    int            `env:"HEADER_BUDGET" of:"budgets" envDefault:"3500" doc:"maximum bytes of all headers of a response together"`

	AssertionIssuer   string        `env:"ASSERTION_ISSUER" of:"gate" doc:"iss of signed identities, such as https://iam.example.com; none: responses carry no signed identity"`
	AssertionAudience string        `env:"ASSERTION_AUDIENCE" of:"assertion" doc:"their aud; unset: the host of each request, which the gateway must send"`
	AssertionAlg      string        `env:"ASSERTION_ALG" of:"assertion" envDefault:"ES256" doc:"signature algorithm of the next key: ES256 or EdDSA"`
	AssertionRotation time.Duration `env:"ASSERTION_ROTATION" of:"assertion" envDefault:"720h" doc:"how long a key signs"`
	AssertionKEK      string        `env:"ASSERTION_KEY_ENCRYPTION_KEY" of:"assertion" secret:"true" doc:"base64 of 32 random bytes; encrypts the keys that sign, in PostgreSQL"`
	AssertionKEK2     string        `env:"ASSERTION_KEY_ENCRYPTION_KEY_2" of:"assertion" secret:"true" doc:"another one, which decrypts as well: for a change of the first"`

	PolicyBundle        string  `env:"POLICY_BUNDLE" doc:"bundle file or folder, watched; unset: the embedded policy"`
	OPAConfig           string  `env:"OPA_CONFIG" doc:"file with an OPA configuration that fetches bundles"`
	PolicyKeyFile       string  `env:"POLICY_KEY_FILE" of:"signature" doc:"PEM of the public key that POLICY_BUNDLE must be signed with"`
	PolicyAllowUnsigned bool    `env:"POLICY_ALLOW_UNSIGNED" of:"signature" doc:"1 allows unsigned policies, folders among them"`
	PolicyActivation    string  `env:"POLICY_ACTIVATION" envDefault:"auto" doc:"auto: an accepted policy is activated at once; managed: by an administrator"`
	PolicyEngine        string  `env:"POLICY_ENGINE" envDefault:"auto" doc:"auto: the machine evaluates policies, with OPA's interpreter as the judge; topdown: the interpreter alone"`
	PolicyVerifyShare   float64 `env:"POLICY_VERIFY_SHARE" envDefault:"0.001" doc:"share of the machine's evaluations that are compared with the interpreter's, 0 to 1"`
	PoliciesKept        int     `env:"POLICY_REVISIONS_KEPT" envDefault:"20" doc:"superseded policies whose bundles stay in PostgreSQL, for a rollback"`
	StateDir            string  `env:"STATE_DIR" doc:"folder of this replica, which stores the active policy for a start without its source; none: it is not stored"`
	UnknownUsers        string  `env:"UNKNOWN_USERS" of:"budgets" envDefault:"deny" doc:"unknown users: deny, or mapped by the provider's claims"`

	FactsEntries     int           `env:"FACTS_ENTRIES" envDefault:"10000" doc:"maximum of cached documents"`
	TokenEntries     int           `env:"TOKEN_ENTRIES" envDefault:"10000" doc:"maximum of cached verified tokens"`
	DecisionEntries  int           `env:"DECISION_ENTRIES" envDefault:"10000" doc:"maximum of cached decisions; 0: none"`
	MemoryAim        int64         `env:"MEMORY_AIM" envDefault:"134217728" doc:"bytes of memory to aim at: bounds all caches, and steers the garbage collector"`
	MaxStaleness     time.Duration `env:"MAX_STALENESS" envDefault:"10s" doc:"how long facts are used after they were last confirmed fresh"`
	JWKSMaxAge       time.Duration `env:"JWKS_MAX_AGE" envDefault:"24h" doc:"how long keys are used while their issuer is unreachable"`
	IntrospectionTTL time.Duration `env:"INTROSPECTION_TTL" envDefault:"10s" doc:"how long a positive introspection is used"`
	Introspections   int           `env:"INTROSPECTION_LIMIT" envDefault:"100" doc:"introspections a second of unknown opaque tokens that turn out invalid, for gateways and for the admin API each; more are 503"`
	EnrichDeadline   time.Duration `env:"ENRICH_DEADLINE" of:"budgets" envDefault:"150ms" doc:"longest time for one enrichment; the token and the facts may each take 2/5 of it, the evaluation 1/3"`

	NATSURL             string        `env:"NATS_URL" secret:"true" doc:"NATS servers, comma-separated; none: events are not published"`
	NATSCredentialsFile string        `env:"NATS_CREDENTIALS_FILE" doc:"credentials file of NATS"`
	NATSCAFile          string        `env:"NATS_CA_FILE" doc:"PEM of the CA of the NATS servers; unset: the system's"`
	NATSCertFile        string        `env:"NATS_CERT_FILE" doc:"client certificate for NATS, with NATS_KEY_FILE"`
	NATSKeyFile         string        `env:"NATS_KEY_FILE" doc:"its key"`
	NATSStream          string        `env:"NATS_STREAM" envDefault:"IAM" doc:"stream of events; it is created if there is none"`
	NATSStreamReplicas  int           `env:"NATS_STREAM_REPLICAS" envDefault:"1" doc:"replicas of a stream that is created: 3 in production"`
	OutboxRetention     time.Duration `env:"OUTBOX_RETENTION" envDefault:"168h" doc:"how long published events are stored for a replay; without NATS_URL, how long before they are deleted unpublished"`

	MaxTokenLifetime    time.Duration `env:"MAX_TOKEN_LIFETIME" of:"provider" envDefault:"24h" doc:"lifetime of the longest token that R-Auth issues: a deleted client is denied for so long"`
	ReconcileMaxChanges int           `env:"RECONCILE_MAX_CHANGES" of:"provider" envDefault:"10" doc:"clients that are repaired in R-Auth at once; with more, repairs stop until an operator confirms"`

	LogLevel        slog.Level    `env:"LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	DecisionFields  []string      `env:"DECISION_LOG_FIELDS" doc:"parts of the input that are logged: token.<claim>, request.<field>, authzen.<entity>, comma-separated; unset: a usual list"`
	DecisionConsole bool          `env:"DECISION_LOG_CONSOLE" envDefault:"true" doc:"decisions are logged with the other lines"`
	DecisionFile    string        `env:"DECISION_LOG_FILE" doc:"file that decisions are appended to, as JSON lines"`
	DecisionSubject string        `env:"DECISION_LOG_NATS_SUBJECT" doc:"NATS subject on which decisions are published, such as decisions.iam"`
	DecisionsURL    string        `env:"DECISIONS_DATABASE_URL" of:"decisions" secret:"true" doc:"PostgreSQL that stores decisions for queries, in production another one than DATABASE_URL; none: they are not stored"`
	DecisionsKeep   time.Duration `env:"DECISIONS_RETENTION" envDefault:"72h" doc:"how long stored decisions can be queried"`
	UsageRecording  string        `env:"USAGE_RECORDING" envDefault:"auto" doc:"the last use of memberships, roles and clients is recorded by day: on, off, or auto: where DECISIONS_DATABASE_URL is set"`
	DecisionSample  float64       `env:"DECISION_LOG_SAMPLE" envDefault:"0.01" doc:"share of cache hits that are logged, 0 to 1; all evaluations are"`

	TracesExporter     string `env:"OTEL_TRACES_EXPORTER" doc:"otlp, console or none; unset: otlp where an endpoint is set, else none"`
	TracingDisabled    bool   `env:"OTEL_SDK_DISABLED" doc:"true turns tracing off, whatever else is set"`
	OTLPEndpoint       string `env:"OTEL_EXPORTER_OTLP_ENDPOINT" doc:"URL of the OpenTelemetry collector, such as http://collector:4318; unset: the protocol's port of localhost"`
	OTLPTracesEndpoint string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" doc:"the same for traces alone, used as it is: with /v1/traces"`
	OTLPProtocol       string `env:"OTEL_EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" doc:"http/protobuf or grpc"`
	OTLPHeaders        string `env:"OTEL_EXPORTER_OTLP_HEADERS" secret:"true" doc:"headers that the collector wants, such as Authorization=Bearer%20…, comma-separated"`
	TracesSampler      string `env:"OTEL_TRACES_SAMPLER" envDefault:"parentbased_always_on" doc:"which requests are traced: always_on, always_off, traceidratio, or parentbased_ and one of these: as a trusted gateway says, else as that one"`
	TracesSamplerArg   string `env:"OTEL_TRACES_SAMPLER_ARG" doc:"share of requests of traceidratio, 0 to 1, such as 0.01; unset: 1"`
	TracesService      string `env:"OTEL_SERVICE_NAME" envDefault:"iam-service" doc:"name of this service in traces"`

	StartTimeout  time.Duration `env:"START_TIMEOUT" of:"provider" envDefault:"10s" doc:"how long a start waits for PostgreSQL and R-Auth in all"`
	ShutdownDelay time.Duration `env:"SHUTDOWN_DELAY" envDefault:"5s" doc:"how long to go on serving after SIGTERM, not ready"`
	ShutdownGrace time.Duration `env:"SHUTDOWN_GRACE" envDefault:"10s" doc:"how long requests in flight may take to end"`

	Profiles        []gateway.Profile // of GATEWAY_PROFILE
	gatewaySecrets  [][]byte          // of GATEWAY_SECRET
	opsTokens       [][]byte          // of OPS_TOKEN
	Issuers         iam.Issuers       // all that are trusted, R-Auth first
	Verified        []token.Issuer    // the same, as tokens are verified
	adminSecretFile string            // of RAUTH_ADMIN_CLIENT_SECRET_FILE
	consoleKeys     [][]byte          // of CONSOLE_KEY
	consoleSecret   string            // file of CONSOLE_CLIENT_SECRET_FILE
	PolicyKey       *policy.Key       // of POLICY_KEY_FILE

	Streams []signals.Stream // of SIGNALS_FILE
	getenv  func(string) string

	AssertionEncryption *assertion.Encryption // of ASSERTION_KEY_ENCRYPTION_KEY; nil: it is not set
	opaConfig           []byte                // content of OPA_CONFIG
	opaFetches          bool                  // it brings policies
}

// Part is a part of ENRICH_DEADLINE: ms of its usual 150.
func (cfg *Config) Part(ms time.Duration) time.Duration { return cfg.EnrichDeadline / 150 * ms }

// TrustAsRAuth puts an issuer in the place of RAUTH_URL, unless that is set or TRUSTED_ISSUERS names the issuer. It
// serves commands with DATABASE_URL alone.
func (cfg *Config) TrustAsRAuth(issuer string) error {
	if _, named := cfg.Issuers.Find(issuer); named || issuer == "" || cfg.RAuthURL != "" {
		return nil
	}
	if why := badIssuerURL(issuer, cfg.RAuthInsecureHTTP); why != "" {
		return Faults("RAUTH_URL " + why)
	}
	cfg.RAuthURL, cfg.Issuers[0].URL, cfg.Verified[0].URL = issuer, issuer, issuer
	return nil
}

// ConfigError lists every fault of the configuration, by variable.
type ConfigError struct{ Faults []string }

// Faults is a ConfigError of these faults.
func Faults(faults ...string) error { return &ConfigError{faults} }

func (e *ConfigError) Error() string {
	return "the configuration is not valid:\n  " + strings.Join(e.Faults, "\n  ")
}

// Needs are the groups of settings that a command reads. All others keep their defaults, and are
// not validated. The database and the issuers have one setting each that must be there.
type Needs struct {
	Serve     bool // everything, R-Auth included
	Database  bool // DATABASE_URL or DATABASE_LISTEN_URL must be set
	RAuth     bool // with Issuers: RAUTH_URL and RAUTH_AUDIENCES must be set
	Issuers   bool // R-Auth and TRUSTED_ISSUERS, as tokens are verified
	Gate      bool // what a policy must fit: GATEWAY_HEADERS, ADMIN_AUDIENCE
	Signature bool // POLICY_KEY_FILE, POLICY_ALLOW_UNSIGNED
	Budgets   bool // how it is evaluated: UNKNOWN_USERS, HEADER_BUDGET, ENRICH_DEADLINE
	Provider  bool // R-Auth's admin API
	Decisions bool // DECISIONS_DATABASE_URL
	Ops       bool // OPS_ADDR
	Assertion bool // the keys of signed identities
	Signals   bool // with Issuers: SIGNALS_FILE
}

// read reports whether a group of settings is read.
func (n *Needs) read(group string) bool {
	return n.Serve || map[string]bool{
		"database":  n.Database,
		"issuers":   n.Issuers,
		"gate":      n.Gate,
		"signature": n.Signature,
		"budgets":   n.Budgets,
		"provider":  n.Provider,
		"decisions": n.Decisions,
		"ops":       n.Ops,
		"assertion": n.Assertion,
		"signals":   n.Signals,
	}[group]
}

// missing reports whether a setting that must be there is not.
func (n *Needs) missing(f reflect.StructField, vars map[string]string) bool {
	name := f.Tag.Get("env")
	switch {
	case f.Tag.Get("need") != "true" || vars[name] != "":
		return false
	case f.Tag.Get("of") == "issuers":
		return n.Serve || n.RAuth
	case n.Serve:
		return true
	}
	return vars["DATABASE_LISTEN_URL"] == "" && vars["DATABASE_LISTEN_URL_FILE"] == "" // which is enough for a command
}

// ParseConfig is ReadConfig for serve.
func ParseConfig(environ []string) (Config, error) { return ReadConfig(environ, Needs{Serve: true}) }

// ReadConfig reads the settings that are needed from environ ("NAME=value" each) and reports all
// that is wrong with them at once, by name and without any secret. It opens nothing but the files
// that settings name.
func ReadConfig(environ []string, needs Needs) (Config, error) {
	cfg := Config{getenv: environment(environ)}
	all, vars := env.ToMap(environ), map[string]string{}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	names := map[string]string{} // field → variable
	for f := range fieldsOf(cfg) {
		name := f.Tag.Get("env")
		names[f.Name] = name
		if !needs.read(f.Tag.Get("of")) {
			continue
		}
		if f.Tag.Get("secret") == "true" {
			if err := fromFile(all, name); err != nil {
				fault("%s", err)
				continue
			}
		}
		if needs.missing(f, all) {
			fault("%s is missing: %s", name, f.Tag.Get("doc"))
		}
		if value, set := all[name]; set {
			vars[name] = value
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
	cfg.adminSecretFile = all["RAUTH_ADMIN_CLIENT_SECRET_FILE"]
	cfg.consoleSecret = all["CONSOLE_CLIENT_SECRET_FILE"]
	cfg.check(&needs, fault)
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
		if name == "" {
			continue // derived from others
		}
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

// fromFile puts the content of the file that NAME_FILE names into NAME.
func fromFile(vars map[string]string, name string) error {
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
