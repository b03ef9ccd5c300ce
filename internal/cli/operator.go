package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/token"
)

// operator is what the commands of an operator share: the database and the identity that the audit records.
type operator struct {
	db       *postgres.DB
	service  *admin.Service
	caller   admin.Caller
	issuer   string // RAUTH_URL; may be empty
	issuers  iam.Issuers
	verified []token.Issuer // the same; R-Auth's audiences only where RAUTH_AUDIENCES is set
}

// openOperator opens the database for an operator. Issuers are trusted as serve trusts them; DATABASE_URL alone is enough
// for a command that names no issuer of its own.
func openOperator(ctx context.Context, cfg *server.Config) (*operator, error) {
	url := directURL(*cfg)
	log := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(ctx, postgres.Config{URL: url, Issuers: cfg.Issuers, Conns: 2}, log, nil)
	if err != nil {
		return nil, errors.New("DATABASE_URL cannot be used")
	}
	if err := db.CheckSchema(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("cannot use PostgreSQL (DATABASE_URL, at %s): %w", postgres.Server(url), server.OneLine(err))
	}
	return &operator{
		db:       db,
		issuer:   cfg.RAuthURL,
		issuers:  cfg.Issuers,
		verified: cfg.Verified,
		caller:   admin.Caller{Operator: operatorName(), Via: "command"},
		service: admin.New(admin.Config{
			DB:        db,
			Issuers:   cfg.Issuers,
			Issuer:    cfg.RAuthURL,
			Audiences: cfg.RAuthAudiences,
			Log:       log,
			Embedded:  server.PackedEmbedded,
		}),
	}, nil
}

// directURL is the connection string that commands use: session locks need a direct connection.
func directURL(cfg server.Config) string { return cmp.Or(cfg.ListenURL, cfg.DatabaseURL) }

// operatorName is user@host of the process that runs a command.
func operatorName() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// withOperator runs a command that needs the database but no running service.
func withOperator(environ []string, do func(cmd *cobra.Command, args []string, o *operator) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := server.ReadConfig(environ, server.Needs{Database: true, Issuers: true})
		if err != nil {
			return err
		}
		o, err := openOperator(cmd.Context(), &cfg)
		if err != nil {
			return err
		}
		defer o.db.Close()
		return do(cmd, args, o)
	}
}
