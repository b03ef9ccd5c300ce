// Package devstack is everything the service needs, for a machine that has none
// of it: a private PostgreSQL, NATS with JetStream in process, a development
// R-Auth, and sample data.
//
// It serves development and tests alone; the import table keeps it out of the
// program that goes to production.
package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/devrauth"
)

// Stack is what runs.
type Stack struct {
	Postgres *devpg.Server
	NATS     *server.Server
	RAuth    *devrauth.Server

	rauthHTTP *http.Server
}

// Options of Start.
type Options struct {
	Dir       string // everything that survives a restart lives below it
	RAuthAddr string // host:port; the issuer is http://host:port, and facts name it

	ConsoleURL string // CONSOLE_URL, for the redirect URI of its client
	Log        *slog.Logger
}

// Audiences of the development R-Auth's tokens: gateways, or the admin API.
const (
	Audience      = "iam-gateway"
	AdminAudience = "iam-admin"
)

// Start starts all parts. Stop them in any case that returns no error.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{}
	if err := s.start(ctx, o); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, o Options) error {
	l, err := net.Listen("tcp", o.RAuthAddr)
	if err != nil {
		return fmt.Errorf("the development R-Auth cannot listen on %s (choose another address with --rauth): %w", o.RAuthAddr, err)
	}
	s.RAuth, err = devrauth.New("http://"+l.Addr().String(), Audience)
	if err != nil {
		return err
	}
	s.RAuth.Users, s.RAuth.About, s.RAuth.Clients = sampleTokens(), sampleAbout, sampleClients()
	s.RAuth.Clients = append(s.RAuth.Clients, consoleClient(o.ConsoleURL))
	s.rauthHTTP = &http.Server{Handler: s.RAuth.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.rauthHTTP.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("the development R-Auth ended", slog.Any("err", err))
		}
	}()

	if s.NATS, err = startNATS(filepath.Join(o.Dir, "nats")); err != nil {
		return err
	}
	s.Postgres, err = devpg.Start(ctx, devpg.Options{
		Dir: filepath.Join(o.Dir, "postgres"), Progress: os.Stderr, Settings: []string{"synchronous_commit=off", "max_connections=100"},
	})
	return err
}

// startNATS runs a server with JetStream on a free loopback port.
func startNATS(dir string) (*server.Server, error) {
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("NATS in process: %w", err)
	}
	go ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		ns.Shutdown()
		return nil, errors.New("NATS in process does not respond")
	}
	return ns, nil
}

// Stop stops all parts and waits for their end.
func (s *Stack) Stop() {
	if s.Postgres != nil {
		s.Postgres.Stop()
	}
	if s.NATS != nil {
		s.NATS.Shutdown()
		s.NATS.WaitForShutdown()
	}
	if s.rauthHTTP != nil {
		_ = s.rauthHTTP.Close() // development: no caller waits for its responses
	}
}
