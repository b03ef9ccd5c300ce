package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/dev/scripttest"
	"iam-service/internal/iam"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/pkg/identity"
)

// TestScripts runs testdata/*.txtar. Each script has a schema of its own in
// DATABASE_URL, not migrated, and an R-Auth of its own in RAUTH_URL.
func TestScripts(t *testing.T) {
	t.Parallel()
	for _, v := range server.Variables() {
		name := strings.TrimSuffix(v[0], "[_FILE]")
		scripttest.Variables = append(scripttest.Variables, name, name+"_FILE")
	}
	scripttest.Variables = append(scripttest.Variables, "OTEL_BSP_SCHEDULE_DELAY", "OTEL_EXPORTER_OTLP_TIMEOUT") // the library reads them itself
	commands := scripttest.Commands()
	maps.Copy(commands, tracingCommands())
	maps.Copy(commands, extAuthzCommands())
	commands["now"] = now
	commands["sample"] = func(ts *testscript.TestScript, _ bool, _ []string) {
		ctx := context.Background()
		db, err := postgres.Open(ctx, postgres.Config{
			URL: ts.Getenv("DATABASE_URL"), Issuers: iam.Issuers{{URL: ts.Getenv("RAUTH_URL"), Tenants: []string{"*"}, Platform: true}},
		}, slog.New(slog.DiscardHandler), nil)
		ts.Check(err)
		defer db.Close()
		ts.Check(devstack.LoadSample(ctx, db, ts.Getenv("RAUTH_URL")))
	}
	commands["mint"] = func(ts *testscript.TestScript, _ bool, args []string) { // mint USER FILE [AUDIENCE [CLIENT SCOPE]]
		claims := map[string]any{"sub": args[0], "client_id": "web"}
		if len(args) > 2 {
			claims["aud"] = args[2]
		}
		if len(args) > 4 {
			claims["client_id"], claims["scope"] = args[3], args[4]
		}
		raw, err := ts.Value("rauth").(*devrauth.Server).Mint("ES256", claims)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(raw), 0o600))
	}
	commands["mintwith"] = func(ts *testscript.TestScript, _ bool, args []string) { // mintwith USER FILE CLAIMS
		claims := map[string]any{"sub": args[0], "client_id": "web"}
		ts.Check(json.Unmarshal([]byte(args[2]), &claims))
		raw, err := ts.Value("rauth").(*devrauth.Server).Mint("ES256", claims)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(raw), 0o600))
	}
	commands["streamid"] = func(ts *testscript.TestScript, _ bool, args []string) { // streamid NAME FILE: its stream_id
		var created struct {
			ID string `json:"stream_id"`
		}
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &created))
		ts.Setenv(args[0], created.ID)
	}
	commands["mintset"] = func(ts *testscript.TestScript, _ bool, args []string) { // mintset FILE CLAIMS: a security event token
		var claims map[string]any
		ts.Check(json.Unmarshal([]byte(args[1]), &claims))
		raw, err := ts.Value("rauth").(*devrauth.Server).SET(claims)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(raw), 0o600))
	}
	commands["dump"] = func(ts *testscript.TestScript, _ bool, args []string) { // dump FILE: all tables of the schema, as text
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
		ts.Check(err)
		defer conn.Close(ctx)
		rows, err := conn.Query(ctx, `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1`)
		ts.Check(err)
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		ts.Check(err)
		var out bytes.Buffer
		for _, table := range tables {
			_, err = conn.PgConn().CopyTo(ctx, &out, "COPY (SELECT * FROM "+pgx.Identifier{table}.Sanitize()+") TO STDOUT")
			ts.Check(err)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), out.Bytes(), 0o600))
	}
	commands["serves"] = func(ts *testscript.TestScript, _ bool, args []string) { // serves FILE: /metrics in answer has each series that FILE reads
		text, err := os.ReadFile(filepath.Join("..", "..", args[0]))
		ts.Check(err)
		series := seriesIn(string(text))
		if len(series) == 0 {
			ts.Fatalf("%s reads no metric", args[0])
		}
		for _, s := range series {
			if !s.served(ts.ReadFile("response")) {
				ts.Fatalf("%s reads %s, which the program does not serve", args[0], s)
			}
		}
	}
	commands["listen"] = func(ts *testscript.TestScript, _ bool, args []string) { // listen SUBJECT FILE: what is published on NATS_URL
		nc, err := nats.Connect(ts.Getenv("NATS_URL"))
		ts.Check(err)
		ts.Defer(nc.Close)
		file := ts.MkAbs(args[1])
		ts.Check(os.WriteFile(file, nil, 0o600))
		_, err = nc.Subscribe(args[0], func(m *nats.Msg) {
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				fmt.Fprintf(f, "%s %s", m.Subject, m.Data)
				if sent := m.Header["traceparent"]; len(sent) > 0 {
					fmt.Fprintf(f, " traceparent: %s", sent[0])
				}
				fmt.Fprintln(f)
				_ = f.Close() // what is missing is seen
			}
		})
		ts.Check(err)
		ts.Check(nc.Flush())
	}
	commands["backend"] = func(ts *testscript.TestScript, neg bool, args []string) { // [!] backend ADDR AUDIENCE ASSERTION FILE: what a backend makes of it
		v, err := identity.New(identity.Config{JWKS: "http://" + args[0] + "/.well-known/jwks.json", Issuer: ts.Getenv("ASSERTION_ISSUER"), Audiences: []string{args[1]}})
		ts.Check(err)
		id, err := v.Verify(context.Background(), args[2])
		if (err != nil) != neg {
			ts.Fatalf("verified as %+v: %v", id, err)
		}
		text, err := json.MarshalIndent(id, "", "  ")
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[3]), text, 0o600))
	}
	commands["keypair"] = func(ts *testscript.TestScript, _ bool, args []string) { // keypair PRIVATE PUBLIC: PEM files of an ES256 key
		ts.Check(writeKeyPair(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
	}
	commands["certificate"] = func(ts *testscript.TestScript, _ bool, args []string) { // certificate CERT KEY LIFETIME: PEM files, self-signed
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		lifetime, err := time.ParseDuration(args[2])
		ts.Check(err)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(lifetime)}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		ts.Check(err)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	}
	commands["sql"] = func(ts *testscript.TestScript, _ bool, args []string) { // sql STATEMENT
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
		ts.Check(err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, args[0])
		ts.Check(err)
	}
	commands["await"] = func(ts *testscript.TestScript, _ bool, args []string) { // await QUERY: until its answer is true
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
		ts.Check(err)
		defer conn.Close(ctx)
		is := func() (yes bool) {
			ts.Check(conn.QueryRow(ctx, args[0]).Scan(&yes))
			return yes
		}
		if !await.Until(time.Minute, 20*time.Millisecond, is) {
			ts.Fatalf("never: %s", args[0])
		}
	}
	commands["proxy"] = func(ts *testscript.TestScript, _ bool, args []string) { // proxy hears|deaf|swallows
		p := ts.Value("proxy").(*pgtest.Proxy)
		p.DropNotifications(args[0] == "deaf")
		p.Blackhole(args[0] == "swallows")
	}
	commands["nats"] = func(ts *testscript.TestScript, _ bool, args []string) { // nats up|down, at NATS_URL
		l := ts.Value("nats").(*natsServer)
		if args[0] == "down" {
			l.stop()
			return
		}
		ts.Check(l.start(strings.TrimPrefix(ts.Getenv("NATS_URL"), "nats://")))
	}
	commands["load"] = func(ts *testscript.TestScript, _ bool, args []string) { // load begin NAME TOKENFILE TENANT URL... | load end NAME
		if args[0] == "end" {
			ts.Check(ts.Value(args[1]).(*load).end())
			return
		}
		l := ts.Value("loads").(func(string) *load)(args[1])
		l.begin(strings.TrimSpace(ts.ReadFile(args[2])), args[3], args[4:])
	}
	commands["tamper"] = func(ts *testscript.TestScript, _ bool, args []string) { // tamper BUNDLE INTO: another rule, the same signature
		ts.Check(repack(ts.MkAbs(args[0]), ts.MkAbs(args[1]), func(name string, text []byte) []byte {
			if strings.HasSuffix(name, "claims.rego") {
				return append(text, "\nforged := true\n"...)
			}
			return text
		}))
	}
	commands["unchecked"] = func(ts *testscript.TestScript, _ bool, args []string) { // unchecked FOLDER INTO KEY REVISION: built and signed as by who does not check first
		packed, err := authoring.Build(ts.MkAbs(args[0]), args[3], &authoring.Signer{File: ts.MkAbs(args[2]), ID: "iam"})
		ts.Check(err)
		ts.Check(authoring.WriteFile(ts.MkAbs(args[1]), packed, 0o600))
	}
	commands["huge"] = func(ts *testscript.TestScript, _ bool, args []string) { // huge FILE: 33 MB
		ts.Check(authoring.WriteFile(ts.MkAbs(args[0]), make([]byte, 33<<20), 0o600))
	}
	commands["bomb"] = func(ts *testscript.TestScript, _ bool, args []string) { // bomb FILE: small, 70 MB unpacked
		var out bytes.Buffer
		pack := func(write func(w *tar.Writer) error, more []byte) {
			z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
			ts.Check(err)
			w := tar.NewWriter(z)
			ts.Check(write(w))
			ts.Check(w.Flush())
			_, err = z.Write(more)
			ts.Check(err)
			ts.Check(z.Close())
		}
		for i := range 7 { // a gzip file can be several
			pack(func(w *tar.Writer) error {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("/iam/f%d.rego", i), Mode: 0o600, Size: 10 << 20}); err != nil {
					return err
				}
				_, err := w.Write(make([]byte, 10<<20))
				return err
			}, nil)
		}
		pack(func(*tar.Writer) error { return nil }, make([]byte, 1024))
		ts.Check(authoring.WriteFile(ts.MkAbs(args[0]), out.Bytes(), 0o600))
	}
	commands["doubling"] = func(ts *testscript.TestScript, _ bool, args []string) { // doubling FILE: rules whose types take OPA a year
		text := "package iam.claims\n\n_t0 := [input.x, 1]\n\n_u0 := [input.x, 1]\n"
		for n := range 60 {
			text += fmt.Sprintf("\n_t%d := [_t%d, _t%d]\n\n_u%d := [_u%d, _u%d]\n", n+1, n, n, n+1, n, n)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text+"\n_never if _t60 == _u60\n"), 0o600))
	}
	commands["values"] = func(ts *testscript.TestScript, _ bool, args []string) { // values FILE: many of them, in little space
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(`{"x": [0`+strings.Repeat(",[]", 600_000)+`]}`), 0o600))
	}
	commands["config"] = func(ts *testscript.TestScript, _ bool, args []string) { // config FILE KEY: an OPA configuration for the plane at PLANE
		key, err := json.Marshal(ts.ReadFile(args[1]))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), fmt.Appendf(nil, `{
			"services": {"plane": {"url": "http://%s"}}, "keys": {"iam": {"algorithm": "ES256", "key": %s}},
			"bundles": {"main": {"service": "plane", "resource": "iam.tar.gz", "signing": {"keyid": "iam"}, "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1}}},
			"decision_logs": {"service": "plane", "reporting": {"min_delay_seconds": 1, "max_delay_seconds": 1}}, "status": {"service": "plane"}}`, ts.Getenv("PLANE"), key), 0o600))
	}
	commands["away"] = func(ts *testscript.TestScript, _ bool, args []string) { // away FROM INTO: the same configuration, of a plane that is not there
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("PLANE"), "127.0.0.1:1")), 0o600))
	}
	commands["collector"] = func(ts *testscript.TestScript, _ bool, args []string) { // collector ADDR FOLDER: serves the folder, and writes what is posted to the file collected
		l, err := net.Listen("tcp", args[0])
		ts.Check(err)
		var mu sync.Mutex
		files := http.FileServer(http.Dir(ts.MkAbs(args[1])))
		into := ts.MkAbs("collected")
		ts.Check(os.WriteFile(into, nil, 0o600))
		srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				files.ServeHTTP(w, r)
				return
			}
			body, err := uncompressed(r)
			mu.Lock()
			defer mu.Unlock()
			f, opened := os.OpenFile(into, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil && opened == nil {
				fmt.Fprintf(f, "%s %s\n", r.URL.Path, body)
				_ = f.Close() // what is missing is seen
			}
		})}
		go func() { _ = srv.Serve(l) }()
		ts.Defer(func() { _ = srv.Close() })
	}
	commands["rauth"] = func(ts *testscript.TestScript, _ bool, args []string) { // rauth gone|back|admin TOKEN
		p := ts.Value("rauth").(*devrauth.Server)
		if args[0] == "admin" {
			p.AdminToken(args[1])
			return
		}
		p.SetGone(args[0] == "gone")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			var handler http.Handler
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
			env.Defer(srv.Close)
			p, err := devrauth.NewShared(srv.URL, devstack.Audience, "script")
			if err != nil {
				return err
			}
			handler = p.Handler()
			env.Values["rauth"] = p
			env.Values["traces"] = &traceCollector{spans: map[string]*tracev1.Span{}}
			database := pgtest.EmptyURL(t)
			proxy := pgtest.NewProxy(t, database)
			// A role of the script's own, which it makes itself, and the same database as that role.
			service, err := url.Parse(database)
			if err != nil {
				return err
			}
			role := "service_of_" + service.Query().Get("search_path")
			service.User = url.UserPassword(role, "secret")
			env.Values["proxy"] = proxy
			env.Values["loads"] = func(name string) *load {
				l := &load{}
				env.Values[name] = l
				env.Defer(func() { _ = l.end() })
				return l
			}
			bus := &natsServer{dir: filepath.Join(env.WorkDir, "nats")}
			env.Defer(bus.stop)
			env.Values["nats"] = bus
			for name, v := range map[string]string{
				"DATABASE_URL": database, "SERVICE_ROLE": role, "SERVICE_URL": service.String(), "PROXY_URL": proxy.URL, "RAUTH_URL": srv.URL, "RAUTH_AUDIENCES": devstack.Audience,
				"GATEWAY_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "SHUTDOWN_DELAY": "1s",
				"ENRICH_DEADLINE": "10s", // the machine may be slow
				"TMPDIR":          filepath.Join(env.WorkDir, "tmp"),
			} {
				env.Setenv(name, v)
			}
			if programPath != "" {
				env.Setenv("PATH", programPath+string(filepath.ListSeparator)+env.Getenv("PATH"))
			}
			return os.MkdirAll(filepath.Join(env.WorkDir, "tmp"), 0o755)
		},
	})
}

// repack writes a bundle anew, with its files changed.
func repack(from, into string, change func(name string, text []byte) []byte) error {
	packed, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	w, r := tar.NewWriter(zw), tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		text = change(h.Name, text)
		h.Size = int64(len(text))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), zw.Close()); err != nil {
		return err
	}
	return authoring.WriteFile(into, out.Bytes(), 0o600)
}

// load asks replicas as a gateway does, without a pause, until it ends.
type load struct {
	stop    chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	asked   map[int]int // by status
	bad     string
}

func (l *load) begin(token, tenant string, urls []string) {
	stop := make(chan struct{})
	l.stop, l.asked = stop, map[int]int{}
	for _, url := range urls {
		l.running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				l.ask(token, tenant, url)
			}
		})
	}
}

func (l *load) ask(token, tenant, url string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+url+"/system/enrich-token", nil)
	if err == nil {
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("X-Active-Tenant-ID", tenant)
	}
	resp, err := http.DefaultClient.Do(req)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.bad = err.Error()
		return
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if l.asked[resp.StatusCode]++; resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusForbidden {
		problem, err := io.ReadAll(resp.Body)
		l.bad = fmt.Sprint(string(problem), " ", err)
	}
}

// end says what was not an answer.
func (l *load) end() error {
	if l.stop == nil {
		return nil
	}
	close(l.stop)
	l.stop = nil
	l.running.Wait()
	if l.bad != "" || l.asked[http.StatusOK] == 0 || l.asked[http.StatusForbidden] == 0 {
		return fmt.Errorf("under load there was %v; %s", l.asked, l.bad)
	}
	return nil
}

// uncompressed reads the body of a request, which the sender may have compressed.
func uncompressed(r *http.Request) ([]byte, error) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return io.ReadAll(r.Body)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
