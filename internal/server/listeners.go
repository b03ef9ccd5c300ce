package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"iam-service/internal/problem"
)

// openListeners opens the addresses that are set. Nothing is served yet.
func (s *service) openListeners(context.Context) error {
	for _, l := range []struct {
		variable, addr string
		to             *net.Listener
	}{
		{variable: "GATEWAY_ADDR", addr: s.cfg.GatewayAddr, to: &s.gatewayListener},
		{variable: "ADMIN_ADDR", addr: s.cfg.AdminAddr, to: &s.adminListener},
		{variable: "OPS_ADDR", addr: s.cfg.OpsAddr, to: &s.opsListener},
		{variable: "EXT_AUTHZ_ADDR", addr: s.cfg.ExtAuthzAddr, to: &s.extAuthzListener},
	} {
		if l.addr == "" {
			continue // it is off; that an address must be set is checked with the settings
		}
		opened, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("cannot listen on %s (%s): %w", l.addr, l.variable, err)
		}
		s.onClose(func() { _ = opened.Close() }) // closed already, unless the start failed
		*l.to = opened
	}
	s.requests = problem.NewMetrics(s.registry)
	return nil
}

// serve serves requests on all listeners until ctx ends or one fails, and drains.
func (s *service) serve(ctx context.Context, ready func(Addrs)) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, l := range s.servers {
		group.Go(l.serve)
	}
	group.Go(func() error {
		<-groupCtx.Done()
		return s.drain(ctx)
	})
	addrs := Addrs{
		Gateway: s.gatewayListener.Addr().String(),
		Admin:   s.adminListener.Addr().String(),
		Ops:     s.opsListener.Addr().String(),
	}
	if s.extAuthzListener != nil {
		addrs.ExtAuthz = s.extAuthzListener.Addr().String()
	}
	s.log.InfoContext(ctx, "ready", slog.String("gateway", addrs.Gateway), slog.String("admin", addrs.Admin),
		slog.String("ops", addrs.Ops), slog.String("ext_authz", addrs.ExtAuthz), slog.String("version", s.build.Version))
	if ready != nil {
		ready(addrs)
	}
	return group.Wait()
}

// drain stops in the order in which callers notice least: not ready, serve on until balancers know, let the requests in
// flight end; the operators' listener last. Meanwhile each response closes its connection, so that few are left that a
// caller could be using again when they are closed.
func (s *service) drain(ctx context.Context) error {
	s.ops.Stopping()
	for _, l := range s.servers {
		l.drain()
	}
	if ctx.Err() != nil { // a signal, and no failure
		s.log.InfoContext(ctx, "stopping", slog.Duration("serving_on_for", s.cfg.ShutdownDelay))
		time.Sleep(s.cfg.ShutdownDelay)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownGrace)
	defer cancel()
	var errs []error
	for _, l := range s.servers {
		errs = append(errs, l.stop(grace))
	}
	s.log.InfoContext(ctx, "stopped")
	return errors.Join(errs...)
}

// answering is a listener with its handler.
type answering interface {
	serve() error                   // until stop
	drain()                         // callers are to connect elsewhere; requests are still served
	stop(ctx context.Context) error // requests in flight end, or are cut off with ctx, which is an error
}

// listener is an address with its handler.
type listener struct {
	name     string
	http     *http.Server
	l        net.Listener
	draining atomic.Bool // responses close their connections
}

// writeTimeouts are how long a response may take on each listener, from the request's headers to the last byte: a caller
// that stops reading holds nothing for longer. Administration has changes of minutes, operators take profiles.
var writeTimeouts = map[string]time.Duration{
	"gateway": 30 * time.Second,
	"admin":   10 * time.Minute,
	"ops":     2 * time.Minute,
}

func newListener(name string, l net.Listener, h http.Handler, log *slog.Logger) *listener {
	s := &listener{name: name, l: l}
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.draining.Load() {
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

func (s *listener) drain() { s.draining.Store(true) }

func (s *listener) stop(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close() // the rest is cut off
		return fmt.Errorf("%s listener: requests were cut off: %w", s.name, err)
	}
	return nil
}

func (s *listener) serve() error {
	if err := s.http.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s listener: %w", s.name, err)
	}
	return nil
}
