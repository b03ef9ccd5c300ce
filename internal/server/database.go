package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"iam-service/internal/postgres"
	"iam-service/internal/telemetry"
)

// openConns is how many connections each pool keeps open.
const openConns = 4

// openDatabase opens the pools and waits until the schema is new enough.
func (s *service) openDatabase(start context.Context) error {
	cfg := &s.cfg
	if cfg.StateDir != "" {
		if err := os.Mkdir(cfg.StateDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("STATE_DIR cannot be created: %w", err)
		}
	}
	s.databaseError = postgres.ErrorCounter(s.registry)
	db, err := postgres.Open(s.work, postgres.Config{
		URL:          cfg.DatabaseURL,
		Listen:       cfg.ListenURL,
		Issuers:      cfg.Issuers,
		Conns:        cfg.FactsConns,
		AdminConns:   cfg.AdminConns,
		MinConns:     openConns,
		FactsAcquire: cfg.Part(50),
		FactsLimit:   cfg.Part(100),
		Spans:        s.tracing.Provider(),
	}, s.log, s.databaseError)
	if err != nil {
		return errors.New("DATABASE_URL cannot be used") // checked before: the reason could show a password
	}
	s.db = db
	s.onClose(db.Close)
	db.Register(s.registry)
	s.check(
		telemetry.Check{Name: "database", Degraded: true, Ask: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return db.Ping(ctx)
		}},
		telemetry.Check{Name: "database writes", Degraded: true, Ask: atMostEvery(5*time.Second, func() error {
			return db.CheckWrites(context.Background())
		})},
	)
	return s.awaitSchema(start)
}

// awaitSchema returns when the schema is new enough. It does not wait where waiting cannot help: the schema is too old,
// or the server refuses the user or the database.
func (s *service) awaitSchema(start context.Context) error {
	err := RetryDuring(start, func() error {
		err := s.db.CheckSchema(start)
		if _, old := errors.AsType[*postgres.OldSchemaError](err); old || postgres.Refused(err) {
			return backoff.Permanent(err)
		}
		return err
	})
	if err == nil {
		return nil
	}
	if old, ok := errors.AsType[*postgres.OldSchemaError](err); ok {
		return fmt.Errorf("database (DATABASE_URL): %w", old)
	}
	return s.databaseFault("cannot use PostgreSQL", err)
}

// RetryDuring calls attempt, with pauses that grow to a second, until it succeeds, returns a backoff.PermanentError, or
// ctx ends. It returns the last failure, but not that of an attempt which the end of ctx has cut off, if there is
// another: it says nothing about the dependency.
func RetryDuring(ctx context.Context, attempt func() error) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := attempt()
		if last == nil || ctx.Err() == nil {
			last = err
		}
		return struct{}{}, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval:     100 * time.Millisecond,
		RandomizationFactor: .2,
		Multiplier:          1.5,
		MaxInterval:         time.Second,
	}), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	if permanent, ok := errors.AsType[*backoff.PermanentError](last); ok {
		return permanent.Unwrap()
	}
	return last
}

// databaseFault names the variable and the server of a fault.
func (s *service) databaseFault(what string, err error) error {
	return fmt.Errorf("%s (DATABASE_URL, at %s): %w", what, postgres.Server(s.cfg.DatabaseURL), OneLine(err))
}

// warmPools returns when each pool has a connection over which look-ups were done. Connections that the server has no
// room for now are reported, and opened later.
func (s *service) warmPools(start context.Context) error {
	missing := 0
	err := RetryDuring(start, func() (err error) {
		missing, err = s.db.Warm(start)
		return err
	})
	if err != nil {
		return s.databaseFault("cannot open a connection to PostgreSQL for each pool", err)
	}
	if missing > 0 {
		s.log.WarnContext(start, "fewer database connections than configured: the server has no room for more", slog.Int("missing", missing))
	}
	return nil
}

// OneLine puts a fatal error on one line.
func OneLine(err error) error {
	if err == nil {
		return errors.New("no response in time")
	}
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}
