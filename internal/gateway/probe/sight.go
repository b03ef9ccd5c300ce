package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// sight reads what reached the echo, also behind a response that was an error. nil: the responses alone show it.
type sight func(ctx context.Context, markers []string) ([]Seen, error)

// startEcho connects to the echo, or starts one; stop ends it.
func (r *run) startEcho(ctx context.Context) (stop func(), err error) {
	switch {
	case r.ListenEcho != "":
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.ListenEcho)
		if err != nil {
			return nil, fmt.Errorf("start the echo: %w", err)
		}
		e := &Echo{}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = e.Serve(ctx, l) // the listener is ours: it ends with ctx
		}()
		r.echo = func(_ context.Context, markers []string) ([]Seen, error) { return e.Matching(markers...), nil }
		return func() { cancel(); <-done }, nil
	case r.Echo != "":
		r.echo = remote(strings.TrimSuffix(r.Echo, "/"), r.Timeout)
		if _, err := r.echo(ctx, []string{"probe-" + strings.Repeat("0", 24)}); err != nil {
			return nil, err
		}
	default:
		r.note("the echo was seen through the gateway's responses alone: requests that reached the backend behind another response were not seen, " +
			"and no smuggled ones; name the echo's own address")
	}
	return func() {}, nil
}

// remote asks an echo that runs elsewhere.
func remote(base string, timeout time.Duration) sight {
	client := &http.Client{Timeout: 5 * timeout}
	return func(ctx context.Context, markers []string) ([]Seen, error) {
		var all []Seen
		for part := range slices.Chunk(markers, 100) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+seenPath+"?"+url.Values{"marker": part}.Encode(), nil)
			if err != nil {
				return nil, fmt.Errorf("ask the echo: %w", err)
			}
			resp, err := client.Do(req)
			if err != nil {
				return nil, fmt.Errorf("ask the echo: %w", err)
			}
			var found []Seen
			err = json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&found)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				return nil, fmt.Errorf("%s is no echo (status %d, %w): start it with iam-service gateway echo", base, resp.StatusCode, err)
			}
			all = append(all, found...)
		}
		return all, nil
	}
}

// look reads what reached the backend of each exchange. It waits first: what a gateway sends after its response
// counts, too.
func (r *run) look(ctx context.Context, shots []*shot) error {
	if r.echo == nil {
		for _, s := range shots {
			for _, resp := range s.responses {
				s.take(resp.body)
			}
		}
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle + afterPatience):
	}
	return r.read(ctx, shots)
}

// read reads what has reached the echo so far.
func (r *run) read(ctx context.Context, shots []*shot) error {
	outer, inner := map[string]*shot{}, map[string]*shot{}
	var markers []string
	for _, s := range shots {
		outer[s.forgery.marker], inner[s.forgery.inner] = s, s
		markers = append(markers, s.forgery.marker, s.forgery.inner)
	}
	found, err := r.echo(ctx, markers)
	if err != nil {
		return err
	}
	for _, s := range shots {
		s.seen, s.inner = nil, nil
	}
	for _, seen := range found {
		for _, m := range seen.Markers {
			if s := outer[m]; s != nil {
				s.seen = append(s.seen, seen)
			}
			if s := inner[m]; s != nil {
				s.inner = append(s.inner, seen)
			}
		}
	}
	return nil
}

// take reads what the echo answered through the gateway.
func (s *shot) take(body []byte) {
	var seen Seen
	if json.Unmarshal(body, &seen) == nil && seen.Echo == "iam-service" && slices.Contains(seen.Markers, s.forgery.marker) {
		s.seen = append(s.seen, seen)
	}
}
