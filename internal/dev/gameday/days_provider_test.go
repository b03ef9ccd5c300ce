package gameday

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// later is what callers see while R-Auth does not answer: what is created there is finished later.
var later = map[kind]seen{client: only(202)}

var withoutProvider = []string{"IAMClientOperationsPending", "IAMIdentityProviderErrors"}

var providerDays = []day{
	{
		name: "R-Auth down", what: "its port is closed; open again",
		in:     true,
		rates:  map[kind]int{client: 1},
		begin:  func(g *game) { g.provider.stop() },
		end:    func(g *game) { g.provider.start() },
		remove: sql,
		first:  later, rest: 25 * time.Second,
		fires: withoutProvider,
	},
	{
		name: "R-Auth hangs", what: "it accepts requests and does not answer; it answers",
		rates:  map[kind]int{client: 1},
		begin:  func(g *game) { g.provider.hang(true) },
		end:    func(g *game) { g.provider.hang(false) },
		remove: sql,
		first:  later, rest: 25 * time.Second,
		fires: withoutProvider,
	},
	{
		name: "R-Auth serves malformed keys", what: "its JWKS is an HTML page, and tokens with an unknown key arrive; it is a JWKS again",
		begin: func(g *game) {
			g.provider.serveKeys("<html><body>Sign in</body></html>")
			g.undo = strangers(g)
		},
		end: func(g *game) {
			g.undo()
			g.provider.serveKeys("")
		},
		lasts:  20 * time.Second,
		remove: sql,
		first:  map[kind]seen{foreign: also(503, 401)}, // 401 where the keys were fetched shortly before
		fires:  []string{"IAMIdentityProviderErrors"},
	},
	{
		name: "R-Auth rotates its key", what: "new tokens are signed with another key; the JWKS has both",
		begin:  func(g *game) { ok(g, g.provider.Rotate("ES256", true)) },
		remove: sql,
	},
	{
		name: "R-Auth withdraws its key", what: "new tokens are signed with another key, and the JWKS no longer has the one before; callers get new tokens",
		begin: func(g *game) { ok(g, g.provider.Rotate("ES256", false)) },
		end:   func(g *game) { g.callers.login() },
		first: map[kind]seen{cached: only(401), removed: only(401), denied: only(401)},
		fires: []string{"IAMDenialsJump"},
	},
	{
		name: "Wrong credentials at R-Auth", what: "R-Auth accepts another token for its admin API than the service has; the token's file is replaced",
		rates: map[kind]int{client: 1},
		prepare: func(g *game) {
			g.file = filepath.Join(g.TempDir(), "token")
			ok(g, os.WriteFile(g.file, []byte("first"), 0o600))
			g.provider.AdminToken("first")
			g.more = []string{"RAUTH_ADMIN_TOKEN_FILE=" + g.file}
		},
		begin:  func(g *game) { g.provider.AdminToken("second") },
		end:    func(g *game) { ok(g, os.WriteFile(g.file, []byte("second"), 0o600)) },
		remove: sql,
		first:  later, rest: 25 * time.Second,
		fires: withoutProvider,
	},
}

// strangers are tokens with an unknown key, every few seconds: fewer than the error budget minds.
func strangers(g *game) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			g.callers.send(foreign)
			select {
			case <-time.After(6 * time.Second):
			case <-ctx.Done():
			}
		}
	})
	return func() { cancel(); all.Wait() }
}
