package server

import (
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"iam-service/internal/adminapi"
	"iam-service/internal/console"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
)

// checkConsole validates the settings of the console. A fault shows nothing of a key.
func (cfg *Config) checkConsole(fault func(string, ...any)) {
	if cfg.ConsoleURL == "" {
		for name, value := range map[string]string{
			"CONSOLE_CLIENT_ID": cfg.ConsoleClientID, "CONSOLE_CLIENT_SECRET": cfg.ConsoleClientSecret, "CONSOLE_KEY": cfg.ConsoleKey,
		} {
			if value != "" {
				fault("%s is set, and CONSOLE_URL is missing", name)
			}
		}
		return
	}
	u, err := url.Parse(cfg.ConsoleURL)
	if why := badIssuerURL(cfg.ConsoleURL, cfg.RAuthInsecureHTTP); why != "" {
		fault("CONSOLE_URL %s", why)
	} else if err != nil || u.Path == "" || u.Path == "/" || strings.ContainsAny(u.EscapedPath(), "%;,\\") || strings.Contains(u.Path, "//") {
		fault("CONSOLE_URL must have the path of the console, such as https://iam.example.com/console, without percent-encoding")
	}
	cfg.ConsoleURL = strings.TrimSuffix(cfg.ConsoleURL, "/")
	if cfg.AdminAudience == "" {
		fault("ADMIN_AUDIENCE is missing: CONSOLE_URL is set, and the console shows what the admin API lets a person do")
	}
	if cfg.ConsoleClientID == "" {
		fault("CONSOLE_CLIENT_ID is missing: CONSOLE_URL is set")
	}
	if cfg.ConsoleKey == "" {
		fault("CONSOLE_KEY is missing: CONSOLE_URL is set")
	}
	cfg.consoleKeys = sharedSecrets(fault, "CONSOLE_KEY", cfg.ConsoleKey)
	if cfg.ConsoleIdle < time.Minute {
		fault("CONSOLE_IDLE must be 1m or more, is %s", cfg.ConsoleIdle)
	}
	if cfg.ConsoleSession < cfg.ConsoleIdle || cfg.ConsoleSession > maxConsoleSession {
		fault("CONSOLE_SESSION must be CONSOLE_IDLE to %s, is %s", maxConsoleSession, cfg.ConsoleSession)
	}
	if !slices.Contains(cfg.ConsoleScopes, "openid") {
		fault("CONSOLE_SCOPES must contain openid: the console signs persons in by OpenID Connect")
	}
}

// decisionsURL is what comes before the id of a decision: where the console explains it. "": there is no console.
func (cfg *Config) decisionsURL() string {
	if cfg.ConsoleURL == "" {
		return ""
	}
	return cfg.ConsoleURL + "/#/decisions/"
}

// maxConsoleSession is the longest time without a login at the provider.
const maxConsoleSession = 7 * 24 * time.Hour

// withConsole serves the console besides the admin API, where it is on.
func (s *service) withConsole(api http.Handler, verify adminapi.Verify) (http.Handler, error) {
	cfg := &s.cfg
	if cfg.ConsoleURL == "" {
		return api, nil
	}
	c, err := console.New(console.Config{
		URL:      cfg.ConsoleURL,
		Issuer:   cfg.RAuthURL,
		ClientID: cfg.ConsoleClientID,
		Secret:   cfg.readConsoleSecret(),
		Scopes:   cfg.ConsoleScopes,
		Audience: cfg.AdminAudience,
		Keys:     cfg.consoleKeys,
		Idle:     cfg.ConsoleIdle,
		Lifetime: cfg.ConsoleSession,
		Store:    s.db,
		API:      api,
		Verify:   verify,
		Trusted:  cfg.TrustedProxies,
		Client:   s.tracing.Client(token.NewClient()),
		Log:      s.log,
		Observe:  s.requests.Observe,
		Registry: s.registry,
	})
	if err != nil {
		return nil, err
	}
	var sessions refreshed[int64]
	s.loops.run("console_figures", func() { sessions.run(s.work, s.db.CountConsoleSessions) })
	telemetry.Gauge(s.registry, "iam_console_sessions", "Sessions of the console that have not ended, of all replicas.", nil,
		func() float64 { return float64(sessions.get()) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.EscapedPath(); path == console.Path || strings.HasPrefix(path, console.Path+"/") {
			c.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	}), nil
}

// readConsoleSecret returns what reads the secret of the console's client; nil: the client is public. What a file had last is
// used while it cannot be read.
func (cfg *Config) readConsoleSecret() func() string {
	if cfg.ConsoleClientSecret == "" {
		return nil
	}
	last, file := cfg.ConsoleClientSecret, cfg.consoleSecret
	if file == "" {
		return func() string { return last }
	}
	return func() string {
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) != "" {
			return strings.TrimSpace(string(b))
		}
		return last
	}
}
