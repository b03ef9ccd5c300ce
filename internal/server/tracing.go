package server

import (
	"context"
	"os"
	"time"

	"iam-service/internal/telemetry/tracing"
)

// tracing are the settings of OpenTelemetry.
func (cfg *Config) tracing() tracing.Config {
	return tracing.Config{
		Disabled: cfg.TracingDisabled,
		Exporter: cfg.TracesExporter,
		Protocol: cfg.OTLPProtocol,
		Endpoint: cfg.OTLPEndpoint,
		Traces:   cfg.OTLPTracesEndpoint,
		Headers:  cfg.OTLPHeaders,
		Sampler:  cfg.TracesSampler,
		Ratio:    cfg.TracesSamplerArg,
		Service:  cfg.TracesService,
	}
}

func (cfg *Config) checkTracing(fault func(string, ...any)) {
	c := cfg.tracing()
	c.Check(fault)
}

// lastSpans is how long a stop waits for the spans that are pending.
const lastSpans = 2 * time.Second

// openTracing opens the exporter of spans, if the settings name one. It waits for no collector.
func (s *service) openTracing(start context.Context) error {
	c := s.cfg.tracing()
	c.Version, c.Log, c.Console, c.Registry = s.build.Version, s.log, os.Stdout, s.registry
	var err error
	if s.tracing, err = tracing.Open(start, c); err != nil {
		return err
	}
	s.requests.Exemplars = s.tracing.On()
	s.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		_ = s.tracing.Close(ctx) // failures of the exporter are logged
	})
	return nil
}
