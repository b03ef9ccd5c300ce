package probe

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Paths of the echo that are not echoed.
const (
	seenPath     = "/.probe/seen"     // GET ?marker=…: the requests with one of these markers
	smuggledPath = "/.probe/smuggled" // recorded without a response: an unexpected response could reach another client
)

// Bounds of what an Echo remembers.
const (
	maxSeen      = 20_000
	maxSeenBytes = 64 << 20
	maxConns     = 1024
)

// Echo is a backend that answers each request with what it received, and remembers the requests that carry
// the id of a probe. It speaks HTTP/1.0 and 1.1 in clear text. Credentials are replaced by a hash.
//
// It reads its connections itself: what net/http refuses, joins or rewrites is what a probe looks for.
type Echo struct {
	Log *slog.Logger // nil: none

	mu    sync.Mutex
	seen  []*Seen // oldest first
	bytes int
	conns atomic.Int64
}

// Serve accepts connections until ctx ends, and closes l. It returns nil when ctx ended.
func (e *Echo) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { shut(l) })
	defer stop()
	defer shut(l)
	var open sync.WaitGroup
	defer open.Wait()
	places := make(chan struct{}, maxConns)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the listener was closed because ctx ended
		}
		if ne, is := errors.AsType[net.Error](err); is && ne.Timeout() {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		places <- struct{}{}
		open.Go(func() {
			defer func() { <-places }()
			stop := context.AfterFunc(ctx, func() { shut(c) })
			defer stop()
			defer shut(c)
			e.serve(c)
		})
	}
}

// Patience of the echo with a connection.
const (
	idlePatience  = time.Minute
	afterPatience = 200 * time.Millisecond // for a second request after one with ambiguous framing
)

func (e *Echo) serve(c net.Conn) {
	r := requestReader{Reader: bufio.NewReaderSize(c, 16<<10), continueTo: c}
	id := e.conns.Add(1)
	patience, silent := idlePatience, false
	for {
		if c.SetReadDeadline(time.Now().Add(patience)) != nil {
			return
		}
		s, err := r.read()
		if s == nil {
			return
		}
		s.Connection = id
		last := err != nil || len(s.Framing) > 0 || wantsClose(s)
		if query, is := strings.CutPrefix(s.Target, seenPath+"?"); is && s.Method == http.MethodGet {
			if e.answer(c, s.Method, last, e.matching(query)) != nil || last {
				return
			}
			continue
		}
		e.remember(s)
		if strings.HasPrefix(s.Target, smuggledPath) {
			return
		}
		if !silent && e.answer(c, s.Method, last, s) != nil || err != nil {
			return
		}
		if last { // whatever follows is not answered
			patience, silent = afterPatience, true
		}
	}
}

func wantsClose(s *Seen) bool {
	if s.Protocol != "HTTP/1.1" {
		return true
	}
	for _, l := range s.Headers {
		if strings.EqualFold(l.Name, "Connection") && strings.Contains(strings.ToLower(l.Value), "close") {
			return true
		}
	}
	return false
}

func (e *Echo) remember(s *Seen) {
	if e.Log != nil {
		e.Log.Info("request", "method", s.Method, "path", strings.SplitN(s.Target, "?", 2)[0], "host", s.Host, "markers", s.Markers, "framing", s.Framing)
	}
	if len(s.Markers) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, s)
	e.bytes += s.bytes
	for len(e.seen) > maxSeen || e.bytes > maxSeenBytes {
		e.bytes -= e.seen[0].bytes
		e.seen = e.seen[1:]
	}
}

// Matching returns the requests with one of the markers, oldest first.
func (e *Echo) Matching(markers ...string) []Seen {
	wanted := map[string]bool{}
	for _, m := range markers {
		wanted[m] = true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	found := []Seen{}
	for _, s := range e.seen {
		for _, m := range s.Markers {
			if wanted[m] {
				found = append(found, *s)
				break
			}
		}
	}
	return found
}

func (e *Echo) matching(query string) any {
	q, err := url.ParseQuery(query)
	if err != nil || len(q["marker"]) == 0 {
		return []Seen{}
	}
	return e.Matching(q["marker"]...)
}

func (e *Echo) answer(w io.Writer, method string, last bool, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n", len(body)+1)
	if last {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	if method != "HEAD" {
		b.Write(body)
		b.WriteByte('\n')
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// redact replaces credentials: what the echo answers and logs is seen by others than the caller.
func redact(lines []Line) {
	for i, l := range lines {
		name := fold(l.Name)
		if strings.Contains(name, "authorization") || strings.Contains(name, "cookie") || strings.Contains(name, "token") {
			scheme, secret, found := strings.Cut(l.Value, " ")
			if !found {
				scheme, secret = "", l.Value
			}
			if secret == "" {
				continue
			}
			sum := sha256.Sum256([]byte(secret))
			lines[i].Value = strings.TrimSpace(scheme + " sha256:" + hex.EncodeToString(sum[:6]))
		}
	}
}
