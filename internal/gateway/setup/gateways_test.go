package setup_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/world"
	"iam-service/internal/gateway"
	"iam-service/internal/gateway/probe"
	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
)

// addresses are where the parts of a test listen.
type addresses struct{ iam, path, backend, listen, loopback, dir string }

// program is a gateway that a test can start.
type program struct {
	kind   string
	binary string // looked up in PATH; the variable names another one
	env    string // variable that names the binary
	args   func(dir string) []string
	extra  func(dir string) map[string]string  // further files, where the package's own configuration would include ours
	naive  func(a addresses) map[string]string // files as an example on the web has them
	faults []probe.Kind                        // of naive

	without503 string // why its 503 has neither Retry-After nor a problem document
}

var programs = []program{
	{
		kind: "nginx", binary: "nginx", env: "NGINX",
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
		naive: naiveNginx, faults: []probe.Kind{probe.Forged, probe.Twice},
	},
	{
		kind: "haproxy", binary: "haproxy", env: "HAPROXY",
		args:  func(dir string) []string { return []string{"-f", filepath.Join(dir, "haproxy.cfg"), "-db"} },
		naive: naiveHAProxy, faults: []probe.Kind{probe.Alias, probe.Lost, probe.Hint, probe.Smuggled},
	},
	{
		kind: "caddy", binary: "caddy", env: "CADDY",
		args: func(dir string) []string {
			return []string{"run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "Caddyfile")}
		},
		naive: naiveCaddy, faults: []probe.Kind{probe.Alias, probe.Lost},
	},
	{
		kind: "traefik", binary: "traefik", env: "TRAEFIK",
		args:  func(dir string) []string { return []string{"--configfile=" + filepath.Join(dir, "traefik.yml")} },
		naive: naiveTraefik, faults: []probe.Kind{probe.Forged, probe.Alias, probe.Twice},
	},
	{
		kind: "envoy", binary: "envoy", env: "ENVOY", without503: "ext_authz over HTTP takes 5xx for a failure",
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
		t.Skipf("not tested: %s is not installed, and %s names none", p.binary, p.env)
	}
	return path
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

// options of a stage. The zero value is the generated configuration in front of a backend of the stage.
type options struct {
	backend string                     // URL
	secure  func(*world.World) *secure // how the service is served by TLS; nil: in clear text
	naive   bool                       // the naive configuration
}

// secure is a service with TLS.
type secure struct{ url, ca string }

// public is the policy of a stage.
var public = world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/public"}, "preflight": true}}}

// start runs a gateway.
func start(t *testing.T, p program, o options) *stage {
	t.Helper()
	binary := p.find(t)
	w := world.New(t, world.Settings{Policy: public})
	s := &stage{T: t, program: p, world: w, front: newFront(t, w.URL), backend: newBackend(t), log: &logbuffer.Buffer{}}
	if o.backend == "" {
		o.backend = s.backend.URL
	}
	dir := t.TempDir()
	ports, err := freeport.Addrs(2)
	w.OK(err)
	s.addr = ports[0]
	a := addresses{iam: "http://" + s.front.Addr().String(), backend: o.backend, listen: s.addr, loopback: ports[1], dir: dir}
	for name, text := range s.files(a, o) {
		w.OK(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
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
		resp, err := http.Get("http://" + s.addr + "/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode != http.StatusNotFound // Traefik listens before it has read its routes
	})
	return s
}

// files are the configuration that the gateway runs.
func (s *stage) files(a addresses, o options) map[string]string {
	s.Helper()
	all := map[string]string{}
	if s.extra != nil {
		all = s.extra(a.dir)
	}
	profiles, err := gateway.Profiles(gateway.ProfileNames()...)
	s.world.OK(err)
	if o.naive {
		own, err := gateway.Profiles(s.profile())
		s.world.OK(err)
		a.path = own[0].Path(profiles)
		maps.Copy(all, s.naive(a))
		return all
	}
	settings := setup.Settings{
		Headers: policy.DefaultHeaders, Usual: true, Profiles: profiles, IAM: a.iam, ExtAuthz: "127.0.0.1:1",
		Backend: a.backend, Listen: a.listen, Loopback: a.loopback, Dir: a.dir + "/",
	}
	if o.secure != nil {
		over := o.secure(s.world)
		settings.IAM, settings.IAMCA = over.url, over.ca
	}
	files, err := setup.Generate(s.kind, settings)
	s.world.OK(err)
	for _, f := range files {
		all[f.Name] = f.Text
	}
	return all
}

// profile is that of the gateway.
func (s *stage) profile() string {
	if s.kind == "envoy" {
		return "envoy-http"
	}
	return s.kind
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
	from := bufio.NewReader(conn)
	resp, err := http.ReadResponse(from, &http.Request{Method: method})
	if err != nil {
		s.Fatalf("%s %q: %v\n%s", line, lines, err, s.log)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header, took: time.Since(began)}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		a.body = s.pong(conn, from)
	} else {
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

// ping is what a client sends through a WebSocket.
const ping = "\x81\x84\x00\x00\x00\x00ping"

// pong returns what the backend sends back for ping.
func (s *stage) pong(to io.Writer, from io.Reader) string {
	s.Helper()
	_, err := io.WriteString(to, ping)
	s.world.OK(err)
	got := make([]byte, len(ping))
	if _, err := io.ReadFull(from, got); err != nil {
		s.Errorf("nothing comes back through the WebSocket: %v", err)
	}
	return string(got)
}

func (s *stage) bearer(user string) string { return world.Bearer(s.world.Mint(user, nil)) }
