package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"iam-service/internal/console"
	"iam-service/internal/token"
)

// console checks what the console needs of R-Auth, and whether its URL leads to it.
func (d *doctor) console(ctx context.Context) {
	if d.cfg.ConsoleURL == "" {
		return
	}
	d.check(ctx, "login at the console", func(ctx context.Context) finding {
		_, m, err := console.Discover(ctx, token.NewClient(), d.cfg.RAuthURL)
		switch {
		case err != nil:
			return failed(err, "the console needs OpenID Connect Discovery, the authorization code grant and PKCE with S256 (docs/console.md)")
		case len(m.Challenges) == 0:
			return finding{Warn, "discovery does not say that it supports PKCE (code_challenge_methods_supported)", "make sure that the provider enforces S256 for the client of the console"}
		}
		for _, scope := range d.cfg.ConsoleScopes {
			if m.Scopes != nil && !slices.Contains(m.Scopes, scope) {
				return finding{Warn, fmt.Sprintf("discovery does not list the scope %s of CONSOLE_SCOPES", scope), "a login may be rejected with invalid_scope: see the client at the provider"}
			}
		}
		return ok("authorization endpoint %s, PKCE with S256; register the redirect URI %s/callback", m.Authorization, d.cfg.ConsoleURL)
	})
	d.check(ctx, "CONSOLE_URL", func(ctx context.Context) finding {
		const next = "it must lead browsers to /console of ADMIN_ADDR; nothing is wrong if no replica serves yet, or only browsers can reach it"
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.cfg.ConsoleURL+"/session", http.NoBody)
		if err != nil {
			return failed(err, next)
		}
		req.Header.Set("X-Requested-With", "iam-console")
		resp, err := token.NewClient().Do(req)
		if err == nil {
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Type") == "application/json" {
				return ok("%s responds", d.cfg.ConsoleURL)
			}
			err = fmt.Errorf("%s/session responded %d, and the console responds 200 with JSON", d.cfg.ConsoleURL, resp.StatusCode)
		}
		return finding{Warn, errors.Join(err).Error(), next}
	})
}
