package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc"

	"iam-service/internal/gateway"
)

func (cfg *Config) extAuthzTLS() *tlsFiles {
	return &tlsFiles{prefix: "EXT_AUTHZ", cert: cfg.ExtAuthzCertFile, key: cfg.ExtAuthzKeyFile, clientCA: cfg.ExtAuthzClientCAFile}
}

func (cfg *Config) checkExtAuthz(fault func(string, ...any)) {
	if cfg.ExtAuthzAddr != "" {
		address(fault, "EXT_AUTHZ_ADDR", cfg.ExtAuthzAddr)
	} else if cfg.ExtAuthzCertFile != "" {
		fault("EXT_AUTHZ_CERT_FILE is set, and EXT_AUTHZ_ADDR is missing")
	}
	cfg.extAuthzTLS().check(fault)
}

// openExtAuthz creates the server of the listener for Envoy's protocol.
func (s *service) openExtAuthz(context.Context) error {
	if s.extAuthzListener == nil {
		return nil
	}
	var transport *tls.Config
	if files := s.cfg.extAuthzTLS(); files.enabled() {
		certs, err := files.open(s.log, "h2")
		if err != nil {
			return err
		}
		transport = certs.config()
		s.loops.run("ext_authz_certificate", func() { certs.run(s.work) })
	}
	e := &extAuthz{server: s.gateway.NewExtAuthz(transport), listener: s.extAuthzListener}
	s.loops.run("ext_authz_health", func() { e.followReadiness(s.work, s.ops.Ready) })
	s.requests.Prepare(gateway.EnrichPath, gateway.ExtAuthzName, http.MethodGet, http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	s.servers = slices.Insert(s.servers, len(s.servers)-1, answering(e)) // the operators' listener ends last
	return nil
}

// extAuthz is the listener for Envoy's protocol.
type extAuthz struct {
	server   *gateway.ExtAuthz
	listener net.Listener
}

func (e *extAuthz) serve() error {
	if err := e.server.Serve(e.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("ext_authz listener: %w", err)
	}
	return nil
}

func (e *extAuthz) drain() { e.server.Drain() }

func (e *extAuthz) stop(ctx context.Context) error {
	if err := e.server.Stop(ctx); err != nil {
		return fmt.Errorf("ext_authz listener: requests were cut off: %w", err)
	}
	return nil
}

// healthEvery is how long the gRPC health may lag behind readiness.
const healthEvery = 500 * time.Millisecond

func (e *extAuthz) followReadiness(ctx context.Context, ready func() bool) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		e.server.SetServing(ready())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
