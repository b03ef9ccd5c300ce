package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
)

// fullPipe returns a pipe that nothing more can be written to.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err == nil {
		err = w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	if _, err := w.Write(make([]byte, 16<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return r, w
}

// retried sends a request again while its status is 503: on a loaded machine, a lock, a statement or a policy can time out, and
// the caller is asked to retry. A request that hangs has no status, and is not retried.
func retried(send func() (status int)) (status int) {
	await.Until(await.Limit, 100*time.Millisecond, func() bool {
		status = send()
		return status != http.StatusServiceUnavailable
	})
	return status
}

// A log collector that has stopped to read, or is gone, costs lines and no answers.
func TestAReaderOfStderrThatStopsReadingDelaysNoRequest(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]bool{"stuck": false, "gone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.kill()
			addrs, err := freeport.Addrs(3)
			p.ok(err)
			cmd := p.command("GATEWAY_ADDR="+addrs[0], "ADMIN_ADDR="+addrs[1], "OPS_ADDR="+addrs[2], "DECISION_LOG_SAMPLE=1")
			r, w := fullPipe(t)
			cmd.Stderr = w
			if gone {
				p.ok(r.Close())
			}
			p.ok(cmd.Start())
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			p.admin = "http://" + addrs[1]
			t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
			get := func(url, token string) int {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+url, nil)
				p.ok(err)
				if token != "" {
					req.Header.Set("Authorization", "Bearer "+token)
				}
				resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
				if err != nil {
					return 0
				}
				_ = resp.Body.Close() // the status is all that is of interest
				return resp.StatusCode
			}
			p.until("it is ready", func() bool { return get(addrs[2]+"/readyz", "") == http.StatusOK })

			var asking sync.WaitGroup
			for i := range 8 {
				asking.Go(func() {
					for n := range 20 {
						token, err := p.rauth.Mint("ES256", map[string]any{"sub": fmt.Sprint("user-", i, "-", n), "client_id": "web"})
						if err != nil {
							t.Error(err)
						}
						enrich := func() int { return get(addrs[0]+"/system/enrich-token", token) }
						if status := retried(enrich); status != http.StatusForbidden {
							t.Errorf("an enrichment is answered %d", status)
						}
					}
				})
				asking.Go(func() {
					id := fmt.Sprint("tenant-", i)
					var r said
					create := func() int {
						r = p.call("POST", "/v1/tenants", map[string]any{"id": id, "slug": id, "name": "T"})
						return r.status
					}
					if status := retried(create); status != http.StatusCreated {
						t.Errorf("a write is answered %d %v", status, r.body)
					}
				})
			}
			asking.Wait()
			p.ok(cmd.Process.Signal(syscall.SIGTERM))
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("it ends with %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("it does not end")
			}
		})
	}
}
