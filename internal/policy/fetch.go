package policy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/tracing"
)

// fetchTransport checks what OPA fetches by the limits of any other bundle, before OPA reads
// it: OPA limits each file of a bundle and not all files together, and compiles without a limit.
// OPA's hook for tracing HTTP responses is the only place to do so.
type fetchTransport struct {
	http.RoundTripper
	checker *bundleChecker
}

// bundleChecker checks the bundles that one manager fetches.
type bundleChecker struct {
	engine   *Engine
	manager  atomic.Pointer[plugins.Manager]
	verdicts *lru.Cache[[sha256.Size]byte, verdict] // by hash: OPA fetches the same bundle repeatedly
}

// verdict is the result of a check. A bundle that passed needs no other check here; OPA and the gate have theirs.
type verdict struct {
	err error
	at  time.Time
}

// maxVerdicts bounds the cached verdicts: more bundles than one configuration has.
const maxVerdicts = 64

// verdictTTL is how long a failed check is cached: the cause may have been the machine.
const verdictTTL = 5 * time.Minute

var registerTransport = sync.OnceFunc(func() { tracing.RegisterHTTPTracing(fetchTransport{}) })

func (fetchTransport) NewTransport(t http.RoundTripper, o tracing.Options) http.RoundTripper {
	if len(o) == 1 {
		if ours, ok := o[0].(fetchTransport); ok {
			return fetchTransport{t, ours.checker}
		}
	}
	return t
}

func (fetchTransport) NewHandler(h http.Handler, _ string, _ tracing.Options) http.Handler { return h }

func (b fetchTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, canceledOr(r.Context(), err)
	}
	if r.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
		return resp, nil // not a bundle
	}
	packed, err := io.ReadAll(io.LimitReader(resp.Body, MaxBundle+1))
	_ = resp.Body.Close() // read up to the limit
	if err == nil {
		err = b.checker.check(r.Context(), packed)
	}
	if err != nil {
		return nil, canceledOr(r.Context(), err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(packed))
	return resp, nil
}

// errCanceled is the error of a fetch or an activation that OPA cancels: its configuration changes, or it stops.
// It is no rejection. OPA's status has only the text of an error, so the text must be unique.
var errCanceled = errors.New("canceled by a new OPA configuration or by the shutdown")

// canceledOr returns errCanceled where OPA has canceled what failed with err.
func canceledOr(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errCanceled
	}
	return err
}

// check reports why OPA must not receive a bundle.
func (f *bundleChecker) check(ctx context.Context, packed []byte) error {
	if err := CheckArchive(packed); err != nil {
		return err
	}
	if err := f.checkSignature(packed); err != nil || len(f.engine.cfg.Child) == 0 {
		return err
	}
	sum := sha256.Sum256(packed)
	if known, found := f.verdicts.Get(sum); found && (known.err == nil || time.Since(known.at) < verdictTTL) {
		return known.err
	}
	_, err := f.engine.inChild(ctx, gateJob{PartialBundle: packed})
	if _, later := errors.AsType[*RetryError](err); !later {
		f.verdicts.Add(sum, verdict{err, time.Now()})
	}
	return err
}

// checkSignature accepts a bundle that any trusted key of the configuration has signed. OPA
// verifies it again with the key of that bundle: this check protects the compilation in a child.
func (f *bundleChecker) checkSignature(packed []byte) (err error) {
	m := f.manager.Load()
	c := m.GetConfig()
	var bundles map[string]signedSource
	var discovered *signedSource
	if !isAbsent(c.Bundles) {
		err = json.Unmarshal(c.Bundles, &bundles)
	}
	if !isAbsent(c.Discovery) {
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
			return nil // it may be this one, which needs no signature
		}
		s.Signing.PublicKeys = m.PublicKeys()
		if _, err = reader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "")).WithBundleVerificationConfig(s.Signing).WithLazyLoadingMode(true).Read(); err == nil {
			return nil
		}
	}
	return err
}
