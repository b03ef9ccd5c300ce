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

// Proxy stands between a client and a server, and misbehaves on demand.
type Proxy struct {
	URL string // as the server's, through the proxy

	swallow, deaf atomic.Bool
	delay         atomic.Int64 // of a new connection
	commit        atomic.Pointer[func(done bool)]
	underWay      atomic.Int64 // commits
	mu            sync.Mutex
	conns         []net.Conn
}

// OnCommit calls do for each commit of a transaction: before the server hears of it, and
// when it is done, before the client does. nil: no more.
func (p *Proxy) OnCommit(do func(done bool)) {
	if do == nil {
		p.commit.Store(nil)
		return
	}
	p.commit.Store(&do)
}

// Committing reports whether a commit is asked for that its client has no answer to yet:
// others may see its work, and OnCommit is not called for its end yet.
func (p *Proxy) Committing() bool { return p.underWay.Load() > 0 }

func (p *Proxy) committing(done bool) {
	if do := p.commit.Load(); do != nil {
		(*do)(done)
	}
}

// A commit as it is asked for and confirmed: each is one whole message.
var (
	askedCommit = []byte("Q\x00\x00\x00\x0bcommit\x00")
	doneCommit  = []byte("C\x00\x00\x00\x0bCOMMIT\x00")
)

// Swallow makes the proxy keep connections open and pass nothing on, as a network
// does that has lost the way.
func (p *Proxy) Swallow(on bool) { p.swallow.Store(on) }

// Deafen makes the proxy keep notifications to itself, as a transaction pooler
// does: LISTEN is answered, by a server connection that is given to another client.
func (p *Proxy) Deafen(on bool) { p.deaf.Store(on) }

// Delay makes each new connection take so long.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut breaks all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close() // that is the point
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
	t.Cleanup(func() { _ = l.Close(); p.Cut() }) // nothing is left to lose
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
		time.Sleep(time.Duration(d)) // what the client says first waits
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.swallow.Load() {
			continue
		}
		if bytes.Contains(buf[:n], askedCommit) {
			commits.Store(true)
			p.underWay.Add(1)
			p.committing(false)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// back passes whole messages on: a type, a length that counts itself, the rest.
func (p *Proxy) back(client, server net.Conn, commits *atomic.Bool) {
	defer func() { _ = client.Close() }() // as above
	over := func() {
		if commits.Swap(false) {
			p.underWay.Add(-1)
		}
	}
	defer over()
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
		if p.swallow.Load() || p.deaf.Load() && message[0] == 'A' {
			continue
		}
		if bytes.Equal(message, doneCommit) {
			p.committing(true)
		}
		if message[0] == 'Z' { // ready for the next query: committed, or not
			over()
		}
		if _, err := client.Write(message); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
