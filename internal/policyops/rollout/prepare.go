package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// failure is cached for a while only: the cause may have been the machine.
type failure struct {
	why string
	at  time.Time
}

// Prepare prepares the revisions that may become active next, and saves the active one in STATE_DIR.
func (s *Service) Prepare(ctx context.Context) {
	s.preparing.Lock()
	defer s.preparing.Unlock()
	s.mu.Lock()
	wanted := s.orders.Prepare
	s.mu.Unlock()
	if s.cfg.Follows {
		for _, digest := range wanted {
			_, _ = s.prepare(ctx, digest) // it reports errors: log, metric, status
		}
	}
	gone := func(digest string) bool { return !slices.Contains(wanted, digest) }
	s.mu.Lock()
	maps.DeleteFunc(s.prepared, func(digest string, _ *policy.Revision) bool { return gone(digest) && digest != s.orders.InForce })
	maps.DeleteFunc(s.failed, func(digest string, f failure) bool { return gone(digest) || time.Since(f.at) > failedFor })
	s.mu.Unlock()
	s.setShadow()
	if s.cfg.Follows {
		s.saveState(ctx)
	}
	if err := s.report(ctx); err != nil {
		s.cfg.Log.WarnContext(ctx, "policy state not reported", slog.Any("err", err))
	}
}

// prepare takes a stored revision through the gate, once. It ignores the cancellation of ctx, which would
// look like a failure of the policy.
func (s *Service) prepare(ctx context.Context, digest string) (*policy.Revision, error) {
	s.mu.Lock()
	r, f := s.prepared[digest], s.failed[digest]
	s.mu.Unlock()
	switch {
	case r != nil:
		return r, nil
	case f.why != "" && time.Since(f.at) < failedFor:
		return nil, errors.New(f.why)
	}
	ctx = context.WithoutCancel(ctx)
	stored, packed, err := s.cfg.DB.PolicyBundle(ctx, digest)
	if err != nil {
		return nil, err
	}
	another := false
	switch {
	case s.embedded(digest): // part of the program, so it needs no signature
		r, err = s.cfg.Engine.Prepare(ctx, s.cfg.Embedded)
	case s.cfg.Embedded != nil && stored.Source == s.cfg.Embedded.Source && stored.Verified == iam.VerifiedByNobody && !s.cfg.Unsigned:
		another, err = true, errors.New("it is embedded in another version of the program, and is not signed")
	default:
		r, err = s.unpackAndPrepare(ctx, stored.Source, packed, s.trust(stored.Verified))
	}
	if err == nil && r.Digest != digest {
		err = fmt.Errorf("the bundle stored as revision %s is revision %s", iam.PolicyID(digest), r.ID)
	}
	if err == nil {
		s.mu.Lock()
		_, before := s.failed[digest]
		delete(s.failed, digest)
		s.prepared[digest] = r
		s.mu.Unlock()
		if before {
			s.cfg.Engine.ClearRejection()
		}
		return r, nil
	}
	if _, later := errors.AsType[*policy.RetryError](err); !later {
		s.mu.Lock()
		s.failed[digest] = failure{err.Error(), time.Now()}
		wanted := !another || s.orders.InForce == digest
		s.mu.Unlock()
		if wanted {
			s.cfg.Engine.Reject(ctx, "revision "+iam.PolicyID(digest)+" of "+stored.Source, digest, err)
		}
	}
	return nil, err
}

func (s *Service) embedded(digest string) bool {
	return s.cfg.Embedded != nil && s.cfg.Embedded.Digest() == digest
}
