package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"iam-service/internal/dev/freeport"
	"iam-service/policies"
)

// target is one server process.
type target struct {
	name, addr string
	requests   [][]byte // what is sent, in turn
	grpc       string   // where checks go instead; "": none do
	checks     []*authv3.CheckRequest
	cpu        func(testing.TB) time.Duration
	us         []float64 // µs for each request, by round
	server     []float64 // the server's part
	next       int
}

// child starts a variant of ours.
func child(b *testing.B, name string) (*target, announcement) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^$", "-test.bench", "^BenchmarkServe$", "-test.benchtime", "1x", "-test.timeout", "1h")
	cmd.Env = append(os.Environ(), "IAM_BENCH_SERVE="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	check(b, err)
	out, theirs, err := os.Pipe()
	check(b, err)
	cmd.ExtraFiles = []*os.File{theirs}
	check(b, cmd.Start())
	check(b, theirs.Close())
	defer out.Close()
	b.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() }) // it ends with its input
	var a announcement
	check(b, json.NewDecoder(out).Decode(&a))
	t := &target{name: name, addr: a.Addr, cpu: func(tb testing.TB) time.Duration {
		resp, err := http.Get("http://" + a.Addr + "/cpu")
		check(tb, err)
		defer resp.Body.Close()
		var ns int64
		_, err = fmt.Fscan(resp.Body, &ns)
		check(tb, err)
		return time.Duration(ns)
	}}
	tokens := a.Tokens
	if tokens == nil {
		tokens = []string{strings.Repeat("x", 700)}
	}
	for _, tok := range tokens {
		t.requests = append(t.requests, []byte("GET /system/enrich-token HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer "+tok+"\r\n\r\n"))
	}
	if t.grpc = a.GRPC; t.grpc != "" {
		for _, tok := range tokens {
			t.checks = append(t.checks, checkOf(tok))
		}
	}
	return t, a
}

// opa starts OPA's server under the same policy, facts and tokens.
func opa(b *testing.B, name string, a announcement, jwtEntries int) *target {
	b.Helper()
	dir := b.TempDir()
	check(b, os.CopyFS(dir, policies.FS))
	write := func(file string, v any) {
		text, err := json.Marshal(v)
		check(b, err)
		check(b, os.WriteFile(filepath.Join(dir, file), text, 0o600))
	}
	for _, no := range []string{".manifest", "schemas"} { // of a bundle: OPA would take them for data
		check(b, os.RemoveAll(filepath.Join(dir, no)))
	}
	write("directory.json", map[string]any{"directory": a.Data})
	write("bench.json", map[string]any{"bench": map[string]any{"jwks": a.JWKS, "iss": a.Issuer}})
	check(b, os.WriteFile(filepath.Join(dir, "bench.rego"), []byte(`package asked

verified := io.jwt.decode_verify(input.raw, {"cert": data.bench.jwks, "iss": data.bench.iss, "aud": "`+audience+`"})

question := {
	"token": verified[2],
	"request": {"gateway": "traefik", "method": "GET", "anonymous": false},
	"settings": {"unknown_users": "deny"},
}

decision := d if {
	verified[0]
	d := data.iam.claims.decision with input as question
}
`), 0o600))
	config := map[string]any{}
	if jwtEntries > 0 {
		config["caching"] = map[string]any{"inter_query_builtin_value_cache": map[string]any{"named": map[string]any{"io_jwt": map[string]any{"max_num_entries": jwtEntries}}}}
	}
	text, err := json.Marshal(config)
	check(b, err)
	configFile := filepath.Join(b.TempDir(), "config.json")
	check(b, os.WriteFile(configFile, text, 0o600))
	addrs, err := freeport.Addrs(1)
	check(b, err)
	addr := addrs[0]
	cmd := exec.Command(os.Getenv("OPA"), "run", "--server", "--addr", addr, "--log-level", "error", "--config-file", configFile, dir)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // it says there what it cannot read
	check(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it has nothing to lose
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/health")
		if err == nil {
			_ = resp.Body.Close()
			break
		}
		if time.Now().After(until) {
			b.Fatal("OPA does not answer: ", err)
		}
	}
	t := &target{name: name, addr: addr, cpu: func(tb testing.TB) time.Duration { return processCPU(tb, cmd.Process.Pid) }}
	for _, tok := range a.Tokens {
		body := `{"input":{"raw":"` + tok + `"}}`
		t.requests = append(t.requests, []byte("POST /v1/data/asked/decision HTTP/1.1\r\nHost: opa\r\nContent-Type: application/json\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body))
	}
	resp, err := http.Post("http://"+addr+"/v1/data/asked/decision", "application/json", strings.NewReader(`{"input":{"raw":"`+a.Tokens[0]+`"}}`))
	check(b, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	check(b, err)
	if !strings.Contains(string(got), `"allow":true`) || !strings.Contains(string(got), "role-3") {
		b.Fatalf("OPA answers %s", got)
	}
	return t
}

// processCPU reads what another process has used, in ticks of 10 ms (proc(5)).
func processCPU(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(tb, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, err := strconv.Atoi(fields[11])
	check(tb, err)
	system, err := strconv.Atoi(fields[12])
	check(tb, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// ask sends n requests over all connections, and notes what they cost.
func (t *target) ask(b *testing.B, n int, measured bool) {
	b.Helper()
	server, client := t.cpu(b), cpuTime(b)
	var wg sync.WaitGroup
	errs := make(chan error, connections)
	for c := range connections {
		first := t.next + c*(n/connections)
		wg.Go(func() { errs <- t.converse(first, n/connections) })
	}
	wg.Wait()
	for range connections {
		check(b, <-errs)
	}
	t.next += n
	if measured {
		s, c := t.cpu(b)-server, cpuTime(b)-client
		t.us = append(t.us, float64((s+c).Nanoseconds())/1000/float64(n))
		t.server = append(t.server, float64(s.Nanoseconds())/1000/float64(n))
	}
}

// converse sends n requests over one connection, one after the other.
func (t *target) converse(first, n int) error {
	if t.grpc != "" {
		return t.converseGRPC(first, n)
	}
	conn, err := net.Dial("tcp", t.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for i := range n {
		if err := t.exchange(conn, r, first+i); err != nil {
			return err
		}
	}
	return nil
}

// exchange sends one request and reads its answer.
func (t *target) exchange(conn net.Conn, r *bufio.Reader, i int) error {
	if _, err := conn.Write(t.requests[i%len(t.requests)]); err != nil {
		return err
	}
	line, err := r.ReadSlice('\n')
	if err != nil || !strings.HasPrefix(string(line), "HTTP/1.1 200 ") {
		return fmt.Errorf("%s: %q, %w", t.name, line, err)
	}
	length := 0
	for len(line) > 2 {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return err
			}
		}
	}
	_, err = r.Discard(length)
	return err
}

// ratio is by how much a is cheaper than t: the median of the rounds, and the
// interval that holds the middle half of them.
func (t *target) ratio(a *target) (median, low, high float64) {
	all := make([]float64, len(t.us))
	for i := range all {
		all[i] = a.us[i] / t.us[i]
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)/4], all[len(all)*3/4]
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// atRate asks at 1,000 requests a second for some seconds, and returns how long the answers
// took, sorted.
func (t *target) atRate(b *testing.B) []time.Duration {
	b.Helper()
	const seconds, rate = 4, 1000
	var mu sync.Mutex
	var all []time.Duration
	free := make(chan *conversation, connections)
	for range connections {
		conn, err := net.Dial("tcp", t.addr)
		check(b, err)
		defer conn.Close()
		free <- &conversation{conn, bufio.NewReader(conn)}
	}
	var wg sync.WaitGroup
	began := time.Now()
	for i := range seconds * rate {
		due := began.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			sent := time.Now() // not when it was due: the client's own timer is late
			c := <-free        // waiting for a connection counts
			err := t.exchange(c.conn, c.r, i)
			took := time.Since(sent)
			free <- c
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.Error(err)
			}
			all = append(all, took)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}
