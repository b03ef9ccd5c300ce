package setup_test

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // of the WebSocket handshake
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/world"
	"iam-service/internal/gateway"
	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
)

// program is a gateway that a test can start.
type program struct {
	kind   string
	binary string // looked up in PATH; the variable names another one
	env    string // variable that names the binary
	args   func(dir string) []string
	extra  func(dir string) map[string]string // further files, where the package's own configuration would include ours

	keeps503 bool // 503 of the service with Retry-After and the problem document
	keeps403 bool // the problem document of a denial, with its instance
}

var programs = []program{
	{
		kind: "nginx", binary: "nginx", env: "NGINX", keeps503: true, keeps403: true,
		args: func(dir string) []string {
			return []string{"-p", dir, "-c", filepath.Join(dir, "main.conf"), "-e", "stderr"}
		},
		extra: func(dir string) map[string]string {
			var temp strings.Builder
			for _, of := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				fmt.Fprintf(&temp, "    %s_temp_path %s;\n", of, filepath.Join(dir, of))
			}
			return map[string]string{"main.conf": "daemon off;\nmaster_process off;\npid " + filepath.Join(dir, "pid") + ";\nevents {}\nhttp {\n    access_log off;\n" +
				temp.String() + "    include " + filepath.Join(dir, "nginx.conf") + ";\n}\n"}
		},
	},
	{
		kind: "haproxy", binary: "haproxy", env: "HAPROXY", keeps503: true, keeps403: true,
		args: func(dir string) []string { return []string{"-f", filepath.Join(dir, "haproxy.cfg"), "-db"} },
	},
	{
		kind: "caddy", binary: "caddy", env: "CADDY", keeps503: true, keeps403: true,
		args: func(dir string) []string {
			return []string{"run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "Caddyfile")}
		},
	},
	{
		kind: "traefik", binary: "traefik", env: "TRAEFIK", keeps503: true, keeps403: true,
		args: func(dir string) []string { return []string{"--configfile=" + filepath.Join(dir, "traefik.yml")} },
	},
	{
		kind: "envoy", binary: "envoy", env: "ENVOY", keeps503: true, keeps403: true,
		args: func(dir string) []string {
			return []string{"-c", filepath.Join(dir, "envoy.yaml"), "--concurrency", "1"}
		},
	},
}

// find returns the program's binary. GATEWAYS names those that must be there.
func (p program) find(t *testing.T) string {
	t.Helper()
	path := os.Getenv(p.env)
	if path == "" {
		path, _ = exec.LookPath(p.binary)
	}
	if path == "" {
		for _, needed := range strings.Split(os.Getenv("GATEWAYS"), ",") {
			if needed == p.kind {
				t.Fatalf("%s is missing: install it, or name the binary in %s", p.binary, p.env)
			}
		}
		t.Skipf("%s is not installed: make test-gateways needs it", p.binary)
	}
	return path
}

// front stands between a gateway and the service, so that a test can take the service away.
type front struct {
	net.Listener
	to   string
	mode atomic.Int32
	done chan struct{}
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
		if _, err := service.Write(buf[:n]); err != nil {
			return
		}
	}
}

// backend is what a gateway protects. It responds with the request that it got.
type backend struct {
	*httptest.Server
	mu   sync.Mutex
	seen int
}

// received is a request at the backend.
type received struct {
	Method, Target, Host string
	Header               http.Header
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.seen++
		b.mu.Unlock()
		if r.Header.Get("Upgrade") == "websocket" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			// RFC 6455, section 4.2.2
			accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as the RFC wants it
			w.Header().Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(accept[:]))
			w.Header().Set("X-Seen-Tenant", r.Header.Get("X-Tenant-ID"))
			w.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		w.Header().Set("X-Backend", "1")
		_ = json.NewEncoder(w).Encode(received{r.Method, r.RequestURI, r.Host, r.Header})
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) requests() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// stage is a running gateway with the service and a backend behind it.
type stage struct {
	*testing.T
	program
	world   *world.World
	front   *front
	backend *backend
	addr    string
	log     *logbuffer.Buffer
}

// start runs a gateway in front of a backend; "" is one of its own.
func start(t *testing.T, p program, behind string) *stage {
	t.Helper()
	binary := p.find(t)
	w := world.New(t, world.Settings{Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": true}}}})
	s := &stage{T: t, program: p, world: w, front: newFront(t, w.URL), backend: newBackend(t), log: &logbuffer.Buffer{}}
	if behind == "" {
		behind = s.backend.URL
	}
	dir := t.TempDir()
	profiles, err := gateway.Profiles(gateway.ProfileNames()...)
	w.OK(err)
	ports, err := freeport.Addrs(2)
	w.OK(err)
	s.addr = ports[0]
	files, err := setup.Generate(p.kind, setup.Settings{
		Headers: policy.DefaultHeaders, Usual: true, Profiles: profiles, IAM: "http://" + s.front.Addr().String(), ExtAuthz: "127.0.0.1:1",
		Backend: behind, Listen: s.addr, Loopback: ports[1], Dir: dir + "/",
	})
	w.OK(err)
	for _, f := range files {
		w.OK(os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Text), 0o600))
	}
	if p.extra != nil {
		for name, text := range p.extra(dir) {
			w.OK(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, p.args(dir)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, s.log, s.log
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	w.OK(cmd.Start())
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() { stop(); <-exited })
	w.Settle()
	await.True(t, p.kind+" serves", func() bool {
		select {
		case <-exited:
			t.Fatalf("%s ended:\n%s", p.kind, s.log)
		default:
		}
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return s
}

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
	took   time.Duration
	seen   *received // by the backend; nil: the request did not reach it
}

// send sends a request as it stands.
func (s *stage) send(line string, lines ...string) answer {
	s.Helper()
	began := time.Now()
	conn, err := net.Dial("tcp", s.addr)
	s.world.OK(err)
	defer conn.Close()
	s.world.OK(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	connection := "Connection: close\r\n"
	for _, l := range lines {
		if strings.HasPrefix(l, "Connection:") {
			connection = ""
		}
	}
	rest := ""
	if len(lines) > 0 {
		rest = strings.Join(lines, "\r\n") + "\r\n"
	}
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: app.example.com\r\n%s%s\r\n", line, connection, rest)
	s.world.OK(err)
	method, _, _ := strings.Cut(line, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		s.Fatalf("%s %q: %v\n%s", line, lines, err, s.log)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header, took: time.Since(began)}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(resp.Body)
		s.world.OK(err)
		a.body = string(body)
	}
	if resp.Header.Get("X-Backend") != "" {
		a.seen = &received{}
		s.world.OK(json.Unmarshal([]byte(a.body), a.seen))
	}
	return a
}

func (s *stage) bearer(user string) string { return world.Bearer(s.world.Mint(user, nil)) }
