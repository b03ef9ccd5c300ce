package probe_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-service/internal/gateway/probe"
)

// nginxHeaders are what the documented block of nginx copies; the full list is all of identity.
var nginxHeaders = []string{"X-User-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles"}

func TestNginx(t *testing.T) {
	t.Parallel()
	t.Run("every header set", func(t *testing.T) {
		t.Parallel()
		r := run(t, nginx(t, identity, `underscores_in_headers off;`))
		if len(r.Faults) > 0 {
			t.Errorf("%d faults", len(r.Faults))
		}
		for _, p := range r.Protocols {
			if !p.Tested {
				t.Errorf("%s was not tested: %s", p.Name, p.Why)
			}
		}
	})
	t.Run("headers left out, invalid names passed", func(t *testing.T) {
		t.Parallel()
		r := run(t, nginx(t, nginxHeaders, `underscores_in_headers on; ignore_invalid_headers off;`))
		for _, k := range []probe.Kind{probe.Forged, probe.Alias, probe.Twice} {
			if r.Kinds[k] == 0 {
				t.Errorf("no fault %s", k)
			}
		}
		for _, h := range r.Headers {
			if forged := h.Faults[probe.Forged] > 0; forged != (h.Name == "X-Principal-Type" || h.Name == "X-Decision-ID") {
				t.Errorf("%s: %v", h.Name, h.Faults)
			}
		}
	})
}

// nginx runs one with TLS and HTTP/2, which sets the headers from what the authorization answers.
func nginx(t *testing.T, headers []string, server string) probe.Config {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program = "/usr/sbin/nginx"; exec.CommandContext(t.Context(), program, "-v").Run() != nil {
			t.Skip("nginx is not installed: the probe was not tried against it")
		}
	}
	_, backend := echo(t)
	authorize := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Authorization"]) > 1 || len(r.Header["X-Active-Tenant-Id"]) > 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		values, status := answers(r.Header.Get("Authorization"), r.Header.Get("X-Active-Tenant-ID"))
		if r.Header.Get("X-Forwarded-Uri") == "/open" && len(r.Header["Authorization"]) == 0 {
			values, status = map[string]string{"X-Principal-Type": "anonymous"}, http.StatusOK
		}
		for n, v := range values {
			w.Header().Set(n, v)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(authorize.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	pool := certificate(t, dir)
	var set strings.Builder
	for _, h := range headers {
		v := strings.ToLower(strings.ReplaceAll(h, "-", "_"))
		fmt.Fprintf(&set, "auth_request_set $iam_%s $upstream_http_%s; proxy_set_header %s $iam_%s;\n", v, v, h, v)
	}
	conf := strings.NewReplacer("DIR", dir, "ADDR", addr, "AUTHORIZE", authorize.URL, "BACKEND", backend, "SET", set.String(), "SERVER", server).Replace(`
daemon off; worker_processes 1; pid DIR/pid; error_log DIR/error.log;
events {}
http {
  access_log off;
  client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
  server {
    listen ADDR ssl http2;
    ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem;
    SERVER
    location = /_iam {
      internal; proxy_pass AUTHORIZE; proxy_pass_request_body off;
      proxy_set_header Content-Length ""; proxy_set_header X-Forwarded-Uri $request_uri;
    }
    location / {
      auth_request /_iam;
      SET
      proxy_set_header Host $host;
      proxy_set_header X-HTTP-Method-Override ""; proxy_set_header X-Original-URL "";
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass BACKEND;
    }
  }
}
`)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-p", dir, "-c", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // the master stops its worker
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cancel(); <-exited })
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-exited:
			t.Fatalf("nginx exits: %s", out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	cfg := config("https://"+addr, backend)
	cfg.TLS = &tls.Config{RootCAs: pool}
	return cfg
}

// certificate writes a self-signed certificate of 127.0.0.1.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{"cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}
