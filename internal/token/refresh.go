package token

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"iam-service/internal/iam"
)

// Start gets the first keys of all issuers. It returns when the first issuer's are
// available; until then it retries, at most until the given time or the end of ctx. While
// that issuer is unavailable, its stored keys are used. Further issuers
// never delay a start. KeepFresh does the rest.
func (v *Verifier) Start(ctx context.Context, until time.Time) error {
	for _, i := range v.cfg.Issuers[1:] {
		is := v.issuers[i.URL]
		go func() {
			if is.refresh(ctx) != nil {
				_ = is.useStoredKeys(ctx) // it is fetched again soon
			}
		}()
	}
	return v.first.firstKeys(ctx, until)
}

// Close ends the fetches of keys that are in flight: they do not end with the request that began them. Later
// ones fail at once.
func (v *Verifier) Close() { v.end() }

// KeepFresh fetches the keys of all issuers again and again until ctx ends.
func (v *Verifier) KeepFresh(ctx context.Context) {
	var wg sync.WaitGroup
	for _, is := range v.issuers {
		wg.Go(func() { is.keepFresh(ctx) })
	}
	wg.Wait()
}

// firstKeys gets the first keys. It returns permanent errors at once.
func (is *issuer) firstKeys(ctx context.Context, until time.Time) error {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	// A silent issuer must leave time for the stored keys.
	first, cancelFirst := context.WithTimeout(waiting, min(3*time.Second, time.Until(until)/2))
	defer cancelFirst()
	err := is.refreshKeys(first)
	if err == nil || permanent(err) {
		return err
	}
	if !errors.Is(err, errNoKeys) && !unknownHost(err) && is.useStoredKeys(ctx) == nil {
		is.v.cfg.Log.WarnContext(ctx, "issuer unavailable, starting with stored keys", slog.String("issuer", is.URL), slog.Any("err", err))
		return nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		again := is.refreshKeys(waiting)
		if again == nil || permanent(again) {
			return again
		}
		if waiting.Err() == nil { // the timeout hides the cause
			err = again
		}
		select {
		case <-waiting.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// refreshKeys is refresh that fails where the issuer has no key.
func (is *issuer) refreshKeys(ctx context.Context) error {
	if err := is.refresh(ctx); err != nil {
		return err
	}
	if set := is.keys.Load(); len(set.byID) == 0 {
		return errNoKeys
	}
	return nil
}

// permanent reports whether a retry is pointless: another issuer responds, or a 4xx. A name that does
// not exist may exist later, where the issuer or the resolver starts concurrently.
func permanent(err error) bool {
	if _, ok := errors.AsType[*WrongIssuerError](err); ok {
		return true
	}
	status, ok := errors.AsType[*StatusError](err)
	return ok && status.Status < 500 && status.Status != http.StatusTooManyRequests
}

// unknownHost reports whether the issuer's name does not exist: a mistake in its URL, which stored keys must not hide.
func unknownHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// useStoredKeys uses the stored keys.
func (is *issuer) useStoredKeys(ctx context.Context) (err error) {
	defer iam.Recovered(&err)
	if is.v.cfg.KeyStore == nil {
		return errors.New("no key store")
	}
	ctx, cancel := context.WithTimeout(ctx, keyStoreTimeout)
	defer cancel()
	discovery, jwks, at, err := is.v.cfg.KeyStore.LoadKeys(ctx, is.URL)
	if err != nil {
		return err
	}
	if at.IsZero() || is.v.cfg.now().Sub(at) > is.v.cfg.MaxAge {
		return errors.New("no stored keys that are recent enough")
	}
	doc, err := parseDiscovery(discovery, is.URL)
	if err != nil {
		return err
	}
	set, err := newKeySet(doc, jwks, at)
	if err != nil {
		return err
	}
	if len(set.byID) == 0 {
		return errNoKeys
	}
	is.keys.CompareAndSwap(nil, set)
	return nil
}

// keepFresh fetches every Refresh with a tenth of jitter, and sooner after a
// failure.
func (is *issuer) keepFresh(ctx context.Context) {
	for {
		every := is.v.cfg.Refresh
		if set := is.keys.Load(); set == nil || len(set.byID) == 0 || is.failed() {
			every = min(every, is.v.cfg.CoolDown)
		}
		jitter := time.Duration(rand.Int64N(int64(every)/5+1)) - every/10 //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			return
		case <-time.After(every + jitter):
			_ = is.refresh(ctx) // logged and counted where it happened
		}
	}
}

func (is *issuer) failed() bool {
	is.mu.Lock()
	defer is.mu.Unlock()
	return is.lastErr != nil
}
