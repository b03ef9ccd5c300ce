package adminapi_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/admin"
	"iam-service/internal/adminapi"
	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
	"iam-service/internal/decisions"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/playground"
	"iam-service/internal/policyops/preview"
	"iam-service/internal/policyops/rollout"
	"iam-service/internal/postgres"
	"iam-service/internal/token/signals"
)

// TestMain is also the child that a draft is evaluated in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == policy.ChildCommand {
		if err := policy.ServeGate(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(pgtest.Main{M: m})
}

var (
	ctx     = context.Background()
	discard = slog.New(slog.DiscardHandler)
)

// adminWorld is a world with the admins' listener.
type adminWorld struct {
	*world.World
	admin    string // URL of the admin API
	service  *admin.Service
	clients  *clients.Service
	policies *rollout.Service

	playground *playground.Service

	outcomes sync.Map // stream → what became of its last signal

	mu   sync.Mutex
	pool *pgxpool.Pool // of sql
}

type settings struct {
	conns      int32  // of the service to the database; 0: 4
	decisions  bool   // are persisted, and can be searched
	adminRego  string // instead of the default policy of administration
	replicaOf  *adminWorld
	writes     int                      // of a caller in a minute; 0: unlimited
	joins      int64                    // of a tenant in a day
	scimWrites int                      // of a provisioning client in a minute; 0: unlimited
	panics     bool                     // when the policy is read
	noClients  bool                     // are managed
	loop       bool                     // of clients runs
	streams    func(*adminWorld) string // content of SIGNALS_FILE
	mapped     bool                     // unknown users get roles by mappings
}

func newWorld(t testing.TB, s settings) *adminWorld {
	t.Helper()
	of := world.Settings{Conns: s.conns, Policy: world.Policy{AdminRego: s.adminRego}}
	if s.replicaOf != nil {
		of.ReplicaOf = s.replicaOf.World
	}
	var searchable adminapi.Decisions
	if s.decisions {
		of.DatabaseURL = pgtest.URL(t)
		sink, store := persistDecisions(t, of.DatabaseURL)
		of.DecisionSinks, searchable = []decisions.Sink{sink}, store
	}
	w := &adminWorld{World: world.New(t, of)}
	running, stop := context.WithCancel(ctx)
	var loops sync.WaitGroup
	t.Cleanup(loops.Wait)
	t.Cleanup(stop)
	w.service = admin.New(admin.Config{
		DB:          w.DB,
		Engine:      w.Engine,
		Issuers:     w.Issuers,
		Issuer:      w.RAuth.Issuer,
		Audiences:   []string{devstack.Audience},
		Invalidate:  w.Facts.Invalidate,
		JoinsPerDay: s.joins,
		Log:         w.Logger,

		UnknownMapped: s.mapped,
	})
	w.clients = newClients(w, s)
	if s.loop {
		loops.Go(func() { w.clients.Run(running) })
	}
	w.policies = rollout.New(rollout.Config{
		DB:       w.DB,
		Admin:    w.service,
		Engine:   w.Engine,
		Managed:  true,
		Follows:  true,
		Unsigned: true,
		Replica:  "test",
		Log:      w.Logger,
	})
	previews := &preview.Jobs{
		Snapshot: func(ctx context.Context) (preview.Moment, error) { return w.DB.Snapshot(ctx) },
		Note:     w.DB.PreviewProgress,
		Log:      w.Logger,
	}
	t.Cleanup(previews.Wait)
	shadow := preview.NewShadow(w.Enricher, w.Engine.Headers(), w.policies.Shadow)
	w.Enricher.SetShadow(shadow)
	loops.Go(func() { shadow.Run(running) })
	explainer := &explain.Service{Engine: w.Engine, Enricher: w.Enricher}
	w.playground = playground.New(explainer, []string{os.Args[0], policy.ChildCommand})
	t.Cleanup(w.playground.Close)
	api := httptest.NewServer(adminapi.New(adminapi.Config{
		Playground:    w.playground,
		Shadow:        shadow,
		Previews:      previews,
		Searches:      func(ctx context.Context) (preview.SearchMoment, error) { return w.DB.Snapshot(ctx) },
		PreviewEngine: w.Engine,
		Issuers:       w.Issuers,
		Background:    running,
		Service:       w.service,
		Clients:       w.clients,
		Policies:      w.policies,
		Explain:       explainer,
		VerifyGateway: w.Verifier.Verify,
		Decisions:     searchable,
		Verify:        w.Verifier.ForAudience(devstack.AdminAudience).Verify,
		Policy: func() any {
			if s.panics {
				panic("a secret")
			}
			return w.Engine.Status()
		},
		Issuer:     w.RAuth.Issuer,
		Writes:     cmp.Or(s.writes, 1_000_000),
		SCIMWrites: cmp.Or(s.scimWrites, 1_000_000),
		Trusted:    w.Trusted,
		Version:    "test",
		Log:        w.Logger,
		Observe:    w.Observe,
		Signals:    newReceiver(w, s),
	}))
	t.Cleanup(api.Close)
	w.admin = api.URL
	return w
}

// persistDecisions opens the decision store at url.
func persistDecisions(t testing.TB, url string) (decisions.Sink, adminapi.Decisions) {
	t.Helper()
	if _, err := postgres.MigrateDecisions(ctx, url, postgres.Up); err != nil {
		t.Fatal(err)
	}
	store, err := postgres.OpenDecisions(ctx, url, time.Hour, discard, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return decisions.Database(store.Add), store
}

// newReceiver is the receiver of signals; nil without streams.
func newReceiver(w *adminWorld, s settings) *signals.Receiver {
	w.Helper()
	if s.streams == nil {
		return nil
	}
	streams, faults := signals.Parse([]byte(s.streams(w)), signals.Sources{
		Issuers: w.Issuers,
		Env:     func(name string) string { return strings.Repeat(name, 40)[:40] },
		BadURL:  func(string) string { return "" },
	})
	if len(faults) > 0 {
		w.Fatal(faults)
	}
	r, err := signals.New(signals.Config{
		Streams:  streams,
		Log:      w.Logger,
		Accepted: func(stream string, o iam.SignalOutcome) { w.outcomes.Store(stream, string(o)) },
		Rejected: func(stream string, reason signals.Reason) { w.outcomes.Store(stream, "rejected: "+string(reason)) },
	})
	w.OK(err)
	w.Cleanup(r.Close)
	return r
}

// newClients is the service of managed clients; its loop does not run yet.
func newClients(w *adminWorld, s settings) *clients.Service {
	w.Helper()
	instance, _, err := w.DB.Instance(ctx)
	w.OK(err)
	cfg := clients.Config{
		Admin:        w.service,
		DB:           w.DB,
		Issuer:       w.RAuth.Issuer,
		Instance:     instance,
		Log:          w.Logger,
		Tick:         20 * time.Millisecond,
		CompareEvery: 100 * time.Millisecond,
		Patience:     4 * time.Second,
	}
	if !s.noClients {
		cfg.Provider, err = rauth.New(rauth.Config{
			URL:   w.RAuth.Issuer,
			Pause: time.Millisecond,
			Open:  100 * time.Millisecond,
			Log:   w.Logger,
		})
		w.OK(err)
	}
	return clients.New(cfg)
}
