package pgtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy forwards connections from a client to a server, and injects failures on demand.
type Proxy struct {
	URL string // the server's URL, through the proxy

	blackhole         atomic.Bool
	dropNotifications atomic.Bool
	delay             atomic.Int64 // of a new connection
	latency           atomic.Int64 // of each request
	onCommit          atomic.Pointer[func(CommitPhase)]
	pending           atomic.Int64 // commits
	lost              atomic.Int64 // notifications
	mu                sync.Mutex
	conns             []net.Conn
}

// CommitPhase is a moment of a commit that the proxy forwards.
type CommitPhase int

// The phases of a commit.
const (
	CommitRequested CommitPhase = iota // before the server receives it
	CommitDone                         // before the client receives the confirmation
)

// OnCommit calls do in both phases of each commit. nil: no longer.
func (p *Proxy) OnCommit(do func(CommitPhase)) {
	if do == nil {
		p.onCommit.Store(nil)
		return
	}
	p.onCommit.Store(&do)
}

// Committing reports whether a commit is requested and not yet confirmed to its client. Its effect may
// be visible already.
func (p *Proxy) Committing() bool { return p.pending.Load() > 0 }

func (p *Proxy) committing(phase CommitPhase) {
	if do := p.onCommit.Load(); do != nil {
		(*do)(phase)
	}
}

// The request and the confirmation of a commit: each is one whole message.
var (
	commitRequest      = []byte("Q\x00\x00\x00\x0bcommit\x00")
	commitConfirmation = []byte("C\x00\x00\x00\x0bCOMMIT\x00")
)

// Blackhole makes the proxy discard all bytes of open connections, as a network without a route does.
func (p *Proxy) Blackhole(on bool) { p.blackhole.Store(on) }

// DropNotifications makes the proxy discard notifications. A transaction pooler has that effect: LISTEN
// succeeds on a server connection that another client gets next.
func (p *Proxy) DropNotifications(on bool) { p.dropNotifications.Store(on) }

// Lost is the number of notifications that the proxy has discarded.
func (p *Proxy) Lost() int64 { return p.lost.Load() }

// Delay delays each new connection.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Latency delays what clients send, as a network with this round-trip time does.
func (p *Proxy) Latency(d time.Duration) { p.latency.Store(int64(d)) }

// Cut breaks all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close() // closing is the purpose
	}
	p.conns = nil
}

// NewProxy starts a proxy to the server of databaseURL, without TLS.
func NewProxy(t testing.TB, databaseURL string) *Proxy {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{}
	server := u.Host
	u.Host = l.Addr().String()
	p.URL = u.String()
	t.Cleanup(func() { _ = l.Close(); p.Cut() }) // the test is over
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close() // as the server would
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, back)
			p.mu.Unlock()
			var commits atomic.Bool
			go p.forth(client, back, &commits)
			go p.back(client, back, &commits)
		}
	}()
	return p
}

func (p *Proxy) forth(client, server net.Conn, commits *atomic.Bool) {
	defer func() { _ = server.Close() }() // the other side is gone
	if d := p.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d)) // the first message of the client waits
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.blackhole.Load() {
			continue
		}
		if d := p.latency.Load(); d > 0 {
			time.Sleep(time.Duration(d))
		}
		if bytes.Contains(buf[:n], commitRequest) {
			commits.Store(true)
			p.pending.Add(1)
			p.committing(CommitRequested)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// back forwards whole messages: a type, a length that includes itself, the rest.
func (p *Proxy) back(client, server net.Conn, commits *atomic.Bool) {
	defer func() { _ = client.Close() }() // the other side is gone
	ended := func() {
		if commits.Swap(false) {
			p.pending.Add(-1)
		}
	}
	defer ended()
	r := bufio.NewReader(server)
	for {
		head, err := r.Peek(5)
		if err != nil {
			return
		}
		message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(r, message); err != nil {
			return
		}
		if p.blackhole.Load() || p.dropNotifications.Load() && message[0] == 'A' {
			if message[0] == 'A' {
				p.lost.Add(1)
			}
			continue
		}
		if bytes.Equal(message, commitConfirmation) {
			p.committing(CommitDone)
		}
		if message[0] == 'Z' { // ready for the next query: the commit has ended, successful or not
			ended()
		}
		if _, err := client.Write(message); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
