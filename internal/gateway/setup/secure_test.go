package setup_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/world"
)

// Between a gateway and a service with TLS, an impostor must not be trusted: it could say who a client is.
func TestAGatewayVerifiesTheCertificateOfTheService(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			for name, c := range map[string]struct {
				host    string // in the certificate
				known   bool   // its authority
				trusted bool
			}{
				"of a known authority":    {host: "localhost", known: true, trusted: true},
				"of an unknown authority": {host: "localhost"},
				"for another host":        {host: "other.example", known: true},
			} {
				t.Run(name, func(t *testing.T) {
					s := start(t, p, options{secure: func(w *world.World) *secure { return serveTLS(t, w, c.host, c.known) }})
					a := s.send("GET /orders", s.bearer("alice"))
					if c.trusted {
						if a.status != 200 || a.seen == nil || a.seen.Header.Get("X-User-Subject") != "alice" {
							t.Errorf("%d %s\n%s", a.status, a.body, s.log)
						}
						a = s.send("GET /v1/me/tenants", s.bearer("alice"))
						if a.status != 200 {
							t.Errorf("tenants: %d %s", a.status, a.body)
						}
						return
					}
					if a.status < 500 || a.seen != nil {
						t.Errorf("%d %s", a.status, a.body)
					}
					if a = s.send("GET /v1/me/tenants", s.bearer("alice")); a.status < 500 {
						t.Errorf("tenants: %d %s", a.status, a.body)
					}
				})
			}
		})
	}
}

// serveTLS serves the gateways' listener at localhost with a certificate for a host.
func serveTLS(t *testing.T, w *world.World, host string, known bool) *secure {
	t.Helper()
	dir := t.TempDir()
	ca := authority(t)
	cert := ca.issue(t, host)
	if !known {
		ca = authority(t)
	}
	file := filepath.Join(dir, "ca.pem")
	w.OK(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600))
	port, err := freeport.Port()
	w.OK(err)
	srv := &http.Server{
		Handler: w.Gateway.Handler(), ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), // refused handshakes
	}
	served := 0
	for _, address := range []string{"127.0.0.1", "::1"} { // localhost is either
		l, err := net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
		if err != nil {
			continue
		}
		served++
		go func() { _ = srv.ServeTLS(l, "", "") }()
	}
	if served == 0 {
		t.Fatal("localhost cannot be listened at")
	}
	t.Cleanup(func() { _ = srv.Close() })
	return &secure{url: fmt.Sprintf("https://localhost:%d", port), ca: file}
}

// issuer is an authority of certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(t *testing.T) issuer {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority " + t.Name()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{cert, key}
}

func (i issuer) issue(t *testing.T, host string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, &key.PublicKey, i.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
