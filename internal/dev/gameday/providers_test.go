package gameday

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
)

// provider is the development R-Auth, which can be unreachable, hang, or answer with something else.
type provider struct {
	testing.TB
	*devrauth.Server
	addr string

	mu      sync.Mutex
	http    *http.Server
	hangs   chan struct{} // closed when it answers again; nil: it does not hang
	keys    string        // served instead of the JWKS; "": the JWKS
	another *devrauth.Server
}

func startProvider(t testing.TB) *provider {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	ok(t, err)
	p := &provider{TB: t, addr: addrs[0]}
	p.Server, err = devrauth.NewShared("http://"+addrs[0], devstack.Audience, "gameday")
	ok(t, err)
	p.another, err = devrauth.NewShared("http://"+addrs[0], devstack.Audience, "gameday-another")
	ok(t, err)
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *provider) start() {
	p.Helper()
	l, err := net.Listen("tcp", p.addr)
	ok(p, err)
	s := &http.Server{Handler: p, ReadHeaderTimeout: 5 * time.Second}
	p.mu.Lock()
	p.http = s
	p.mu.Unlock()
	go func() { _ = s.Serve(l) }() // it ends by stop
}

// stop closes the port and all connections.
func (p *provider) stop() {
	p.hang(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.http.Close() // closing is the purpose
}

// hang lets requests wait until hang(false).
func (p *provider) hang(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hangs != nil {
		close(p.hangs)
		p.hangs = nil
	}
	if on {
		p.hangs = make(chan struct{})
	}
}

// serveKeys serves text instead of the JWKS; "" ends that.
func (p *provider) serveKeys(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = text
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	hangs, keys := p.hangs, p.keys
	p.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-r.Context().Done():
			return
		}
	}
	if keys != "" && r.URL.Path == "/jwks" {
		_, _ = fmt.Fprint(w, keys) // the caller may be gone
		return
	}
	p.Handler().ServeHTTP(w, r)
}

// token is an access token of a user, for gateways.
func (p *provider) token(subject string) string {
	t, err := p.Mint("ES256", map[string]any{"sub": subject, "client_id": "web"})
	if err != nil {
		p.Error(err)
	}
	return t
}

// foreign is a token in the issuer's name, signed with a key that it does not publish.
func (p *provider) foreign(subject string) string {
	t, err := p.another.Mint("ES256", map[string]any{"sub": subject, "client_id": "web"})
	if err != nil {
		p.Error(err)
	}
	return t
}

// admin is a token of the platform's administrator.
func (p *provider) admin() string {
	t, err := p.Mint("ES256", map[string]any{"sub": "root", "client_id": "web", "aud": devstack.AdminAudience})
	if err != nil {
		p.Error(err)
	}
	return t
}

// bus is NATS with JetStream, in this process.
type bus struct {
	testing.TB
	addr, dir string
	server    *natsserver.Server
}

func startBus(t testing.TB) *bus {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	ok(t, err)
	b := &bus{TB: t, addr: addrs[0], dir: filepath.Join(t.TempDir(), "nats")}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *bus) url() string { return "nats://" + b.addr }

func (b *bus) start() {
	b.Helper()
	host, port, err := net.SplitHostPort(b.addr)
	ok(b, err)
	n, err := strconv.Atoi(port)
	ok(b, err)
	b.server, err = natsserver.NewServer(&natsserver.Options{Host: host, Port: n, JetStream: true, StoreDir: b.dir, NoSigs: true, NoLog: true})
	ok(b, err)
	go b.server.Start()
	if !b.server.ReadyForConnections(time.Minute) {
		b.Fatal("NATS does not answer")
	}
}

func (b *bus) stop() {
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
		b.server = nil
	}
}

// empty deletes what a stopped server has stored.
func (b *bus) empty() {
	b.Helper()
	ok(b, os.RemoveAll(b.dir))
}

// messages are the bodies of all events that the stream has; none without a stream.
func (b *bus) messages() (all [][]byte, err error) {
	conn, err := nats.Connect(b.url())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		return nil, err
	}
	info, err := js.StreamInfo("IAM")
	if errors.Is(err, nats.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sub, err := js.SubscribeSync("iam.>", nats.OrderedConsumer())
	if err != nil {
		return nil, err
	}
	for range info.State.Msgs {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			return nil, err
		}
		all = append(all, m.Data)
	}
	return all, nil
}
