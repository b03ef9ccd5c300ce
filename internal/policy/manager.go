package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/config"
	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	bundleplugin "github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tracing"
	"sigs.k8s.io/yaml"

	"iam-service/internal/iam"
)

// Manager is OPA's own plugin manager: it fetches bundles, verifies them and
// activates them into a staging store. No request reads that store: its commit
// offers what it would hold to the engine, and is refused when the engine
// refuses, so that OPA's status says why.
type Manager struct {
	m       *plugins.Manager
	figures metrics.Metrics
}

// byOPA begins the source of what OPA has fetched; the names of bundles follow. So does
// byDiscovery, of the configuration that it discovers.
const (
	byOPA       = "bundle "
	byDiscovery = byOPA + "of the configuration: "
)

const listenerName = "iam-service"

// listener reports what OPA says of bundles, and of the configuration that it discovers.
type listener struct {
	ctx    context.Context
	engine *Engine
	store  *staging

	mu  sync.Mutex
	bad map[string]bool // sources; under mu
}

// attach listens to the bundle plugin, if there is one yet.
func (l *listener) attach(m *plugins.Manager) {
	if p := bundleplugin.Lookup(m); p != nil {
		p.Register(listenerName, func(s bundleplugin.Status) { l.hear(byOPA, s, p) })
	}
}

func (l *listener) hear(way string, s bundleplugin.Status, p *bundleplugin.Plugin) {
	l.mu.Lock()
	defer l.mu.Unlock()
	source := way + s.Name
	l.bad[source] = s.Code != ""
	maps.DeleteFunc(l.bad, func(source string, is bool) bool {
		gone := p != nil && !strings.HasPrefix(source, byDiscovery) && p.Config().Bundles[strings.TrimPrefix(source, byOPA)] == nil
		return !is || gone
	})
	switch {
	case len(l.bad) == 0:
		l.engine.settled(byOPA)
	case s.Code == "": // another one is bad still
	case way == byOPA && l.store.refused.Swap(false): // the gate has said it already
	default:
		l.engine.Refuse(l.ctx, source, "", errors.New(statusText(s)))
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
	checked, err := lru.New[[sha256.Size]byte, verdict](checkedMost)
	if err != nil {
		return nil, err
	}
	fetched := &fetched{engine: e, checked: checked}
	bound()
	m, err := plugins.New(text, id, store,
		plugins.Logger(logging.NewLoggerFromSlogHandler(quiet{log}, logging.Warn)), plugins.ConsoleLogger(logging.NewLoggerFromSlogHandler(log, logging.Info)), plugins.WithHooks(hooks.New(bounded{})),
		plugins.EnablePrintStatements(false), plugins.WithStoreCloseOnStop(false), plugins.WithDistributedTracingOpts(tracing.NewOptions(bounds{fetched: fetched})),
		plugins.WithParserOptions(ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true}))
	if err != nil {
		return nil, err
	}
	store.manager = m
	fetched.manager.Store(m)
	figures := metrics.New()
	d, err := discovery.New(m, discovery.Metrics(figures), discovery.Hooks(hooks.New(bounded{})))
	if err != nil {
		return nil, err
	}
	m.Register(discovery.Name, d)
	listener := &listener{ctx: ctx, engine: e, store: store, bad: map[string]bool{}}
	listener.attach(m)
	d.RegisterListener(listenerName, func(s bundleplugin.Status) {
		listener.attach(m) // the first discovered configuration brings the plugin
		listener.hear(byDiscovery, s, nil)
	})
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return &Manager{m, figures}, nil
}

// LogsDecisions reports whether the configuration has decision_logs.
func (m *Manager) LogsDecisions() bool { return logs.Lookup(m.m) != nil }

// DecisionsDropped is how many decisions OPA's own log has dropped since the start: they did
// not fit into its buffer, or were too large to be uploaded.
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

// LogDecision hands one decision to OPA's own decision log, which masks, buffers and uploads
// as the configuration says. The documents are the callee's from then on.
func (m *Manager) LogDecision(ctx context.Context, id, revision string, at time.Time, input, result any, custom map[string]any) error {
	p := logs.Lookup(m.m)
	if p == nil {
		return errors.New("OPA_CONFIG has no decision_logs")
	}
	return p.Log(ctx, &server.Info{
		DecisionID: id, Path: "iam/claims/decision", Timestamp: at, Input: &input, Results: &result,
		Bundles: map[string]server.BundleInfo{"iam": {Revision: revision}}, Custom: custom,
	})
}

// Stop ends all fetching.
func (m *Manager) Stop(ctx context.Context) { m.m.Stop(ctx) }

// Fetches reports whether an OPA configuration brings policies, and not only tells others of
// decisions and status.
func Fetches(config []byte) (bool, error) {
	var c struct {
		Bundles   map[string]json.RawMessage `json:"bundles"`
		Discovery json.RawMessage            `json:"discovery"`
	}
	if err := yaml.Unmarshal(config, &c); err != nil {
		return false, fmt.Errorf("it is neither JSON nor YAML: %w", err)
	}
	return len(c.Bundles) > 0 || c.Discovery != nil, nil
}

// maxWaiting is how many bytes of decisions may wait to be uploaded.
const maxWaiting = 32 << 20

// bounded gives each file of a bundle a size that it may have, and the log of decisions one
// that it may take up, unless the configuration says another: the one of the start, and one
// that is discovered.
type bounded struct{}

func (b bounded) OnConfigDiscovery(ctx context.Context, c *config.Config) (*config.Config, error) {
	return b.OnConfig(ctx, c)
}

func (bounded) OnConfig(_ context.Context, c *config.Config) (*config.Config, error) {
	bound := func(part *json.RawMessage, change func(map[string]any)) error {
		if absent(*part) {
			return nil
		}
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(*part))
		d.UseNumber()
		err := d.Decode(&m)
		if err == nil {
			change(m)
			*part, err = json.Marshal(m)
		}
		return err
	}
	return c, errors.Join(onlyHTTP(c),
		bound(&c.Bundles, func(bundles map[string]any) {
			for _, b := range bundles {
				if b, ok := b.(map[string]any); ok && b["size_limit_bytes"] == nil {
					b["size_limit_bytes"] = MaxBundle
				}
			}
		}),
		bound(&c.DecisionLogs, func(logs map[string]any) {
			reporting, _ := logs["reporting"].(map[string]any) // none: made here
			if reporting == nil {
				reporting = map[string]any{}
				logs["reporting"] = reporting
			}
			if reporting["buffer_size_limit_bytes"] == nil && reporting["buffer_type"] != "event" {
				reporting["buffer_size_limit_bytes"] = maxWaiting
			}
		}),
	)
}

// onlyHTTP refuses bundles that OPA would read without our bounds: OCI has a client of its own,
// and files have none.
func onlyHTTP(c *config.Config) error {
	type service struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	var services []service
	if !absent(c.Services) && json.Unmarshal(c.Services, &services) != nil { // a list, or by name
		var byName map[string]service
		if err := json.Unmarshal(c.Services, &byName); err != nil {
			return fmt.Errorf("services: %w", err)
		}
		services = nil
		for name, s := range byName {
			services = append(services, service{name, s.Type})
		}
	}
	var errs []error
	for _, s := range services {
		if strings.EqualFold(s.Type, "oci") {
			errs = append(errs, fmt.Errorf(`service %q has "type": "oci", whose bundles could not be checked before OPA unpacks them: serve them over HTTP or S3`, s.Name))
		}
	}
	var bundles map[string]struct {
		Resource string `json:"resource"`
	}
	if !absent(c.Bundles) {
		if err := json.Unmarshal(c.Bundles, &bundles); err != nil {
			return fmt.Errorf("bundles: %w", err)
		}
	}
	for name, b := range bundles {
		if u, err := url.Parse(b.Resource); err == nil && u.Scheme == "file" {
			errs = append(errs, fmt.Errorf(`bundle %q has a "file:" resource, which could not be checked before OPA unpacks it: name the file in POLICY_BUNDLE`, name))
		}
	}
	return errors.Join(errs...)
}

// quiet leaves out what OPA says each time that all is well.
type quiet struct{ slog.Handler }

func (quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler   { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler         { return quiet{q.Handler.WithGroup(name)} }

// bounds holds what OPA fetches to the limits of any other bundle, before OPA has it: OPA
// limits each file of a bundle and not all of them together, and compiles without a limit.
// Where it lets a tracer have a look at each answer is the one place for that.
type bounds struct {
	http.RoundTripper
	*fetched
}

// fetched is what the bounds of one manager know.
type fetched struct {
	engine  *Engine
	manager atomic.Pointer[plugins.Manager]
	checked *lru.Cache[[sha256.Size]byte, verdict] // by hash: OPA fetches the same again and again
}

// verdict is what a check of a bundle said. One that passed needs no other check; OPA and the gate have theirs.
type verdict struct {
	err error
	at  time.Time
}

// checkedMost is for how many bundles verdicts are remembered: those of one configuration.
const checkedMost = 64

// partFor is how long a refusal is remembered: what was wrong may have been the machine's fault.
const partFor = 5 * time.Minute

var bound = sync.OnceFunc(func() { tracing.RegisterHTTPTracing(bounds{}) })

func (bounds) NewTransport(t http.RoundTripper, o tracing.Options) http.RoundTripper {
	if len(o) == 1 {
		if ours, ok := o[0].(bounds); ok {
			return bounds{t, ours.fetched}
		}
	}
	return t
}

func (bounds) NewHandler(h http.Handler, _ string, _ tracing.Options) http.Handler { return h }

func (b bounds) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
		return resp, err // no bundle
	}
	packed, err := io.ReadAll(io.LimitReader(resp.Body, MaxBundle+1))
	_ = resp.Body.Close() // as much of it was read as may be
	if err != nil {
		return nil, err
	}
	if err := b.check(r.Context(), packed); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(packed))
	return resp, nil
}

// check says why OPA must not have a bundle.
func (f *fetched) check(ctx context.Context, packed []byte) error {
	if err := CheckArchive(packed); err != nil {
		return err
	}
	if err := f.vouched(packed); err != nil || len(f.engine.cfg.Child) == 0 {
		return err
	}
	sum := sha256.Sum256(packed)
	if known, found := f.checked.Get(sum); found && (known.err == nil || time.Since(known.at) < partFor) {
		return known.err
	}
	err := f.engine.inChild(ctx, job{Part: packed})
	if _, later := errors.AsType[*LaterError](err); !later {
		f.checked.Add(sum, verdict{err, time.Now()})
	}
	return err
}

// vouched says why nobody whom the configuration trusts has signed a bundle. OPA verifies
// it once more, for the bundle that it is: this is for what compiles it before that.
func (f *fetched) vouched(packed []byte) (err error) {
	m := f.manager.Load()
	c := m.GetConfig()
	var bundles map[string]signed
	var discovered *signed
	if !absent(c.Bundles) {
		err = json.Unmarshal(c.Bundles, &bundles)
	}
	if !absent(c.Discovery) {
		err = errors.Join(err, json.Unmarshal(c.Discovery, &discovered))
	}
	if err != nil {
		return err
	}
	signers := slices.Collect(maps.Values(bundles))
	if discovered != nil {
		signers = append(signers, *discovered)
	}
	for _, s := range signers {
		if s.Signing == nil {
			return nil // it may be this one, and need no signature
		}
		s.Signing.PublicKeys = m.PublicKeys()
		if _, err = reader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "")).WithBundleVerificationConfig(s.Signing).WithLazyLoadingMode(true).Read(); err == nil {
			return nil
		}
	}
	return err
}

// signed is the part of a bundle's configuration that says who must have signed it.
type signed struct {
	Signing *bundle.VerificationConfig `json:"signing"`
}

// checkConfig refuses what OPA would accept and should not.
func checkConfig(config []byte, signedOnly bool) error {
	var c struct {
		Bundle       json.RawMessage            `json:"bundle"`
		Keys         map[string]json.RawMessage `json:"keys"`
		Bundles      map[string]signed          `json:"bundles"`
		Discovery    *signed                    `json:"discovery"`
		DecisionLogs json.RawMessage            `json:"decision_logs"`
		Status       json.RawMessage            `json:"status"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	var errs []error
	if c.Bundle != nil {
		errs = append(errs, errors.New(`it uses "bundle", which OPA has replaced: write "bundles"`))
	}
	if len(c.Bundles) == 0 && c.Discovery == nil && c.DecisionLogs == nil && c.Status == nil {
		errs = append(errs, errors.New(`it has neither "bundles" nor "discovery", "decision_logs" or "status": it does nothing`))
	}
	for name, b := range c.Bundles {
		if len(c.Keys) > 0 && b.Signing == nil {
			errs = append(errs, fmt.Errorf(`bundle %q has no "signing" although there are "keys": OPA would take it unsigned`, name))
		} else if signedOnly && b.Signing == nil {
			errs = append(errs, fmt.Errorf(`bundle %q has no "signing": OPA would take it unsigned; give it a key, or allow that with POLICY_ALLOW_UNSIGNED=1`, name))
		} else if b.Signing != nil && b.Signing.KeyID == "" {
			errs = append(errs, fmt.Errorf(`bundle %q has a "signing" without "keyid": name one of "keys"`, name))
		}
	}
	if signedOnly && c.Discovery != nil && c.Discovery.Signing == nil {
		errs = append(errs, errors.New(`"discovery" has no "signing": whoever answers there could name any bundle; give it a key, or allow that with POLICY_ALLOW_UNSIGNED=1`))
	} else if c.Discovery != nil && c.Discovery.Signing != nil && c.Discovery.Signing.KeyID == "" {
		errs = append(errs, errors.New(`"discovery" has a "signing" without "keyid": name one of "keys"`))
	}
	return errors.Join(errs...)
}

// absent reports whether a part of a configuration is not there; null is as good as that.
func absent(part json.RawMessage) bool { return len(part) == 0 || string(part) == "null" }

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

// staging is what the plugin manager writes to. All but its transactions is the
// store within.
type staging struct {
	storage.Store
	engine  *Engine
	manager *plugins.Manager
	refused atomic.Bool // the gate has refused what was offered last, and said so
}

// stagingTxn remembers the context in which the bundle plugin leaves its compiler:
// that marks an activation.
type stagingTxn struct {
	storage.Transaction
	params *storage.Context
	write  bool
}

func within(txn storage.Transaction) storage.Transaction {
	if t, ok := txn.(*stagingTxn); ok {
		return t.Transaction
	}
	return txn
}

func (s *staging) NewTransaction(ctx context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	inner, err := s.Store.NewTransaction(ctx, params...)
	if err != nil {
		return nil, err
	}
	t := &stagingTxn{Transaction: inner}
	if len(params) > 0 {
		t.params, t.write = params[0].Context, params[0].Write
	}
	return t, nil
}

// Commit is where OPA would put a bundle in force.
func (s *staging) Commit(ctx context.Context, txn storage.Transaction) error {
	if t, ok := txn.(*stagingTxn); ok && t.write && t.params != nil && plugins.GetCompilerOnContext(t.params) != nil {
		if err := s.offer(ctx, txn); err != nil {
			s.Store.Abort(ctx, within(txn))
			return err
		}
	}
	return s.Store.Commit(ctx, within(txn))
}

// offer makes one candidate of all that the store would hold.
func (s *staging) offer(ctx context.Context, txn storage.Transaction) error {
	c := &Candidate{Modules: map[string]string{}, Verified: iam.VerifiedByNobody}
	names, err := bundle.ReadBundleNamesFromStore(ctx, s, txn)
	if storage.IsNotFound(err) || err == nil && len(names) == 0 {
		return nil // the store as it is at the start
	}
	if err != nil {
		return err
	}
	slices.Sort(names) // one policy has one digest, in whichever order its parts came
	whole, signed, err := s.whole(names)
	if err != nil || !whole {
		return err
	}
	if signed {
		c.Verified = iam.VerifiedByOPA
	}
	for _, name := range names {
		roots, err := bundle.ReadBundleRootsFromStore(ctx, s, txn, name)
		if err != nil {
			return err
		}
		c.Roots = append(c.Roots, roots...)
		revision, err := bundle.ReadBundleRevisionFromStore(ctx, s, txn, name)
		if err == nil && revision != "" {
			c.Name = strings.TrimPrefix(c.Name+"+"+revision, "+")
		}
	}
	slices.Sort(c.Roots)
	c.Source = byOPA + strings.Join(names, ", ")
	ids, err := s.ListPolicies(ctx, txn)
	if err != nil {
		return err
	}
	for _, id := range ids {
		source, err := s.GetPolicy(ctx, txn, id)
		if err != nil {
			return err
		}
		if len(names) == 1 {
			id = strings.TrimPrefix(id, names[0]+"/") // as it is called where the bundle comes in another way
		}
		c.Modules[id] = string(source)
	}
	if c.Data, err = s.snapshot(ctx, txn); err != nil {
		return err
	}
	if err := c.takeCarried(); err != nil {
		return err
	}
	err = s.engine.Offer(ctx, c)
	s.refused.Store(err != nil)
	return err
}

// whole reports whether all bundles of the configuration that is in force, a discovered one
// too, are in the store: a part of a policy is none, and could lack what denies. Signed
// reports whether OPA has verified each of them. It fails where one needs no signature and
// should.
func (s *staging) whole(names []string) (whole, signed bool, err error) {
	p := bundleplugin.Lookup(s.manager)
	if p == nil {
		return true, false, nil
	}
	whole, signed = true, true
	for name, source := range p.Config().Bundles {
		if source.Signing == nil || source.Signing.KeyID == "" {
			signed = false
			if s.engine.cfg.SignedOnly {
				return false, false, fmt.Errorf(`bundle %q has no "signing" with a "keyid": nobody vouches for it; give it a key, or allow that with POLICY_ALLOW_UNSIGNED=1`, name)
			}
		}
		whole = whole && slices.Contains(names, name)
	}
	return whole, signed, nil
}

// snapshot is a deep copy of the data, without what OPA keeps there for itself.
func (s *staging) snapshot(ctx context.Context, txn storage.Transaction) (map[string]any, error) {
	root, err := s.Read(ctx, txn, storage.Path{})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(root)
	if err != nil {
		return nil, err
	}
	var data map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // as bundles are read: a large number stays what it is
	if err := d.Decode(&data); err != nil {
		return nil, err
	}
	delete(data, "system")
	return data, nil
}

func (s *staging) Read(ctx context.Context, txn storage.Transaction, path storage.Path) (any, error) {
	return s.Store.Read(ctx, within(txn), path)
}

func (s *staging) Write(ctx context.Context, txn storage.Transaction, op storage.PatchOp, path storage.Path, v any) error {
	return s.Store.Write(ctx, within(txn), op, path, v)
}

func (s *staging) Truncate(ctx context.Context, txn storage.Transaction, params storage.TransactionParams, it storage.Iterator) error {
	return s.Store.Truncate(ctx, within(txn), params, it)
}

func (s *staging) Abort(ctx context.Context, txn storage.Transaction) {
	s.Store.Abort(ctx, within(txn))
}

func (s *staging) ListPolicies(ctx context.Context, txn storage.Transaction) ([]string, error) {
	return s.Store.ListPolicies(ctx, within(txn))
}

func (s *staging) GetPolicy(ctx context.Context, txn storage.Transaction, id string) ([]byte, error) {
	return s.Store.GetPolicy(ctx, within(txn), id)
}

func (s *staging) UpsertPolicy(ctx context.Context, txn storage.Transaction, id string, b []byte) error {
	return s.Store.UpsertPolicy(ctx, within(txn), id, b)
}

func (s *staging) DeletePolicy(ctx context.Context, txn storage.Transaction, id string) error {
	return s.Store.DeletePolicy(ctx, within(txn), id)
}

// Register wraps the trigger, which otherwise would be handed a transaction that
// the manager does not know.
func (s *staging) Register(ctx context.Context, txn storage.Transaction, config storage.TriggerConfig) (storage.TriggerHandle, error) {
	if on := config.OnCommit; on != nil {
		config.OnCommit = func(ctx context.Context, inner storage.Transaction, event storage.TriggerEvent) {
			t := &stagingTxn{Transaction: inner}
			if event.Context != nil {
				t.params = event.Context
			}
			on(ctx, t, event)
		}
	}
	h, err := s.Store.Register(ctx, within(txn), config)
	return stagingHandle{h}, err
}

type stagingHandle struct{ storage.TriggerHandle }

func (h stagingHandle) Unregister(ctx context.Context, txn storage.Transaction) {
	h.TriggerHandle.Unregister(ctx, within(txn))
}
