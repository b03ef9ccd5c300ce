package setup_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// front stands between a gateway and the service, so that a test can take the service away and see what it was sent.
type front struct {
	net.Listener
	to       string
	mode     atomic.Int32
	accepted atomic.Int64 // connections
	done     chan struct{}

	mu   sync.Mutex
	sent bytes.Buffer
}

const (
	passing = iota
	hanging // accepts, and never responds
	away    // closes each connection
)

func newFront(t *testing.T, to string) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{Listener: l, to: strings.TrimPrefix(to, "http://"), done: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	t.Cleanup(func() { close(f.done) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			go f.serve(c)
		}
	}()
	return f
}

func (f *front) serve(client net.Conn) {
	defer client.Close()
	service, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer service.Close()
	go func() {
		_, _ = io.Copy(client, service)
		_ = client.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		switch f.mode.Load() {
		case hanging:
			<-f.done
			return
		case away:
			return
		}
		f.mu.Lock()
		f.sent.Write(buf[:n])
		f.mu.Unlock()
		if _, err := service.Write(buf[:n]); err != nil {
			return
		}
	}
}

// requests are what the service was sent since the last call.
func (f *front) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sent.String()
	f.sent.Reset()
	return s
}

// backend is what a gateway protects. It responds with the request that it got.
type backend struct {
	*httptest.Server
	seen atomic.Int64
}

// received is a request at the backend.
type received struct {
	Method, Target, Host, Body string
	Header                     http.Header
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.seen.Add(1)
		if r.Header.Get("Upgrade") == "websocket" {
			upgraded(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Backend", "1")
		_ = json.NewEncoder(w).Encode(received{r.Method, r.RequestURI, r.Host, string(body), r.Header})
	}))
	t.Cleanup(b.Close)
	return b
}

// upgraded completes a WebSocket handshake (RFC 6455, section 4.2.2), and then sends back each byte that it gets.
func upgraded(w http.ResponseWriter, r *http.Request) {
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nX-Seen-Tenant: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]), r.Header.Get("X-Tenant-ID"))
	_, _ = io.Copy(conn, rw)
}
