package server

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry"
	"iam-service/internal/token"
	"iam-service/internal/token/signals"
)

// checkSignals reads SIGNALS_FILE, and the secrets that it names.
func (cfg *Config) checkSignals(fault func(string, ...any)) {
	if cfg.SignalsFile == "" {
		return
	}
	content, err := os.ReadFile(cfg.SignalsFile)
	if err != nil {
		fault("SIGNALS_FILE cannot be read: %v", err)
		return
	}
	streams, faults := signals.Parse(content, signals.Sources{
		Issuers:  cfg.Issuers,
		Env:      cfg.getenv,
		ReadFile: os.ReadFile,
		BadURL:   func(u string) string { return badIssuerURL(u, cfg.RAuthInsecureHTTP) },
	})
	for _, f := range faults {
		fault("SIGNALS_FILE: %s", f)
	}
	if len(faults) == 0 {
		cfg.Streams = streams
	}
}

// openSignals opens the receiver of signals, if SIGNALS_FILE is set. No transmitter stops a start: without its keys its
// signals are 503, and it sends them again.
func (s *service) openSignals(context.Context) error {
	cfg := &s.cfg
	if len(cfg.Streams) == 0 {
		return nil
	}
	accepted, rejected := signals.Counters(s.registry, cfg.Streams)
	receiver, err := signals.New(signals.Config{
		Streams: cfg.Streams,
		Client:  s.tracing.Client(token.NewClient()),
		MaxAge:  cfg.JWKSMaxAge,
		Log:     s.log,
		OnError: s.providerError,
		KeyStore: func(of *signals.Stream) token.KeyStore {
			return streamKeys{s.db, "signals:" + of.Name + ":" + of.JWKSURI}
		},
		Accepted: accepted,
		Rejected: rejected,
	})
	if err != nil {
		return err
	}
	s.signals = receiver
	s.onClose(receiver.Close)
	s.loops.run("signals_keys", func() { receiver.KeepFresh(s.work) })
	var streams refreshed[[]iam.SignalStream]
	s.loops.run("signals_figures", func() { streams.run(s.work, s.db.SignalStreams) })
	receiver.Register(s.registry, func(name string) iam.SignalStream {
		for _, stream := range streams.get() {
			if stream.Name == name {
				return stream
			}
		}
		return iam.SignalStream{}
	})
	for i, k := range receiver.Keys() {
		s.check(telemetry.Check{Name: "signals of " + k.Stream, Degraded: true, Ask: func() error {
			keys := receiver.Keys()[i]
			if !keys.Available {
				return errors.New("there are no keys of its transmitter")
			}
			return keys.Err
		}})
	}
	return nil
}

// streamKeys stores the keys of a transmitter apart from those of the issuer of the same URL, whose document of
// discovery is another one.
type streamKeys struct {
	token.KeyStore
	name string
}

// SaveKeys implements token.KeyStore.
func (k streamKeys) SaveKeys(ctx context.Context, issuer string, discovery, jwks []byte, at time.Time) error {
	return k.KeyStore.SaveKeys(ctx, k.name+":"+issuer, discovery, jwks, at)
}

// LoadKeys implements token.KeyStore.
func (k streamKeys) LoadKeys(ctx context.Context, issuer string) (discovery, jwks []byte, at time.Time, err error) {
	return k.KeyStore.LoadKeys(ctx, k.name+":"+issuer)
}

// environment finds a variable in the environment that the settings are read from.
func environment(environ []string) func(name string) string {
	return func(name string) string {
		for _, v := range environ {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}
}
