package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	bundleplugin "github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tracing"
	"sigs.k8s.io/yaml"
)

// Manager is OPA's own plugin manager: it fetches bundles, verifies them and
// activates them into a staging store. No request reads that store: its commit
// submits its content to the engine, and fails where the engine rejects it, so
// that OPA's status reports the reason.
type Manager struct {
	m       *plugins.Manager
	figures metrics.Metrics
}

// bundleSource is the prefix of a source that OPA fetched; the names of bundles follow.
// discoverySource is the prefix for its discovered configuration.
const (
	bundleSource    = "bundle "
	discoverySource = bundleSource + "of the configuration: "
)

const listenerName = "iam-service"

// statusListener reports OPA's status of bundles and of the discovered configuration.
type statusListener struct {
	ctx    context.Context
	engine *Engine
	store  *staging

	mu      sync.Mutex
	failing map[string]bool // by source; under mu
}

// attach listens to the bundle plugin, if there is one yet.
func (l *statusListener) attach(m *plugins.Manager) {
	if p := bundleplugin.Lookup(m); p != nil {
		p.Register(listenerName, func(s bundleplugin.Status) { l.handle(bundleSource, s, p) })
	}
}

func (l *statusListener) handle(prefix string, s bundleplugin.Status, p *bundleplugin.Plugin) {
	if strings.HasSuffix(s.Message, errCanceled.Error()) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	source := prefix + s.Name
	l.failing[source] = s.Code != ""
	maps.DeleteFunc(l.failing, func(source string, fails bool) bool {
		removed := p != nil && !strings.HasPrefix(source, discoverySource) && p.Config().Bundles[strings.TrimPrefix(source, bundleSource)] == nil
		return !fails || removed
	})
	switch {
	case len(l.failing) == 0 && prefix == discoverySource && l.store.rejected.Load(): // the status of that bundle follows
	case len(l.failing) == 0:
		l.engine.clearRejectionOf(bundleSource)
	case s.Code == "": // another one still fails
	case prefix == bundleSource && l.store.rejected.Swap(false): // the gate has reported it
	default:
		l.engine.Reject(l.ctx, source, "", errors.New(statusText(s)))
	}
}

// StartManager runs an OPA configuration, in JSON or YAML, until Stop.
func StartManager(ctx context.Context, e *Engine, text []byte, id string) (*Manager, error) {
	text, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML: %w", err)
	}
	if err := checkConfig(text, e.cfg.SignedOnly); err != nil {
		return nil, err
	}
	log := e.cfg.Log.With(slog.String("part", "opa")).Handler()
	store := &staging{Store: inmem.New(), engine: e}
	verdicts, err := lru.New[[sha256.Size]byte, verdict](maxVerdicts)
	if err != nil {
		return nil, err
	}
	checker := &bundleChecker{engine: e, verdicts: verdicts}
	registerTransport()
	m, err := plugins.New(text, id, store,
		plugins.Logger(logging.NewLoggerFromSlogHandler(warningsOnly{log}, logging.Warn)),
		plugins.ConsoleLogger(logging.NewLoggerFromSlogHandler(log, logging.Info)),
		plugins.WithHooks(hooks.New(configLimits{})),
		plugins.EnablePrintStatements(false),
		plugins.WithStoreCloseOnStop(false),
		plugins.WithDistributedTracingOpts(tracing.NewOptions(fetchTransport{checker: checker})),
		plugins.WithParserOptions(ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true}))
	if err != nil {
		return nil, err
	}
	store.manager = m
	checker.manager.Store(m)
	figures := metrics.New()
	d, err := discovery.New(m, discovery.Metrics(figures), discovery.Hooks(hooks.New(configLimits{})))
	if err != nil {
		return nil, err
	}
	m.Register(discovery.Name, d)
	listener := &statusListener{ctx: ctx, engine: e, store: store, failing: map[string]bool{}}
	listener.attach(m)
	d.RegisterListener(listenerName, func(s bundleplugin.Status) {
		listener.attach(m) // the first discovered configuration creates the plugin
		listener.handle(discoverySource, s, nil)
	})
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return &Manager{m, figures}, nil
}

// LogsDecisions reports whether the configuration has decision_logs.
func (m *Manager) LogsDecisions() bool { return logs.Lookup(m.m) != nil }

// DecisionsDropped counts the decisions that OPA's own log has dropped since the start: they
// did not fit into its buffer, or were too large to upload.
func (m *Manager) DecisionsDropped() int64 {
	n := uint64(0)
	for _, name := range []string{
		"decision_logs_dropped_rate_limit_exceeded", "decision_logs_dropped_buffer_size_limit_exceeded", "decision_logs_dropped_buffer_size_limit_bytes_exceeded",
		"decision_logs_encoding_failure",
	} {
		if v, ok := m.figures.Counter(name).Value().(uint64); ok {
			n += v
		}
	}
	return int64(n)
}

// LoggedDecision is a decision for OPA's own decision log.
type LoggedDecision struct {
	ID       string    `json:"-"`
	Revision string    `json:"-"`
	At       time.Time `json:"-"`
	Path     string    `json:"-"` // of the rule

	Input  any            `json:"input"`
	Result any            `json:"result"`
	Custom map[string]any `json:"custom"`
}

// LogDecision passes one decision to OPA's own decision log, which masks, buffers and uploads
// it as configured, and takes ownership of the documents.
func (m *Manager) LogDecision(ctx context.Context, d LoggedDecision) error {
	p := logs.Lookup(m.m)
	if p == nil {
		return errors.New("OPA_CONFIG has no decision_logs")
	}
	return p.Log(ctx, &server.Info{
		DecisionID: d.ID, Path: d.Path, Timestamp: d.At, Input: &d.Input, Results: &d.Result,
		Bundles: map[string]server.BundleInfo{"iam": {Revision: d.Revision}}, Custom: d.Custom,
	})
}

// Stop stops all fetching.
func (m *Manager) Stop(ctx context.Context) { m.m.Stop(ctx) }

// warningsOnly drops OPA's messages about each success.
type warningsOnly struct{ slog.Handler }

func (warningsOnly) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (q warningsOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warningsOnly{q.Handler.WithAttrs(attrs)}
}
func (q warningsOnly) WithGroup(name string) slog.Handler {
	return warningsOnly{q.Handler.WithGroup(name)}
}

func statusText(s bundleplugin.Status) string {
	text := s.Message
	for _, err := range s.Errors {
		text += "; " + err.Error()
	}
	if s.HTTPCode != "" {
		text += " (HTTP " + s.HTTPCode.String() + ")"
	}
	return strings.TrimPrefix(text, "; ")
}
