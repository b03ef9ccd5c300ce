package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"iam-service/internal/decisions"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
)

// openDecisions opens the database where decisions can be queried, if there is one.
func openDecisions(work, start context.Context, cfg Config, log *slog.Logger, onError func(reason string)) (*postgres.Decisions, error) {
	if cfg.DecisionsURL == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	kept, err := postgres.OpenDecisions(work, cfg.DecisionsURL, cfg.DecisionsKeep, log, onError)
	if err != nil {
		return nil, errors.New("DECISIONS_DATABASE_URL cannot be used") // why could show a password
	}
	// It decides about no request: its absence stops nothing, and must not use up what is left of the start.
	ctx, cancel := context.WithTimeout(start, 2*time.Second)
	defer cancel()
	if err := kept.Check(ctx); err != nil {
		log.WarnContext(start, "decisions cannot be written down (DECISIONS_DATABASE_URL)", slog.String("server", postgres.Server(cfg.DecisionsURL)), slog.Any("err", OneLine(err)))
	}
	return kept, nil
}

// sinks are where decisions are written down.
func sinks(cfg Config, log *slog.Logger, bus *natsbus.Bus, manager *policy.Manager, kept *postgres.Decisions) []decisions.Sink {
	var list []decisions.Sink
	if cfg.DecisionConsole {
		list = append(list, decisions.Console(log))
	}
	if cfg.DecisionFile != "" {
		list = append(list, decisions.File(cfg.DecisionFile))
	}
	if cfg.DecisionSubject != "" && bus != nil {
		list = append(list, decisions.Sink{Name: "nats", Text: true, Write: func(_ context.Context, batch []decisions.Written) error {
			var errs []error
			for _, w := range batch {
				errs = append(errs, bus.Tell(cfg.DecisionSubject, w.Text))
			}
			return errors.Join(errs...)
		}})
	}
	if manager != nil {
		list = append(list, decisions.Sink{Name: "opa", Text: true, Write: func(ctx context.Context, batch []decisions.Written) error {
			if !manager.LogsDecisions() {
				return nil // nobody has asked for it; a discovered configuration may, later
			}
			var errs []error
			for _, w := range batch {
				var doc struct {
					Input, Result any
					Custom        map[string]any
				}
				err := json.Unmarshal(w.Text, &doc) // a copy: OPA's mask writes into what it is given
				if err == nil {
					err = manager.LogDecision(ctx, w.Event.DecisionID, w.Event.Bundles["iam"].Revision, w.Event.Timestamp, doc.Input, doc.Result, doc.Custom)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}})
	}
	if kept != nil {
		list = append(list, decisions.Keep(kept.Add))
	}
	return list
}
