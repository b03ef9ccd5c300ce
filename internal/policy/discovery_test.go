package policy_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"

	"iam-service/internal/dev/await"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

// discovers packs a discovered configuration with one bundle, main.
func discovers(t *testing.T, resource string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).Write(bundle.Bundle{
		Manifest: bundle.Manifest{Roots: &[]string{""}},
		Data:     map[string]any{"bundles": map[string]any{"main": fetchedBundle(resource, false)}},
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// discovering returns an engine whose manager discovers its configuration at url, and the count of rejections.
func discovering(t *testing.T, url string) (*policy.Engine, *atomic.Int64) {
	t.Helper()
	rejections := &atomic.Int64{}
	e, err := policy.NewEngine(policy.Config{Log: discard, OnCandidate: func(accepted bool) {
		if !accepted {
			rejections.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := start(t, e, map[string]any{
		"services":  map[string]any{"b": map[string]any{"url": url}},
		"discovery": fetchedBundle("/config.tar.gz", false),
	})
	t.Cleanup(func() { m.Stop(ctx) })
	return e, rejections
}

func TestAFetchThatAnotherConfigurationCancelsIsNoRejection(t *testing.T) {
	t.Parallel()
	good, err := authoring.Build(files{}.write(t, t.TempDir()), "good", nil)
	if err != nil {
		t.Fatal(err)
	}
	before, after := discovers(t, "/before.tar.gz"), discovers(t, "/after.tar.gz")
	fetching, canceled := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/config.tar.gz":
			select {
			case <-fetching:
				_, _ = w.Write(after)
			default:
				_, _ = w.Write(before)
			}
		case "/before.tar.gz":
			close(fetching)
			<-r.Context().Done()
			close(canceled)
		case "/after.tar.gz":
			_, _ = w.Write(good)
		}
	}))
	t.Cleanup(srv.Close)
	e, rejections := discovering(t, srv.URL)
	<-canceled
	await.True(t, "the other bundle is active", func() bool { return e.Revision() != nil })
	if rejected := e.Status().Rejected; rejections.Load() != 0 || rejected != nil {
		t.Errorf("%d rejections, %+v", rejections.Load(), rejected)
	}
}

// The gate may reject a bundle before OPA reports that its configuration was discovered.
func TestABundleThatIsFetchedAgainIsRejectedOnce(t *testing.T) {
	t.Parallel()
	shoe, err := authoring.Build(files{"iam/config/data.json": `{"headers": ["X-User-Shoe"]}`}.write(t, t.TempDir()), "shoe", nil)
	if err != nil {
		t.Fatal(err)
	}
	config := discovers(t, "/main.tar.gz")
	var fetched atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/config.tar.gz" {
			_, _ = w.Write(config)
			return
		}
		fetched.Add(1)
		_, _ = w.Write(shoe)
	}))
	t.Cleanup(srv.Close)
	e, rejections := discovering(t, srv.URL)
	await.True(t, "it was fetched again, twice", func() bool { return fetched.Load() > 2 })
	if rejected := e.Status().Rejected; rejections.Load() != 1 || rejected == nil {
		t.Errorf("%d rejections, %+v", rejections.Load(), rejected)
	}
}
