// Package rollout keeps one policy revision active on all replicas.
//
// PostgreSQL defines the active revision: the last row of policy_activations. A source (a
// bundle file, OPA's plugin manager, an upload) submits candidates. A candidate that the gate
// accepts is stored as it was packed and signed, and becomes active at once
// (POLICY_ACTIVATION=auto) or on request (managed). The change feed notifies all replicas.
// They have prepared the revisions that may become active next, so that an activation is the
// swap of a pointer:
//
//	candidate ──gate──▶ stored ──auto: at once; managed: activate──▶ active ◀──rollback── active before
//	            │ rejected: reports why  │ each replica: gate, prepared
//	            └─ older than the revision that replaced it: rejected; only a rollback activates it again
//
// A replica with a policy of its own (a folder, or nothing configured) does not follow the database.
//
// The active revision is also stored in a folder (STATE_DIR), for a start without the database.
// The package does not know Rego, SQL or HTTP.
package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
)

// Config of a Service.
type Config struct {
	DB     *postgres.DB
	Admin  *admin.Service
	Engine *policy.Engine

	Managed  bool              // POLICY_ACTIVATION=managed
	Embedded *policy.Candidate // part of the program; nil: none
	Follows  bool              // the database defines the active revision; else the replica has a policy of its own
	ByOPA    bool              // OPA verifies the bundles that it fetches
	Unsigned bool              // POLICY_ALLOW_UNSIGNED: unsigned bundles are accepted
	StateDir string            // STATE_DIR; empty: the active revision is not stored there

	Facts func() iam.ReplicaFacts // of this replica, for its report; nil: none

	Patience time.Duration // for how long another revision may be active than the database names; 0: 10 s
	Replica  string
	Version  string
	Log      *slog.Logger
	OnPanic  func(error) // called with a panic in the background preparation, which continues; may be nil
}

const (
	syncEvery   = 5 * time.Second  // the feed may miss a notification
	reportEvery = 10 * time.Second // of an unchanged state: the replica is alive
	failedFor   = 30 * time.Second // before a revision that could not be prepared is prepared again
)

// Service keeps this replica's active revision in sync while Run runs.
type Service struct {
	cfg    Config
	wanted chan struct{} // revisions are to be prepared

	read func(context.Context) (postgres.PolicyOrders, error)

	disagreements chan struct{} // some are to be recorded

	preparing sync.Mutex // one background preparation at a time

	reporting sync.Mutex // one report at a time, so that none overwrites a newer one

	mu       sync.Mutex
	prepared map[string]*policy.Revision // by digest; under mu
	failed   map[string]failure          // why one could not be prepared, by digest; under mu
	orders   postgres.PolicyOrders       // the newest that were read; under mu
	reads    int                         // how often orders was replaced; under mu
	reported string                      // the last report; under mu
	at       time.Time                   // of the last report; under mu
	saved    activation                  // the one in STATE_DIR; under mu
	seq      int64                       // the highest activation that this replica has seen, also in STATE_DIR; under mu

	disagreed map[string]bool // digests whose machine disagreed with topdown here, not recorded yet; under mu

	local atomic.Pointer[policy.Candidate] // that this replica accepted last where it has a policy of its own; nil: none

	lost atomic.Pointer[lost] // nil: the database has all activations that this replica has seen

	shadow atomic.Pointer[shadow]    // nil: none
	behind atomic.Pointer[time.Time] // since when the database names another revision than the active one; nil: it does not
}

// shadow is the revision that is evaluated in the background of live requests.
type shadow struct {
	revision *policy.Revision
	share    float64
}

// lost is an activation that the database has lost, by a restore or a failover.
type lost struct{ seq, left int64 }

// New returns a service. Its Passed is for policy.Engine.SetActivator.
func New(cfg Config) *Service {
	s := &Service{
		cfg: cfg, wanted: make(chan struct{}, 1), disagreements: make(chan struct{}, 1),
		read:     func(ctx context.Context) (postgres.PolicyOrders, error) { return cfg.DB.PolicyOrders(ctx, cfg.Version) },
		prepared: map[string]*policy.Revision{}, failed: map[string]failure{}, disagreed: map[string]bool{},
	}
	if cfg.StateDir != "" && cfg.Follows {
		s.seq = s.storedActivation().Seq
	}
	return s
}

// Managed reports whether revisions become active on request only.
func (s *Service) Managed() bool { return s.cfg.Managed }

// Follows reports whether all replicas share the active revision.
func (s *Service) Follows() bool { return s.cfg.Follows }

// Replica is the name of this replica.
func (s *Service) Replica() string { return s.cfg.Replica }

// Receive checks an uploaded bundle by the gate. A rejection is an Invalid error.
func (s *Service) Receive(ctx context.Context, source string, packed []byte) (iam.PolicyRevision, error) {
	c, err := s.cfg.Engine.Unpack(source, packed)
	var r *policy.Revision
	if err == nil {
		r, err = s.cfg.Engine.Prepare(ctx, c)
	}
	if err != nil {
		if _, later := errors.AsType[*policy.RetryError](err); later {
			return iam.PolicyRevision{}, &iam.Error{Kind: iam.Unavailable, Code: "gate_unavailable", Detail: "the policy cannot be checked now", Cause: err}
		}
		s.cfg.Engine.Reject(ctx, source, "", err)
		return iam.PolicyRevision{}, &iam.Error{Kind: iam.Invalid, Code: "policy_refused", Detail: "the policy is rejected: " + err.Error()}
	}
	s.cfg.Engine.ClearRejection()
	s.mu.Lock()
	s.prepared[r.Digest] = r // saves another check; Prepare evicts it unless it is stored
	s.mu.Unlock()
	described, _, err := s.describe(c, r)
	return described, err
}

// Revision returns a stored revision, prepared.
func (s *Service) Revision(ctx context.Context, digest string) (*policy.Revision, error) {
	if now := s.cfg.Engine.Revision(); now != nil && now.Digest == digest {
		return now, nil
	}
	r, err := s.prepare(ctx, digest)
	if err != nil {
		return nil, &iam.Error{Kind: iam.Conflict, Code: "policy_refused", Detail: "the revision cannot be prepared on this replica: " + err.Error()}
	}
	return r, nil
}

// InForce is the active revision of this replica; nil: none.
func (s *Service) InForce() *policy.Revision { return s.cfg.Engine.Revision() }

// Shadow is the revision that is evaluated in the background, and for which share of requests; nil:
// none.
func (s *Service) Shadow() (*policy.Revision, float64) {
	if sh := s.shadow.Load(); sh != nil {
		return sh.revision, sh.share
	}
	return nil, 0
}

// source is the actor of what a policy source causes.
var source = admin.Caller{Operator: "source", Via: "loop"}

// Passed stores a candidate that the gate has accepted, and reports whether it becomes active
// now. Sync activates a revision that all replicas share, so that a concurrent rollback is not
// undone.
func (s *Service) Passed(ctx context.Context, c *policy.Candidate, r *policy.Revision) (now bool, err error) {
	if !s.cfg.Follows || c.Embedded {
		if !c.Embedded {
			s.local.Store(c)
		}
		return true, nil
	}
	revision, packed, err := s.describe(c, r)
	if err != nil {
		return false, err
	}
	err = s.cfg.Admin.Do(ctx, source, admin.Task{Action: "policy:take", Object: revision.ID(), Writes: true}, func(ctx context.Context, w *admin.Work) error {
		stored, _, err := w.AddPolicyRevision(ctx, revision, packed)
		if err != nil || s.cfg.Managed {
			return err
		}
		return w.TakePolicy(ctx, stored.Digest)
	})
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	s.prepared[r.Digest] = r
	s.mu.Unlock()
	if err := s.Sync(ctx); err != nil && !s.cfg.Managed {
		return false, err
	}
	return false, nil
}

// describe returns a candidate as it is stored.
func (s *Service) describe(c *policy.Candidate, r *policy.Revision) (iam.PolicyRevision, []byte, error) {
	packed, err := c.Pack()
	if err != nil {
		return iam.PolicyRevision{}, nil, err
	}
	return iam.PolicyRevision{Digest: r.Digest, Name: r.Name, Source: r.Source, Verified: cmp.Or(c.Verified, iam.VerifiedByNobody)}, packed, nil
}

// Run keeps this replica in sync until ctx ends: at each notification of changed, and
// periodically.
func (s *Service) Run(ctx context.Context, changed <-chan struct{}) {
	var ready sync.WaitGroup
	defer ready.Wait()
	ready.Go(func() {
		for {
			select {
			case <-s.wanted:
				if err := iam.Try(func() { s.Prepare(ctx) }); err != nil && s.cfg.OnPanic != nil {
					s.cfg.OnPanic(err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		if err := s.Sync(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "policy sync failed", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = s.cfg.DB.RemovePolicyReplica(ctx, s.cfg.Replica) // else it expires
			return
		case <-changed:
		case <-s.disagreements:
		case <-tick.C:
		}
	}
}

// Disagreed records that the machine disagreed with topdown about a revision, so that all
// replicas leave it to topdown. It does not wait: Run records it.
func (s *Service) Disagreed(digest string) {
	s.mu.Lock()
	s.disagreed[digest] = true
	s.mu.Unlock()
	select {
	case s.disagreements <- struct{}{}:
	default: // Run is about to record it
	}
}

// recordDisagreements records what Disagreed was called with; Sync tries again what fails.
func (s *Service) recordDisagreements(ctx context.Context) error {
	s.mu.Lock()
	digests := slices.Sorted(maps.Keys(s.disagreed))
	s.mu.Unlock()
	var errs []error
	for _, digest := range digests {
		if err := s.cfg.DB.LeaveToTopdown(ctx, digest, s.cfg.Version, s.cfg.Replica); err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		delete(s.disagreed, digest)
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Sync activates the revision that the database names, and reports. It prepares the revisions that
// may become active next in the background, so that no upload delays a rollback. It fails where
// it cannot activate the revision.
func (s *Service) Sync(ctx context.Context) error {
	if err := s.recordDisagreements(ctx); err != nil {
		s.cfg.Log.WarnContext(ctx, "policy disagreement not recorded", slog.Any("err", err))
	}
	s.mu.Lock()
	reads := s.reads
	s.mu.Unlock()
	orders, err := s.read(ctx)
	if err != nil {
		return err
	}
	for _, digest := range orders.Topdown {
		if s.cfg.Engine.SwitchOff(digest, "its result differed from topdown's on one of the replicas") {
			s.cfg.Log.WarnContext(ctx, "policy left to topdown: the machine disagreed with it on a replica", slog.String("revision", iam.PolicyID(digest)))
		}
	}
	orders = s.activeRevision(ctx, orders, reads)
	if s.cfg.Follows && orders.InForce != "" {
		var r *policy.Revision
		if r, err = s.prepare(ctx, orders.InForce); err == nil {
			s.mu.Lock()
			if s.orders.Seq == orders.Seq && s.orders.InForce == r.Digest { // not superseded meanwhile
				s.cfg.Engine.Activate(ctx, r)
			}
			s.mu.Unlock()
		}
		s.checkBehind()
	}
	select {
	case s.wanted <- struct{}{}:
	default: // a notification is pending
	}
	s.setShadow()
	if reported := s.report(ctx); reported != nil {
		s.cfg.Log.WarnContext(ctx, "policy state not reported", slog.Any("err", reported))
	}
	return err
}

// activeRevision takes orders that were read after the service had replaced its own so many times, and
// returns those that count. Reads overlap, so the result can be older than the current orders: it is then
// discarded. Where the database has lost an activation, this replica keeps its active revision:
// an older policy must not return unnoticed. The next activation has a higher sequence than
// any replica has reported, and settles it.
func (s *Service) activeRevision(ctx context.Context, orders postgres.PolicyOrders, reads int) postgres.PolicyOrders {
	s.mu.Lock()
	before := s.orders
	if orders.Seq < before.Seq && s.reads != reads {
		s.mu.Unlock()
		return before
	}
	left := orders.Seq
	if left < before.Seq {
		orders.Seq, orders.InForce = before.Seq, before.InForce
	}
	s.seq = max(s.seq, orders.Seq)
	seq := s.seq
	s.orders = orders
	s.reads++
	s.mu.Unlock()
	if left >= seq {
		s.lost.Store(nil)
		return orders
	}
	now := lost{seq, left}
	if was := s.lost.Swap(&now); was == nil || *was != now {
		s.cfg.Log.WarnContext(ctx, "policy activation lost by the database: activate or roll back to settle which policy is active",
			slog.Int64("seq", seq), slog.Int64("last_in_database", left), slog.String("active", iam.PolicyID(orders.InForce)))
	}
	return orders
}

// Lost reports that the database has lost an activation that this replica has seen, so that
// replicas which have started since may run another policy.
func (s *Service) Lost() error {
	if l := s.lost.Load(); l != nil {
		return fmt.Errorf("the database has lost activation %d, its last one is %d: activate or roll back a policy", l.seq, l.left)
	}
	return nil
}

// checkBehind records whether the active revision is the one that the database names.
func (s *Service) checkBehind() {
	s.mu.Lock()
	digest := s.orders.InForce
	s.mu.Unlock()
	if r := s.cfg.Engine.Revision(); r != nil && r.Digest == digest {
		s.behind.Store(nil)
		return
	}
	now := time.Now()
	s.behind.CompareAndSwap(nil, &now)
}

// Behind reports that this replica cannot run the revision that is active elsewhere. It must
// receive no requests: its decisions would differ.
func (s *Service) Behind() error {
	if since := s.behind.Load(); since != nil && time.Since(*since) > cmp.Or(s.cfg.Patience, 10*time.Second) {
		return errors.New("the active policy of the other replicas cannot be activated here: /policy/status has the reason")
	}
	return nil
}

func (s *Service) setShadow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := s.orders.Shadow
	r := s.prepared[want.Digest]
	if r == nil || want.Share == 0 {
		s.shadow.Store(nil)
		return
	}
	if now := s.shadow.Load(); now == nil || now.revision != r || now.share != want.Share {
		s.shadow.Store(&shadow{r, want.Share})
	}
}

// report stores the state of this replica where it has changed, and periodically.
func (s *Service) report(ctx context.Context) error {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	me := iam.PolicyReplica{Replica: s.cfg.Replica, Version: s.cfg.Version, Prepared: slices.AppendSeq([]string{}, maps.Keys(s.prepared)), Seq: s.seq}
	reported, at := s.reported, s.at
	s.mu.Unlock()
	slices.Sort(me.Prepared)
	status := s.cfg.Engine.Status()
	if r := status.Revision; r != nil {
		me.InForce, me.Since, me.Source = r.Digest, r.Since, r.Source
	}
	if status.Rejected != nil {
		text, err := json.Marshal(status.Rejected)
		if err != nil {
			return err
		}
		me.Refused = text
	}
	state := fmt.Sprint(me.InForce, me.Seq, me.Prepared, string(me.Refused))
	if s.cfg.Facts != nil {
		f := s.cfg.Facts()
		me.Facts, state = &f, state+f.State
	}
	if state == reported && time.Since(at) < reportEvery {
		return nil
	}
	if err := s.cfg.DB.ReportPolicy(ctx, me); err != nil {
		return err
	}
	s.mu.Lock()
	s.reported, s.at = state, time.Now()
	s.mu.Unlock()
	return nil
}

// Files below STATE_DIR: the policy, and its activation.
const (
	bundleName     = "policy.tar.gz"
	activationName = "policy.json"
)
