package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"iam-service/internal/app"
	"iam-service/internal/devstack"
	"iam-service/internal/devstack/devrauth"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	"iam-service/internal/postgres/postgrestest"
	"iam-service/internal/scripttest"
)

// testMain lets the test binary be the program, and stops the shared server.
type testMain struct{ m *testing.M }

func (t testMain) Run() int { return postgrestest.Run(t.m) }

func TestMain(m *testing.M) {
	testscript.Main(testMain{m}, map[string]func(){"iam-service": main})
}

// TestScripts runs testdata/*.txtar. Each script has a schema of its own in
// DATABASE_URL, not migrated, and an R-Auth of its own in RAUTH_URL.
func TestScripts(t *testing.T) {
	t.Parallel()
	for _, v := range app.Variables() {
		name := strings.TrimSuffix(v[0], "[_FILE]")
		scripttest.Variables = append(scripttest.Variables, name, name+"_FILE")
	}
	commands := scripttest.Commands()
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
	commands["keypair"] = func(ts *testscript.TestScript, _ bool, args []string) { // keypair PRIVATE PUBLIC: PEM files of an ES256 key
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		ts.Check(err)
		public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	}
	commands["sql"] = func(ts *testscript.TestScript, _ bool, args []string) { // sql STATEMENT
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
		ts.Check(err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, args[0])
		ts.Check(err)
	}
	commands["proxy"] = func(ts *testscript.TestScript, _ bool, args []string) { // proxy hears|deaf|swallows
		p := ts.Value("proxy").(*postgrestest.Proxy)
		p.Deafen(args[0] == "deaf")
		p.Swallow(args[0] == "swallows")
	}
	commands["nats"] = func(ts *testscript.TestScript, _ bool, args []string) { // nats up|down, at NATS_URL
		l := ts.Value("nats").(*natsServer)
		if args[0] == "down" {
			l.stop()
			return
		}
		ts.Check(l.start(strings.TrimPrefix(ts.Getenv("NATS_URL"), "nats://")))
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
			p, err := devrauth.New(srv.URL, devstack.Audience)
			if err != nil {
				return err
			}
			handler = p.Handler()
			env.Values["rauth"] = p
			database := postgrestest.EmptyURL(t)
			proxy := postgrestest.NewProxy(t, database)
			// A role of the script's own, which it makes itself, and the same database as that role.
			service, err := url.Parse(database)
			if err != nil {
				return err
			}
			role := "service_of_" + service.Query().Get("search_path")
			service.User = url.UserPassword(role, "secret")
			env.Values["proxy"] = proxy
			bus := &natsServer{dir: filepath.Join(env.WorkDir, "nats")}
			env.Defer(bus.stop)
			env.Values["nats"] = bus
			for name, v := range map[string]string{
				"DATABASE_URL": database, "SERVICE_ROLE": role, "SERVICE_URL": service.String(), "PROXY_URL": proxy.URL, "RAUTH_URL": srv.URL, "RAUTH_AUDIENCES": devstack.Audience,
				"GATEWAY_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "SHUTDOWN_DELAY": "1s",
				"TMPDIR": filepath.Join(env.WorkDir, "tmp"),
			} {
				env.Setenv(name, v)
			}
			return os.MkdirAll(filepath.Join(env.WorkDir, "tmp"), 0o755)
		},
	})
}

// natsServer is NATS with JetStream in process.
type natsServer struct {
	dir string
	ns  *server.Server
}

func (n *natsServer) start(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	n.ns, err = server.NewServer(&server.Options{Host: host, Port: p, JetStream: true, StoreDir: n.dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	go n.ns.Start()
	if !n.ns.ReadyForConnections(10 * time.Second) {
		return errors.New("NATS does not answer")
	}
	return nil
}

func (n *natsServer) stop() {
	if n.ns != nil {
		n.ns.Shutdown()
		n.ns.WaitForShutdown()
		n.ns = nil
	}
}
