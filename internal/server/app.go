// Package app is the program: its settings, its wiring in reading order, its
// subcommands. cmd/iam-service and cmd/iam-dev are two ways in.
//
// It decides nothing about authorization. Everything it opens it closes, in the
// opposite order.
package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/bounded"
	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/decisions"
	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/events/outbox"
	"iam-service/internal/feed"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
	embedded "iam-service/policies"
)

// Version is set by the linker for a release.
var Version string

// decisionQueue is how many lines of the decision log wait to be written before
// further ones are dropped: a burst, not a stalled reader.
const decisionQueue = 4096

// keptConns is how many connections each pool keeps open, if it may have as many: none is
// opened while a request waits.
const keptConns = 4

// Addrs are where the service listens.
type Addrs struct{ Gateway, Admin, Ops string }

// Serve runs the service until ctx ends and everything has drained, or a part
// fails. It calls ready, if given, once requests are answered.
func Serve(ctx context.Context, cfg Config, out *telemetry.Log, ready func(Addrs)) error {
	log := out.Logger
	// What a start waits for shares one deadline. The log, whose calls take ctx, does not.
	deadline := time.Now().Add(cfg.StartTimeout)
	start, started := context.WithDeadline(ctx, deadline)
	defer started()
	// Until the drain is over, things must work on after ctx has ended.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()

	build := telemetry.ReadBuild(Version)
	metrics := telemetry.NewMetrics(build, postgres.Reasons)

	// Ports first: what is taken is known before anything else is opened.
	gatewayListener, err := listen("GATEWAY_ADDR", cfg.GatewayAddr)
	if err != nil {
		return err
	}
	defer gatewayListener.Close()
	adminListener, err := listen("ADMIN_ADDR", cfg.AdminAddr)
	if err != nil {
		return err
	}
	defer adminListener.Close()
	opsListener, err := listen("OPS_ADDR", cfg.OpsAddr)
	if err != nil {
		return err
	}
	defer opsListener.Close()

	if cfg.StateDir != "" {
		if err := os.Mkdir(cfg.StateDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("STATE_DIR cannot be made: %w", err)
		}
	}
	db, err := postgres.Open(work, postgres.Config{
		URL: cfg.DatabaseURL, Listen: cfg.ListenURL, Issuers: cfg.Issuers, Conns: cfg.FactsConns, Admin: cfg.AdminConns, Keep: keptConns,
		FactsAcquire: cfg.Part(50), FactsLimit: cfg.Part(100),
	}, log, metrics.DatabaseError)
	if err != nil {
		return errors.New("DATABASE_URL cannot be used") // checked before: why could show a password
	}
	defer db.Close()
	var bus *natsbus.Bus
	if cfg.NATSURL != "" {
		bus, err = natsbus.Connect(work, natsbus.Config{
			URL: cfg.NATSURL, CredentialsFile: cfg.NATSCredentialsFile, CAFile: cfg.NATSCAFile, CertFile: cfg.NATSCertFile, KeyFile: cfg.NATSKeyFile,
			Stream: cfg.NATSStream, Replicas: cfg.NATSStreamReplicas, Log: log,
		})
		if err != nil {
			return errors.New("NATS_URL, or one of the files of NATS, cannot be used") // why could show a password
		}
		defer bus.Close()
	}

	// What runs beside the requests ends before what it uses is closed.
	beside := &background{ctx: work, panicked: func(where string, err error) { panicked(work, log, metrics, where, err) }}
	defer beside.running.Wait()
	defer cancel()
	beside.loop("garbage", func() { TuneGC(work, cfg.MemoryAim) })
	if err := awaitDatabase(start, db, cfg); err != nil {
		return err
	}

	for _, r := range token.Reasons {
		metrics.TokenRejections(string(r))
	}
	verifier, err := token.New(token.Config{
		Issuers: cfg.Verified, Entries: cfg.TokenEntries, Bytes: share(cfg.MemoryAim, tokensShare), MaxAge: cfg.JWKSMaxAge, IntrospectionTTL: cfg.IntrospectionTTL,
		Introspections: cfg.Introspections, Wait: cfg.Part(60), Keeper: db, Log: log, OnError: metrics.IdPError,
		OnRejected: func(r token.Reason) { metrics.TokenRejected(string(r)) },
	})
	if err != nil {
		return err
	}
	if err := verifier.Start(ctx, deadline); err != nil {
		return fmt.Errorf("cannot get the keys of R-Auth (RAUTH_URL=%s), and none that are young enough are kept: %w", cfg.RAuthURL, err)
	}

	beside.loop("keys", func() { verifier.KeepFresh(work) })

	facts := directory.New(db, directory.Config{
		Issuers: cfg.Issuers, Entries: cfg.FactsEntries, Bytes: share(cfg.MemoryAim, factsShare), MaxStale: cfg.MaxStaleness,
		Wait: cfg.Part(60),
	})
	policyChanged := make(chan struct{}, 1)
	changes := feed.New(feed.Config{Source: db, Store: facts, Log: log, OnDelay: metrics.FeedDelay, OnPolicy: func() {
		select {
		case policyChanged <- struct{}{}:
		default: // somebody will look already
		}
	}, OnPanic: func(err error) { beside.panicked("feed", err) }})
	beside.loop("feed", func() { changes.Run(work) })
	if err := awaitFeed(start, changes, cfg); err != nil {
		return err
	}
	engine, err := policy.NewEngine(policy.Config{
		Headers: cfg.GatewayHeaders, Admin: cfg.AdminAudience != "", Untold: len(cfg.TrustedProxies) == 0, Settings: map[string]string{"unknown_users": cfg.UnknownUsers}, Limit: cfg.Part(50),
		SignedOnly: !cfg.PolicyAllowUnsigned, Key: cfg.PolicyKey, Child: []string{os.Args[0], policy.ChildCommand}, Log: log, OnOffer: metrics.Candidate,
	})
	if err != nil {
		return fmt.Errorf("GATEWAY_HEADERS: %w", err)
	}
	administration := admin.New(admin.Config{DB: db, Engine: engine, Issuers: cfg.Issuers, Issuer: cfg.RAuthURL, Audiences: cfg.RAuthAudiences, Invalidate: facts.Invalidate, PoliciesKept: cfg.PoliciesKept, MaxMembers: cfg.TenantMaxMembers, JoinsPerDay: cfg.TenantJoinsPerDay, Log: log, Embedded: PackedEmbedded})
	ours, err := policy.FromFS("embedded", embedded.FS)
	if err != nil {
		return err
	}
	policies := rollout.New(rollout.Config{
		Embedded: ours,
		DB:       db, Admin: administration, Engine: engine, Managed: cfg.PolicyActivation == "managed", Follows: cfg.follows(), ByOPA: cfg.opaFetches,
		Unsigned: cfg.PolicyAllowUnsigned, StateDir: cfg.StateDir, Replica: replicaName(), Version: build.Version, Log: log,
		OnPanic: func(err error) { beside.panicked("policies", err) },
	})
	engine.SetActivator(policies.Passed)
	manager, stopPolicies, err := loadPolicies(work, engine, policies, cfg, beside)
	if err != nil {
		return err
	}
	defer stopPolicies()
	beside.loop("policies", func() { policies.Run(work, policyChanged) })

	ops := &telemetry.Ops{Pprof: cfg.OpsPprof, Metrics: metrics, Build: build, Policy: func() any { return engine.Status() }, Checks: checks(db, verifier, engine, policies, changes, bus)}
	kept, err := openDecisions(work, start, cfg, log, metrics.DatabaseError)
	if err != nil {
		return err
	}
	if kept != nil {
		defer kept.Close()
		beside.loop("decisions_retention", func() { kept.Keep(work, log) })
	}
	recorded := decisions.New(decisions.Config{
		Fields: cfg.DecisionFields, Headers: engine.Headers(), Log: log, Queue: decisionQueue,
		Labels:  map[string]string{"app": "iam-service", "id": policies.Replica(), "version": build.Version},
		OnPanic: func(err error) { beside.panicked("decision_log", err) },
		Sinks:   sinks(cfg, out.Blocking(), bus, manager, kept),
	})
	defer recorded.Close()
	enricher := enrich.New(enrich.Config{
		Verifier: verifier, Directory: facts, Engine: engine, Issuers: cfg.Issuers, Deadline: cfg.EnrichDeadline, HeaderMax: cfg.HeaderBudget,
		Entries: cmp.Or(cfg.DecisionEntries, -1), Bytes: share(cfg.MemoryAim, decisionsShare),
		SampleLog: cfg.DecisionSample, Log: log, Record: recorded.Record, OnDecision: metrics.Decision,
	})
	beneath := preview.NewShadow(enricher, engine.Headers(), policies.Shadow)
	enricher.SetShadow(beneath)
	beneath.OnPanic = func(err error) { beside.panicked("shadow", err) }
	beside.loop("shadow", func() { beneath.Run(work) })
	if manager != nil {
		metrics.Counter("iam_decision_log_dropped_total", "Decisions that were not written down because a reader was too slow or could not be reached; sink \"\": none of them were told.",
			prometheus.Labels{"sink": "opa_upload"}, func() float64 { return float64(manager.DecisionsDropped()) })
	}
	for name, what := range map[string]string{
		"evaluations": "Live requests that a shadow policy was asked too.", "differences": "Of those, the ones that it would have answered otherwise, as a caller notices.",
		"dropped": "Live requests that it was not asked, for there was no time.",
	} {
		metrics.Counter("iam_policy_shadow_"+name+"_total", what, nil, func() float64 {
			asked, differences, dropped := beneath.Figures()
			return float64(map[string]int64{"evaluations": asked, "differences": differences, "dropped": dropped}[name])
		})
	}
	metrics.Counter("iam_log_dropped_total", "Lines of the log that were not written, because its reader was too slow or gone.", nil, func() float64 { return float64(out.Dropped()) })
	if err := warmPools(start, db, cfg, log); err != nil {
		return err
	}
	firstAnswer := &rehearsal{engine: engine, enricher: enricher, issuer: cfg.RAuthURL}
	ops.Checks = append(ops.Checks, telemetry.Check{Name: "evaluation", Ask: firstAnswer.try})
	if err := firstAnswer.try(); err != nil {
		log.InfoContext(ctx, "not ready: the first evaluation failed", slog.Any("err", err)) // each look at readiness tries again
	}
	register(metrics, db, verifier, facts, changes, engine, enricher, recorded)
	gateways := gateway.Config{
		Enricher: enricher, Headers: engine.Headers(), Identify: enricher.Identify, Tenants: db,
		Trusted: cfg.TrustedProxies, DenyAmbiguous: cfg.AmbiguousPaths == "always_deny", Log: log, Observe: metrics.Request,
	}

	if err := bootstrap(ctx, administration, cfg, log); err != nil {
		return err
	}
	var expired atomic.Int64
	metrics.Counter("iam_outbox_expired_total", "Events that were deleted unsent, since no replica relays events (NATS_URL).", nil, func() float64 { return float64(expired.Load()) })
	if bus == nil {
		log.WarnContext(ctx, "events are not published: NATS_URL is not set", slog.String("deleted_unsent_after", cfg.OutboxRetention.String()))
		beside.loop("outbox_expiry", func() { expireEvents(work, db, cfg.OutboxRetention, &expired, log) })
	}
	defaulted := &lately[int64]{}
	beside.loop("audit_figures", func() { defaulted.keep(work, db.AuditDefault) })
	metrics.Gauge("iam_audit_default_rows", "Audit entries in the default partition: those of a month without a partition. They are moved within an hour.", nil,
		func() float64 { return float64(defaulted.get()) })
	beside.loop("chores", func() { administration.KeepChores(work, cfg.OutboxRetention) })
	waiting := &lately[postgres.OutboxState]{}
	beside.loop("outbox_figures", func() { waiting.keep(work, db.Outbox) })
	registerOutbox(metrics, waiting.get)
	if bus != nil {
		relay := outbox.New(outbox.Config{Queue: db, Bus: bus, Log: log, OnSent: metrics.Published, OnError: metrics.EventBusError})
		metrics.Gauge("iam_event_stream_recreated", "1: the stream is younger than what it took; events are gone from it.", nil, func() float64 {
			if relay.Recreated() {
				return 1
			}
			return 0
		})
		beside.loop("relay", func() { relay.Run(work) })
	}
	managed, provider, err := manageClients(work, cfg, db, administration, verifier, metrics, log, func(err error) { beside.panicked("clients", err) })
	if err != nil {
		return err
	}
	if provider != nil {
		beside.loop("provider", func() { provider.Watch(work) })
		ops.Checks = append(ops.Checks,
			telemetry.Check{Name: "admin API of R-Auth", Degraded: true, Ask: provider.State},
			telemetry.Check{Name: "instance", Degraded: true, Ask: managed.Problem})
		beside.loop("clients", func() { managed.Run(work) })
		unsettled := &lately[postgres.ClientsState]{}
		beside.loop("clients_figures", func() { unsettled.keep(work, db.Clients) })
		registerClients(metrics, unsettled.get)
	}
	previewEngine, err := policy.NewEngine(policy.Config{
		Headers: cfg.GatewayHeaders, Settings: map[string]string{"unknown_users": cfg.UnknownUsers}, Limit: time.Second, Log: log,
	})
	if err != nil {
		return fmt.Errorf("GATEWAY_HEADERS: %w", err)
	}
	previews := &preview.Jobs{Snapshot: func(ctx context.Context) (preview.Moment, error) { return db.Snapshot(ctx) }, Note: db.PreviewProgress, Log: log, OnPanic: func(err error) { beside.panicked("preview", err) }}
	beside.running.Go(func() { <-work.Done(); previews.Wait() })
	admins := adminapi.Config{
		Shadow: beneath, Previews: previews, PreviewEngine: previewEngine, EvalLimit: cfg.Part(50), Issuers: cfg.Issuers, HeaderMax: cfg.HeaderBudget, Background: work,
		Service: administration, Clients: managed, Policy: func() any { return engine.Status() }, Policies: policies, Explain: &explain.Service{Engine: engine, Enricher: enricher}, VerifyGateway: verifier.Verify, Issuer: cfg.RAuthURL, Trusted: cfg.TrustedProxies,
		Writes: cfg.AdminWrites, Version: build.Version, Log: log, Observe: metrics.Request,
	}
	if kept != nil {
		admins.Decisions = kept
	}
	if cfg.AdminAudience != "" {
		admins.Verify, admins.Rejected = verifier.For(cfg.AdminAudience).Verify, verifier.Rejected
	}

	servers := []*server{
		newServer("gateway", gatewayListener, gateway.New(gateways), log),
		newServer("admin", adminListener, adminapi.New(admins), log),
		newServer("ops", opsListener, ops.Handler(), log),
	}
	addrs := Addrs{gatewayListener.Addr().String(), adminListener.Addr().String(), opsListener.Addr().String()}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, s := range servers {
		group.Go(s.serve)
	}
	group.Go(func() error {
		<-groupCtx.Done()
		return drain(ctx, servers, ops, cfg, log)
	})
	log.InfoContext(ctx, "ready", slog.String("gateway", addrs.Gateway), slog.String("admin", addrs.Admin), slog.String("ops", addrs.Ops),
		slog.String("version", build.Version))
	if ready != nil {
		ready(addrs)
	}
	return group.Wait()
}

// background runs the loops that nobody waits for.
type background struct {
	ctx      context.Context //nolint:containedctx // of all loops
	running  sync.WaitGroup
	panicked func(where string, err error)
}

// loopPause is how long a loop that has panicked rests before it begins again.
const loopPause = time.Second

// loop runs do, which returns at the end of the context. A panic takes the loop down and not the process: what made it
// may be one row, and would end every replica.
func (b *background) loop(name string, do func()) {
	b.running.Go(func() {
		for {
			err := iam.Try(do)
			if err == nil {
				return
			}
			b.panicked(name, err)
			select {
			case <-time.After(loopPause):
			case <-b.ctx.Done():
				return
			}
		}
	})
}

// panicked reports a panic that was recovered.
func panicked(ctx context.Context, log *slog.Logger, m *telemetry.Metrics, where string, err error) {
	m.Panic(where)
	attrs := []slog.Attr{slog.String("where", where), slog.Any("err", err)}
	if p, ok := errors.AsType[*iam.PanicError](err); ok {
		attrs = append(attrs, slog.String("stack", string(p.Stack)))
	}
	log.LogAttrs(ctx, slog.LevelError, "panic in the background", attrs...)
}

// lately keeps in mind what was read last, for metrics: a scrape asks no database.
type lately[T any] struct{ now atomic.Pointer[T] }

// keep reads every now and then, until ctx ends.
func (l *lately[T]) keep(ctx context.Context, read func(context.Context) (T, error)) {
	every := time.NewTicker(2 * time.Second)
	defer every.Stop()
	for {
		if x, err := read(ctx); err == nil { // else what was known; the database's errors are counted
			l.now.Store(&x)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// get returns what was read last.
func (l *lately[T]) get() (x T) {
	if now := l.now.Load(); now != nil {
		x = *now
	}
	return x
}

// expireEvents deletes events that nobody relays and that are older than retention, now and once an
// hour, until ctx ends.
func expireEvents(ctx context.Context, db *postgres.DB, retention time.Duration, expired *atomic.Int64, log *slog.Logger) {
	for {
		n, err := db.ExpireEvents(ctx, time.Now().Add(-retention))
		expired.Add(n)
		switch {
		case err != nil && ctx.Err() == nil:
			log.WarnContext(ctx, "unsent events could not be deleted", slog.Any("err", err))
		case n > 0:
			log.WarnContext(ctx, "unsent events deleted: NATS_URL is not set", slog.Int64("events", n))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}

func registerOutbox(m *telemetry.Metrics, state func() postgres.OutboxState) {
	m.Gauge("outbox_pending_count", "Events that are not sent yet.", nil, func() float64 { return float64(state().Pending) })
	m.Gauge("outbox_oldest_seconds", "How long the oldest event that is not sent yet has waited.", nil, func() float64 { return state().Oldest.Seconds() })
	m.Gauge("iam_outbox_parked", "Events that the bus refuses, and that hold back those of the same object.", nil, func() float64 { return float64(state().Parked) })
}

// manageClients makes the service of clients. Without RAUTH_ADMIN_URL it has no provider.
func manageClients(
	ctx context.Context, cfg Config, db *postgres.DB, administration *admin.Service, verifier *token.Verifier, metrics *telemetry.Metrics, log *slog.Logger,
	onPanic func(error),
) (*clients.Service, *rauth.Client, error) {
	c := clients.Config{
		Admin: administration, DB: db, Issuer: cfg.RAuthURL, Log: log, TokenLifetime: cfg.MaxTokenLifetime, MaxRepairs: cfg.ReconcileMaxChanges,
		OnPanic: onPanic,
		OnCompared: func(r clients.Report) {
			for _, kind := range clients.DriftKinds {
				metrics.Drift(kind, r.Of(kind))
			}
			for _, d := range r.Differences {
				if d.Done == clients.Repaired || d.Done == clients.Failed {
					metrics.Repaired(d.Done)
				}
			}
			if r.Stopped {
				metrics.Repaired(clients.Stopped)
			}
		},
	}
	if cfg.RAuthAdminURL == "" {
		return clients.New(c), nil, nil
	}
	metrics.IdPErrors(rauth.Operations, rauth.Reasons)
	provider, err := NewProvider(cfg, verifier, log, metrics.IdPError)
	if err != nil {
		return nil, nil, fmt.Errorf("RAUTH_ADMIN_URL: %w", err)
	}
	c.Provider = provider
	if c.Instance, c.Copied, err = db.Instance(ctx); err != nil {
		return nil, nil, fmt.Errorf("cannot read the instance from PostgreSQL (DATABASE_URL, at %s): %w", postgres.Server(cfg.DatabaseURL), OneLine(err))
	}
	return clients.New(c), provider, nil
}

// NewProvider makes the adapter of R-Auth's admin API.
func NewProvider(cfg Config, verifier *token.Verifier, log *slog.Logger, onError func(operation, reason string)) (*rauth.Client, error) {
	c := rauth.Config{
		URL: cfg.RAuthAdminURL, TokenFile: cfg.RAuthAdminTokenFile, ClientID: cfg.RAuthAdminClientID, Log: log, OnError: onError,
		TokenURL: func(context.Context) (string, error) { return verifier.TokenEndpoint() },
	}
	if c.SecretFile = cfg.adminSecretFile; c.SecretFile == "" {
		c.Secret = cfg.RAuthAdminClientSecret
	}
	return rauth.New(c)
}

func registerClients(m *telemetry.Metrics, state func() postgres.ClientsState) {
	m.Gauge("iam_clients_pending", "Changes of clients that the identity provider has yet to be told of.", nil, func() float64 { return float64(state().Pending) })
	m.Gauge("iam_clients_pending_oldest_seconds", "How long the oldest one has waited.", nil, func() float64 { return state().Oldest.Seconds() })
	m.Gauge("iam_clients_failed", "Clients of which the identity provider has refused the last change.", nil, func() float64 { return float64(state().Failed) })
	m.Gauge("iam_client_secrets_unknown", "Clients of which a rotation has an unknown outcome.", nil, func() float64 { return float64(state().SecretUnknown) })
}

// bootstrap makes BOOTSTRAP_ADMIN the first platform administrator, if there is none.
func bootstrap(ctx context.Context, s *admin.Service, cfg Config, log *slog.Logger) error {
	if cfg.BootstrapAdmin == "" {
		return nil
	}
	id, done, err := s.GrantPlatformRole(ctx, admin.Caller{Operator: "BOOTSTRAP_ADMIN", Via: "bootstrap"}, cfg.RAuthURL, cfg.BootstrapAdmin, iam.PlatformAdmin, true)
	if err != nil {
		return fmt.Errorf("BOOTSTRAP_ADMIN cannot be made an administrator: %w", err)
	}
	switch {
	case done:
		log.WarnContext(ctx, "the first platform administrator was made, as BOOTSTRAP_ADMIN says", slog.String("user", id))
	case id == "":
		log.WarnContext(ctx, "BOOTSTRAP_ADMIN is ignored: there is another platform administrator already; unset it, or use iam-service grant-admin")
	}
	return nil
}

func listen(variable, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (%s): %w", addr, variable, err)
	}
	return l, nil
}

// awaitDatabase returns when the database answers with a schema that is new
// enough, or says why not.
func awaitDatabase(ctx context.Context, db *postgres.DB, cfg Config) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if last = db.CheckSchema(ctx); last == nil {
			return struct{}{}, nil
		}
		if _, old := errors.AsType[*postgres.OldSchemaError](last); old || refused(last) {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: .2, Multiplier: 1.5, MaxInterval: time.Second,
	}), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	if old, ok := errors.AsType[*postgres.OldSchemaError](last); ok {
		return fmt.Errorf("database (DATABASE_URL): %w", old)
	}
	return fmt.Errorf("cannot use PostgreSQL (DATABASE_URL, at %s): %w", postgres.Server(cfg.DatabaseURL), OneLine(last))
}

// warmPools returns when each pool has a connection and look-ups were done over it. Connections that the server has
// no room for now are reported, and opened later.
func warmPools(ctx context.Context, db *postgres.DB, cfg Config, log *slog.Logger) error {
	missing, err := backoff.Retry(ctx, func() (int, error) { return db.Warm(ctx) }, backoff.WithMaxElapsedTime(0))
	if err != nil {
		return fmt.Errorf("cannot open a connection to PostgreSQL for each pool (DATABASE_URL, at %s): %w", postgres.Server(cfg.DatabaseURL), OneLine(err))
	}
	if missing > 0 {
		log.WarnContext(ctx, "fewer database connections than configured: the server has no room for more", slog.Int("missing", missing))
	}
	return nil
}

// rehearsal answers one made-up request before the first real one: an unknown user is looked up, and the
// active policy is evaluated.
type rehearsal struct {
	engine   *policy.Engine
	enricher *enrich.Service
	issuer   string
	done     atomic.Bool
}

// try is nil once facts were read and the policy was evaluated. What came of it is of no interest: a policy
// may deny a request that nobody made, or fail for it.
func (r *rehearsal) try() error {
	revision := r.engine.Revision()
	if r.done.Load() || revision == nil { // without a policy another check fails
		return nil
	}
	now := time.Now()
	t, err := explain.Of(r.issuer, "rehearsal-"+rand.Text(), "", nil, now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	deadline := now.Add(time.Second)
	_, err = r.enricher.Ask(ctx, revision, t, enrich.Question{}, r.enricher.Reading(t, deadline), now, deadline)
	if code := iam.CodeOf(err); iam.KindOf(err) == iam.Unavailable && !strings.HasPrefix(code, "policy_") {
		return err
	}
	r.done.Store(true)
	return nil
}

// awaitFeed returns when changes are heard, or says why they are not.
func awaitFeed(ctx context.Context, changes *feed.Feed, cfg Config) error {
	err := changes.Started(ctx)
	if err == nil {
		return nil
	}
	name, url := "DATABASE_LISTEN_URL", cfg.ListenURL
	if url == "" {
		name, url = "DATABASE_URL, since DATABASE_LISTEN_URL is not set", cfg.DatabaseURL
	}
	return fmt.Errorf("cannot hear of changes (%s, at %s): %w", name, postgres.Server(url), OneLine(err))
}

// refused reports whether the server turned us away for good: wrong password,
// no such user or database.
func refused(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "28P01" || pg.Code == "28000" || pg.Code == "3D000")
}

// OneLine keeps a fatal error on one line.
func OneLine(err error) error {
	if err == nil {
		return errors.New("no answer in time")
	}
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}

// follows reports whether what is in force is for the database to say: a folder, and what is
// part of the program, are this replica's own affair. Where nothing is there yet, it does; a
// folder that comes later is shared, as what nobody has signed.
func (cfg *Config) follows() bool {
	if cfg.PolicyActivation == "managed" || cfg.opaFetches {
		return true
	}
	info, err := os.Stat(cfg.PolicyBundle)
	return cfg.PolicyBundle != "" && (err != nil || !info.IsDir()) // what is not there is reported when it is read
}

// replicaName tells replicas apart, and two runs of one.
func replicaName() string {
	host, _ := os.Hostname() // only a name
	return cmp.Or(host, "unknown") + "-" + strings.ToLower(rand.Text()[:6])
}

// loadPolicies puts the first policy in force and keeps looking for the next. The
// function it returns stops that; the manager is nil without OPA_CONFIG. What is in force elsewhere goes first, then what was kept
// here, then what the source has.
func loadPolicies(ctx context.Context, engine *policy.Engine, policies *rollout.Service, cfg Config, beside *background) (m *policy.Manager, stop func(), err error) {
	stop = func() {}
	first := policies.Sync(ctx) // what is in force elsewhere and cannot be here
	if err := policies.FromState(ctx); err != nil {
		first = errors.Join(first, err)
	}
	if cfg.OPAConfig != "" {
		if m, err = policy.StartManager(ctx, engine, cfg.opaConfig, policies.Replica()); err != nil {
			return nil, nil, fmt.Errorf("OPA_CONFIG %s cannot be used: %w", cfg.OPAConfig, err)
		}
		stop = func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			m.Stop(ctx)
		}
	}
	if cfg.PolicyBundle != "" {
		// What is refused is fatal only where nothing else is in force.
		if err := engine.OfferPath(ctx, cfg.PolicyBundle); err != nil && engine.Revision() == nil && !policies.Managed() {
			stop()
			return nil, nil, fmt.Errorf("POLICY_BUNDLE %s cannot be used: %w", cfg.PolicyBundle, err)
		}
		watching, cancel := context.WithCancel(ctx)
		beside.loop("policy_bundle", func() { engine.Watch(watching, cfg.PolicyBundle) })
		before := stop
		stop = func() { cancel(); before() }
	}
	if engine.Revision() != nil || cfg.opaFetches && !policies.Managed() {
		return m, stop, nil
	}
	if first != nil {
		stop()
		return nil, nil, fmt.Errorf("the policy that is in force elsewhere cannot be used here (do GATEWAY_HEADERS, ADMIN_AUDIENCE and POLICY_KEY_FILE differ from the other replicas'?): %w", first)
	}
	return m, stop, OfferEmbedded(ctx, engine)
}

// OfferEmbedded offers the policy that is part of the program.
func OfferEmbedded(ctx context.Context, engine *policy.Engine) error {
	c, err := policy.FromFS("embedded", embedded.FS)
	if err == nil {
		err = engine.Offer(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("the embedded policy cannot be used: %w", err)
	}
	return nil
}

// PackedEmbedded is the policy that is part of the program, as it is kept.
func PackedEmbedded() (iam.PolicyRevision, []byte, error) {
	c, err := policy.FromFS("embedded", embedded.FS)
	if err != nil {
		return iam.PolicyRevision{}, nil, err
	}
	packed, err := c.Pack()
	return iam.PolicyRevision{Digest: c.Digest(), Name: c.Name, Source: c.Source, Verified: iam.VerifiedByNobody}, packed, err
}

// checks are what readiness looks at. What all replicas share only degrades while this one can answer.
func checks(db *postgres.DB, v *token.Verifier, engine *policy.Engine, policies *rollout.Service, changes *feed.Feed, bus *natsbus.Bus) []telemetry.Check {
	list := []telemetry.Check{
		{Name: "policy", Ask: func() error {
			if engine.Revision() == nil {
				return policy.ErrNoPolicy
			}
			return nil
		}},
		{Name: "policy_in_force", Ask: policies.Behind},
		{Name: "policy_activation", Degraded: true, Ask: policies.Lost},
		{Name: "policy_candidate", Degraded: true, Ask: func() error {
			if r := engine.Status().Refused; r != nil {
				return errors.New("the last one was refused: " + r.Reason)
			}
			return nil
		}},
		{Name: "facts", Ask: changes.Ready},
		{Name: "feed of changes", Degraded: true, Ask: changes.Problem},
		{Name: "database", Degraded: true, Ask: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return db.Ping(ctx)
		}},
		{Name: "database writes", Degraded: true, Ask: atMostEvery(5*time.Second, func() error { return db.CheckWrites(context.Background()) })},
	}
	for i, k := range v.Keys() {
		list = append(list, telemetry.Check{Name: "keys of " + k.Issuer, Degraded: true, Ask: func() error {
			s := v.Keys()[i]
			if !s.Held {
				return errors.New("none are held")
			}
			return s.Err
		}})
	}
	if bus != nil {
		list = append(list, telemetry.Check{Name: "nats", Degraded: true, Ask: bus.State})
	}
	return list
}

// atMostEvery asks at most once in so long, however often it is called, and returns what it was answered last.
func atMostEvery(pause time.Duration, ask func() error) func() error {
	var mu sync.Mutex
	var next time.Time
	var last error
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.After(next) {
			last, next = ask(), now.Add(pause)
		}
		return last
	}
}

// register hands the owners' figures to the registry.
func register(
	m *telemetry.Metrics, db *postgres.DB, v *token.Verifier, facts *directory.Store, changes *feed.Feed,
	engine *policy.Engine, enricher *enrich.Service, recorded *decisions.Log,
) {
	count := func(read func() int64) func() float64 { return func() float64 { return float64(read()) } }
	for i, s := range db.Stats() {
		pool := prometheus.Labels{"pool": s.Name}
		m.Gauge("iam_db_pool_connections", "Connections of a pool.", pool, func() float64 { return float64(db.Stats()[i].Total) })
		m.Gauge("iam_db_pool_in_use", "Connections of a pool that are in use.", pool, func() float64 { return float64(db.Stats()[i].InUse) })
		m.Gauge("iam_db_pool_max", "Most connections of a pool.", pool, func() float64 { return float64(db.Stats()[i].Max) })
		m.Counter("iam_db_pool_waits_total", "Acquisitions that found no idle connection.", pool, func() float64 { return float64(db.Stats()[i].EmptyAcquires) })
	}
	for name, stats := range map[string]func() bounded.Stats{
		"token":    v.Stats,
		"facts":    func() bounded.Stats { return facts.Stats().Present },
		"absent":   func() bounded.Stats { return facts.Stats().Absent },
		"decision": func() bounded.Stats { return enricher.Stats().Allowed },
		"denial":   func() bounded.Stats { return enricher.Stats().Denied },
	} {
		l := prometheus.Labels{"cache": name}
		m.Gauge("iam_cache_entries", "Entries of a cache.", l, func() float64 { return float64(stats().Entries) })
		m.Gauge("iam_cache_bytes", "What the entries of a cache weigh, estimated.", l, func() float64 { return float64(stats().Bytes) })
		m.Counter("iam_cache_evictions_total", "Entries dropped to keep the bounds.", l, func() float64 { return float64(stats().Evictions) })
		if name == "absent" || name == "denial" {
			continue // looked up together with facts and decisions, and counted there
		}
		m.Counter("iam_cache_hits_total", "Look-ups that a cache answered.", l, func() float64 { return float64(stats().Hits) })
		m.Counter("iam_cache_misses_total", "Look-ups that a cache did not answer.", l, func() float64 { return float64(stats().Misses) })
	}
	for cause := range enricher.Stats().Lost {
		m.Counter("iam_decisions_outdated_total", "Kept decisions that were found and not used, by what had changed.",
			prometheus.Labels{"cause": cause}, func() float64 { return float64(enricher.Stats().Lost[cause]) })
	}
	for cause, kind := range directory.Causes {
		m.Counter("iam_facts_invalidations_total", "Changes heard, by what they made untrue.",
			prometheus.Labels{"cause": cause}, count(func() int64 { return facts.Drops(kind) }))
	}
	m.Counter("iam_facts_loads_total", "Documents loaded from the database.", nil, count(func() int64 { return facts.Stats().Loads }))
	m.Counter("iam_facts_load_failures_total", "Loads that failed.", nil, count(func() int64 { return facts.Stats().Failures }))
	m.Gauge("iam_facts_age_seconds", "Age of the oldest fact that is trusted: time since the last proof that no change was missed; -1: there was none.", nil, func() float64 {
		age, once := facts.Age()
		if !once {
			return -1
		}
		return age.Seconds()
	})
	for _, state := range []feed.State{feed.Fresh, feed.Suspect, feed.Stale} {
		m.Gauge("iam_feed_state", "1 for the state that the feed of changes is in.", prometheus.Labels{"state": string(state)}, func() float64 {
			if changes.State() == state {
				return 1
			}
			return 0
		})
	}
	m.Counter("iam_feed_sessions_total", "Times that a listener stood and everything was dropped.", nil, count(func() int64 { return changes.Stats().Sessions }))
	m.Counter("iam_feed_beats_total", "Beats sent by this replica.", nil, count(func() int64 { return changes.Stats().Beats }))
	m.Counter("iam_feed_notifications_total", "Notifications heard, beats included.", nil, count(func() int64 { return changes.Stats().Heard }))
	m.Gauge("iam_feed_queue_usage", "How full PostgreSQL's queue of notifications was at the last beat, 0 to 1.", nil, func() float64 { return changes.Stats().Queue })
	for sink := range recorded.Dropped() {
		m.Counter("iam_decision_log_dropped_total", "Decisions that were not written down because a reader was too slow or could not be reached; sink \"\": none of them were told.",
			prometheus.Labels{"sink": sink}, func() float64 { return float64(recorded.Dropped()[sink]) })
	}
	m.Gauge("iam_policy_in_force_timestamp_seconds", "When the policy in force came into force; 0: none is.", nil, func() float64 {
		if r := engine.Revision(); r != nil {
			return float64(r.Since.Unix())
		}
		return 0
	})
	for i, k := range v.Keys() {
		m.Gauge("iam_issuer_keys_age_seconds", "Age of an issuer's keys; -1: none are held.", prometheus.Labels{"issuer": k.Issuer}, func() float64 {
			s := v.Keys()[i]
			if !s.Held {
				return -1
			}
			return s.Age.Seconds()
		})
	}
}

// server is one listener with its handler.
type server struct {
	name    string
	http    *http.Server
	l       net.Listener
	leaving atomic.Bool // answers close their connections
}

// writeTimeouts are how long an answer may take on each listener, from the request's headers
// to the last byte: who stops reading holds nothing for longer. Administration has changes of
// minutes, operators take profiles.
var writeTimeouts = map[string]time.Duration{"gateway": 30 * time.Second, "admin": 10 * time.Minute, "ops": 2 * time.Minute}

func newServer(name string, l net.Listener, h http.Handler, log *slog.Logger) *server {
	s := &server{name: name, l: l}
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.leaving.Load() {
				w.Header()["Connection"] = closing
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      writeTimeouts[name],
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.With(slog.String("server", name)).Handler(), slog.LevelWarn),
	}
	return s
}

var closing = []string{"close"}

func (s *server) serve() error {
	if err := s.http.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s listener: %w", s.name, err)
	}
	return nil
}

// drain stops in the order in which callers notice least: not ready, serve on
// until balancers know, let what is in flight end; the operators' listener last. Meanwhile each
// answer closes its connection, so that few are left that a caller could just be using again when
// they are closed.
func drain(ctx context.Context, servers []*server, ops *telemetry.Ops, cfg Config, log *slog.Logger) error {
	ops.Stopping()
	for _, s := range servers {
		s.leaving.Store(true)
	}
	if ctx.Err() != nil { // asked to, not failed
		log.InfoContext(ctx, "stopping", slog.Duration("serving_on_for", cfg.ShutdownDelay))
		time.Sleep(cfg.ShutdownDelay)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownGrace)
	defer cancel()
	var errs []error
	for _, s := range servers {
		if err := s.http.Shutdown(grace); err != nil {
			errs = append(errs, fmt.Errorf("%s listener: requests were cut off: %w", s.name, err))
			_ = s.http.Close() // the rest is cut off
		}
	}
	log.InfoContext(ctx, "stopped")
	return errors.Join(errs...)
}
