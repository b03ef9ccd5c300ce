package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/iam"
	"iam-service/internal/server"
	"iam-service/internal/token"
	"iam-service/internal/token/signals"
)

// dates reads the clocks of issuers from the Date of their responses (RFC 9110, section 6.6.1), which has whole seconds.
type dates struct {
	mu    sync.Mutex
	ahead map[string]time.Duration // by host
}

// RoundTrip implements http.RoundTripper.
func (d *dates) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.ahead == nil {
			d.ahead = map[string]time.Duration{}
		}
		d.ahead[r.URL.Host] = at.Sub(began)
	}
	return resp, nil
}

// issuers fetches discovery and keys of each issuer, as serve does at its start.
func (d *doctor) issuers(ctx context.Context) {
	client := token.NewClient()
	client.Transport = d.dates
	for i := range d.cfg.Verified {
		is := d.cfg.Verified[i]
		variable := "RAUTH_URL"
		if i > 0 {
			variable = "TRUSTED_ISSUERS"
		}
		d.check(ctx, "issuer "+is.URL, func(ctx context.Context) finding {
			v, err := token.New(token.Config{Issuers: []token.Issuer{is}, Client: client, Log: d.log, Wait: d.options.Limit})
			if err == nil {
				err = v.Start(ctx, time.Now().Add(d.options.Limit/2))
			}
			if err != nil {
				return issuerFailed(err, variable)
			}
			if i == 0 {
				d.verifier = v
			}
			return ok("discovery names the same issuer, its keys are %s", strings.Join(v.Algorithms(is.URL), ", "))
		})
		if is.IntrospectionClientID != "" || is.IntrospectionURL != "" {
			d.check(ctx, "introspection at "+is.URL, func(ctx context.Context) finding { return d.introspection(ctx, is, client) })
		}
	}
}

func issuerFailed(err error, variable string) finding {
	if _, wrong := errors.AsType[*token.WrongIssuerError](err); wrong {
		return failed(err, variable+" must be the issuer byte by byte as its discovery document has it, a slash at the end included")
	}
	if status, is := errors.AsType[*token.StatusError](err); is && status.Status == http.StatusNotFound {
		return failed(err, variable+" must be the issuer's URL, below which /.well-known/openid-configuration is served")
	}
	return failed(err, "check the issuer, DNS, the network policy and the proxy between; "+variable+" may name another host. Without its keys no token of it is accepted")
}

// signals fetches the configuration and the keys of each stream's transmitter.
func (d *doctor) signals(ctx context.Context) {
	if len(d.cfg.Streams) == 0 {
		d.skip("SIGNALS_FILE is not set: no provider pushes revocations", "signals")
		return
	}
	client := token.NewClient()
	client.Transport = d.dates
	for i := range d.cfg.Streams {
		stream := &d.cfg.Streams[i]
		d.check(ctx, "signals of "+stream.Name, func(ctx context.Context) finding {
			v, err := stream.Verifier(signals.Config{Client: client, Log: d.log})
			if err == nil {
				err = v.Start(ctx, time.Now().Add(d.options.Limit/2))
			}
			if err != nil {
				return failed(err, "correct issuer or jwks_uri of the stream in SIGNALS_FILE, or let this pod reach the transmitter: without its keys each signal is 503 (docs/signals.md)")
			}
			return ok("the keys of the transmitter %s are %s", stream.Issuer, strings.Join(v.Algorithms(stream.Issuer), ", "))
		})
	}
}

// introspection asks about a token that does not exist: a provider that knows us says that it is not active.
func (d *doctor) introspection(ctx context.Context, is token.Issuer, client *http.Client) finding {
	v, err := token.New(token.Config{Issuers: []token.Issuer{is}, Client: client, Log: d.log, Wait: d.options.Limit})
	if err == nil {
		err = v.Start(ctx, time.Now().Add(d.options.Limit/2))
	}
	if err != nil {
		return skipped("the issuer cannot be reached")
	}
	_, err = v.Verify(ctx, "doctor-"+rand.Text(), "", time.Now().Add(d.options.Limit/2))
	if iam.KindOf(err) == iam.Unauthenticated {
		return ok("a token that does not exist is not active")
	}
	return failed(err, "check RAUTH_INTROSPECTION_URL, and the client that introspects with its secret")
}

// adminNext is what to do about a code of an error of the admin API.
var adminNext = map[string]string{
	"idp_unauthorized": "R-Auth does not accept the credential: RAUTH_ADMIN_CLIENT_SECRET_FILE or RAUTH_ADMIN_TOKEN_FILE",
	"idp_forbidden":    "allow this credential to manage clients in R-Auth",
	"idp_bad_response": "RAUTH_ADMIN_URL must be the admin API without /admin: what answers there is something else",
	"idp_timeout":      "check the network between this pod and RAUTH_ADMIN_URL, and R-Auth itself",
	"idp_connection":   "check the network, DNS and the network policy between this pod and RAUTH_ADMIN_URL",
}

func (d *doctor) adminAPI(ctx context.Context) {
	const name, audience = "admin API of R-Auth", "audience of new clients"
	switch {
	case d.cfg.RAuthAdminURL == "":
		d.skip("RAUTH_ADMIN_URL is not set: clients are not managed", name, audience)
		return
	case d.verifier == nil:
		d.skip("R-Auth's discovery, which names the token endpoint, failed", name, audience)
		return
	}
	found := d.check(ctx, name, func(ctx context.Context) finding {
		h := rauth.NewHTTP()
		provider, err := server.NewProvider(d.cfg, d.verifier, rauth.Config{Log: d.log, HTTP: h, Timeout: d.options.Limit / 2})
		if err != nil {
			return failed(err, "correct RAUTH_ADMIN_URL")
		}
		if err := provider.Check(ctx); err != nil {
			next := "check RAUTH_ADMIN_URL and R-Auth's log (docs/outages.md, R-Auth is unavailable)"
			code := iam.CodeOf(err)
			if n := adminNext[code]; n != "" {
				next = n
			} else if strings.HasPrefix(code, "idp_token_") {
				next = "no token for the admin API could be obtained: check RAUTH_ADMIN_CLIENT_ID and its secret, or RAUTH_ADMIN_TOKEN_FILE"
			}
			return finding{Fail, code + ": " + server.OneLine(err).Error(), next}
		}
		d.provider = provider
		return ok("the credential lists clients at %s", d.cfg.RAuthAdminURL)
	})
	switch {
	case found.state == Fail:
		d.skip("the admin API cannot be used", audience)
	case !d.options.TryClient:
		d.skip("it takes a client in R-Auth, which is deleted afterwards: --try-client", audience)
	default:
		d.check(ctx, audience, d.tryClient)
	}
}

// tryClient creates a client for the gateways' audience, gets a token as a program does, verifies it as serve does, and
// deletes the client. It has no marks of ours, so the comparison of clients does not see it.
func (d *doctor) tryClient(ctx context.Context) (f finding) {
	r := iam.Registration{
		ClientID:                uuid.NewString(),
		ClientName:              "iam-service doctor (may be deleted)",
		GrantTypes:              []string{"client_credentials"},
		TokenEndpointAuthMethod: "client_secret_basic",
		Audience:                d.cfg.RAuthAudiences,
	}
	secret, err := d.provider.Create(ctx, r)
	if err != nil {
		return finding{Fail, "create a client: " + server.OneLine(err).Error(), "allow the credential to create clients"}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.options.Limit/2)
		defer cancel()
		if err := d.provider.Delete(ctx, r.ClientID); err != nil {
			f = finding{Fail, "the client " + r.ClientID + " was not deleted: " + server.OneLine(err).Error(), "delete it in R-Auth"}
		}
	}()
	raw, err := d.programToken(ctx, r.ClientID, string(secret))
	if err != nil {
		return failed(err, "R-Auth must grant RAUTH_AUDIENCES to clients that list them (docs/providers.md, Who grants the audience)")
	}
	if _, err := d.verifier.Verify(ctx, raw, "", time.Now().Add(d.options.Limit/2)); err != nil {
		return failed(err, "compare the token with RAUTH_AUDIENCES, RAUTH_TOKEN_TYPES and RAUTH_PROGRAMS (docs/providers.md)")
	}
	return ok("a new client gets a token for %s that is accepted here", strings.Join(d.cfg.RAuthAudiences, ", "))
}

func (d *doctor) clocks() {
	d.dates.mu.Lock()
	defer d.dates.mu.Unlock()
	if len(d.dates.ahead) == 0 {
		d.skip("no issuer has reported its time", "clock of the issuers")
	}
	for host, ahead := range d.dates.ahead {
		f := skew("the clock of "+host, clockLimit{ahead, 2 * time.Second, issuerSkew}) // Date has whole seconds
		d.add(Result{Check: "clock of " + host, State: f.state, Detail: f.detail, Next: f.next})
	}
}

func (d *doctor) nats(ctx context.Context) {
	if d.cfg.NATSURL == "" {
		d.add(Result{
			Check: "NATS", State: Warn, Detail: "NATS_URL is not set: events are not published, and deleted after " + d.cfg.OutboxRetention.String(),
			Next: "set NATS_URL, unless no one consumes events",
		})
		return
	}
	d.check(ctx, "NATS", func(ctx context.Context) finding {
		bus, err := natsbus.Connect(ctx, natsbus.Config{
			URL: d.cfg.NATSURL, CredentialsFile: d.cfg.NATSCredentialsFile, CAFile: d.cfg.NATSCAFile, CertFile: d.cfg.NATSCertFile, KeyFile: d.cfg.NATSKeyFile,
			Stream: d.cfg.NATSStream, Replicas: d.cfg.NATSStreamReplicas, Log: d.log,
		})
		if err != nil { // the reason could show a password
			return finding{Fail, "NATS_URL, or one of the files of NATS, cannot be used", "correct NATS_URL and NATS_…_FILE"}
		}
		defer bus.Close()
		ctx, cancel := context.WithTimeout(ctx, d.options.Limit*4/5)
		defer cancel()
		err = bus.Probe(ctx)
		switch {
		case err == nil:
			return ok("stream %s takes events", d.cfg.NATSStream)
		case errors.Is(err, natsbus.ErrNoStream):
			return finding{Warn, fmt.Sprintf("there is no stream %s yet: serve creates it", d.cfg.NATSStream), "start serve; its NATS user must be allowed to create the stream"}
		case bus.State() != nil:
			return finding{
				Fail, "not connected: " + server.OneLine(err).Error(),
				"check that NATS runs, the network policy, and user and password or NATS_CREDENTIALS_FILE; events wait in the outbox meanwhile",
			}
		}
		return failed(err, "allow this NATS user to publish to iam.> and $JS.API.>, and make the stream as docs/admin.md has it")
	})
}
