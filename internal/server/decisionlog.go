package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"iam-service/internal/decisions"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
)

// decisionQueue is how many decisions wait for each sink.
const decisionQueue = 4096

// openDecisionLog opens the sinks of the decision log.
func (s *service) openDecisionLog(start context.Context) error {
	if err := s.openDecisionStore(start); err != nil {
		return err
	}
	usage := s.newUsage()
	s.decisionLog = decisions.New(decisions.Config{
		Fields:  s.cfg.DecisionFields,
		Headers: s.engine.Headers(),
		Log:     s.log,
		Queue:   decisionQueue,
		Labels:  map[string]string{"app": "iam-service", "id": s.policies.Replica(), "version": s.build.Version},
		OnPanic: s.loops.panicked("decision_log"),
		Sinks:   s.sinks(),
		Observe: usage.Observe,
	})
	if usage != nil {
		s.loops.run("usage", func() { usage.Run(s.work) })
	}
	s.onClose(s.decisionLog.Close)
	more := map[string]func() int64{}
	if s.manager != nil {
		more["opa_upload"] = s.manager.DecisionsDropped
	}
	s.decisionLog.Register(s.registry, more)
	return nil
}

// newUsage records the use of memberships, roles and clients; nil: it is off.
func (s *service) newUsage() *decisions.Usage {
	if on := s.cfg.UsageRecording; on == "off" || on == "auto" && s.cfg.DecisionsURL == "" {
		return nil
	}
	usage := decisions.NewUsage(decisions.UsageConfig{
		Headers: s.engine.Headers(),
		Store:   s.db.RecordUsage,
		Dropped: func() int64 { return s.decisionLog.Dropped()[""] },
		Log:     s.log,
	})
	telemetry.Counter(s.registry, "iam_usage_lost_total", "Uses of memberships, roles and clients that were not recorded: they were too many, or could not be stored.",
		nil, func() float64 { return float64(usage.Lost()) })
	return usage
}

// openDecisionStore opens the database where decisions can be queried, if DECISIONS_DATABASE_URL is set. No request
// depends on it: its absence stops no start, and must not use up what is left of START_TIMEOUT.
func (s *service) openDecisionStore(start context.Context) error {
	cfg := &s.cfg
	if cfg.DecisionsURL == "" {
		return nil
	}
	store, err := postgres.OpenDecisions(s.work, cfg.DecisionsURL, cfg.DecisionsKeep, s.log, s.databaseError)
	if err != nil {
		return errors.New("DECISIONS_DATABASE_URL cannot be used") // the reason could show a password
	}
	s.decisionStore = store
	s.onClose(store.Close)
	ctx, cancel := context.WithTimeout(start, 2*time.Second)
	defer cancel()
	if err := store.Check(ctx); err != nil {
		s.log.WarnContext(start, "decisions cannot be stored (DECISIONS_DATABASE_URL)",
			slog.String("server", postgres.Server(cfg.DecisionsURL)), slog.Any("err", OneLine(err)))
	}
	s.loops.run("decisions_retention", func() { store.RunRetention(s.work, s.log) })
	return nil
}

// sinks are what decisions are written to.
func (s *service) sinks() []decisions.Sink {
	cfg := &s.cfg
	var list []decisions.Sink
	if cfg.DecisionConsole {
		list = append(list, decisions.Console(s.out.Blocking()))
	}
	if cfg.DecisionFile != "" {
		list = append(list, decisions.File(cfg.DecisionFile))
	}
	if cfg.DecisionSubject != "" && s.bus != nil {
		list = append(list, decisions.Sink{Name: "nats", Text: true, Write: func(_ context.Context, batch []decisions.Entry) error {
			var errs []error
			for _, w := range batch {
				errs = append(errs, s.bus.PublishCore(cfg.DecisionSubject, w.Text))
			}
			return errors.Join(errs...)
		}})
	}
	if s.manager != nil {
		list = append(list, decisions.Sink{Name: "opa", Text: true, Write: func(ctx context.Context, batch []decisions.Entry) error {
			if !s.manager.LogsDecisions() {
				return nil // not configured; a discovered configuration may, later
			}
			var errs []error
			for _, w := range batch {
				d := policy.LoggedDecision{ID: w.Event.DecisionID, Revision: w.Event.Bundles["iam"].Revision, At: w.Event.Timestamp, Path: w.Event.Path}
				err := json.Unmarshal(w.Text, &d) // a copy: OPA's mask writes into what it is given
				if err == nil {
					err = s.manager.LogDecision(ctx, d)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}})
	}
	if s.decisionStore != nil {
		list = append(list, decisions.Database(s.decisionStore.Add))
	}
	return list
}
