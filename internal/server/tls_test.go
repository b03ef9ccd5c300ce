package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/logbuffer"
)

// authority issues certificates for tests.
type authority struct {
	testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{TB: t}
	a.cert, a.key = a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "CA"}})
	return a
}

// issue signs a template, by itself where the authority has no certificate yet.
func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.ok(err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	a.ok(err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	a.ok(err)
	cert, err := x509.ParseCertificate(der)
	a.ok(err)
	return cert, key
}

// pair is a certificate for 127.0.0.1 of this name, and its key, as PEM.
func (a *authority) pair(name string) (cert, key []byte) {
	a.Helper()
	c, k := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	a.ok(err)
	return pemOf("CERTIFICATE", c.Raw), pemOf("PRIVATE KEY", der)
}

func (a *authority) pem() []byte { return pemOf("CERTIFICATE", a.cert.Raw) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) ok(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// client is the TLS of a client; name "": without a certificate.
func (a *authority) client(name string) *tls.Config {
	a.Helper()
	cfg := &tls.Config{RootCAs: a.pool(), MinVersion: tls.VersionTLS12}
	if name != "" {
		pair, err := tls.X509KeyPair(a.pair(name))
		a.ok(err)
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// filesOf writes a certificate of this name, its key and the authority, in a folder of their own.
func filesOf(a *authority, name string) tlsFiles {
	a.Helper()
	dir := a.TempDir()
	f := tlsFiles{
		prefix: "EXT_AUTHZ", cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), clientCA: filepath.Join(dir, "ca.crt"),
	}
	cert, key := a.pair(name)
	a.ok(os.WriteFile(f.cert, cert, 0o600))
	a.ok(os.WriteFile(f.key, key, 0o600))
	a.ok(os.WriteFile(f.clientCA, a.pem(), 0o600))
	return f
}

// served is the name that the server identifies itself with, to a client that then reads a byte.
func served(t *testing.T, server, client *tls.Config) (string, error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = conn.Write([]byte{1}) // fails where the handshake does
			_ = conn.Close()
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // TLS 1.3 refuses a client after its handshake
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestFaultsOfTLSFilesAreReportedByVariable(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	good := filesOf(a, "one")
	for name, c := range map[string]struct {
		change func(f *tlsFiles)
		want   []string
	}{
		"nothing is wrong":       {func(*tlsFiles) {}, nil},
		"no TLS at all":          {func(f *tlsFiles) { f.cert, f.key, f.clientCA = "", "", "" }, nil},
		"no client certificates": {func(f *tlsFiles) { f.clientCA = "" }, nil},
		"no key":                 {func(f *tlsFiles) { f.key = "" }, []string{"EXT_AUTHZ_CERT_FILE and EXT_AUTHZ_KEY_FILE go together"}},
		"authorities alone":      {func(f *tlsFiles) { f.cert, f.key = "", "" }, []string{"EXT_AUTHZ_CLIENT_CA_FILE is set"}},
		"no such files": {func(f *tlsFiles) { f.cert, f.clientCA = "/nowhere", "/nowhere" },
			[]string{"EXT_AUTHZ_CERT_FILE cannot be read", "EXT_AUTHZ_CLIENT_CA_FILE cannot be read"}},
		"a key of another certificate": {func(f *tlsFiles) { f.key = filesOf(a, "two").key }, []string{"EXT_AUTHZ_CERT_FILE and EXT_AUTHZ_KEY_FILE cannot be used"}},
		"a key for authorities":        {func(f *tlsFiles) { f.clientCA = f.key }, []string{"EXT_AUTHZ_CLIENT_CA_FILE must hold certificates"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			c.change(&f)
			var faults []string
			f.check(func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
			if len(faults) != len(c.want) || slices.ContainsFunc(c.want, func(want string) bool { return !strings.Contains(strings.Join(faults, "\n"), want) }) {
				t.Errorf("reported: %q, want %q", faults, c.want)
			}
		})
	}
}

func TestAListenerWithClientAuthoritiesRejectsAClientWithoutACertificateOfTheirs(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	f := filesOf(a, "one")
	c, err := f.open(slog.New(slog.DiscardHandler), "h2")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := served(t, c.config(), a.client("gateway")); name != "one" {
		t.Errorf("a client with a certificate: %q, %v", name, err)
	}
	stranger := other.client("gateway")
	stranger.RootCAs = a.pool()
	for name, client := range map[string]*tls.Config{"without a certificate": a.client(""), "of another authority": stranger} {
		if _, err := served(t, c.config(), client); err == nil {
			t.Errorf("a client %s is let in", name)
		}
	}
	old := a.client("gateway")
	old.MaxVersion, old.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	if _, err := served(t, c.config(), old); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestReplacedCertificatesAreUsedAndUnusableOnesAreReported(t *testing.T) {
	t.Parallel()
	a, next := newAuthority(t), newAuthority(t)
	f := filesOf(a, "one")
	logs := &logbuffer.Buffer{}
	c, err := f.open(slog.New(slog.NewJSONHandler(logs, nil)), "h2")
	if err != nil {
		t.Fatal(err)
	}
	server := c.config() // as the listener has it from the start
	is := func(want string, client *tls.Config) {
		t.Helper()
		c.reread(context.Background())
		if name, err := served(t, server, client); name != want {
			t.Errorf("identifies itself as %q, want %q: %v", name, want, err)
		}
	}
	is("one", a.client("gateway"))

	cert, key := a.pair("two")
	write := func(file string, text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(f.cert, cert) // the key comes later
	is("one", a.client("gateway"))
	is("one", a.client("gateway"))
	if n := strings.Count(logs.String(), `"level":"WARN","msg":"certificate not reloaded"`); n != 1 || strings.Contains(logs.String(), "PRIVATE KEY") {
		t.Errorf("%d lines about what is unusable, want 1: %s", n, logs.String())
	}
	write(f.key, key)
	is("two", a.client("gateway"))

	write(f.clientCA, next.pem())
	gateway := next.client("gateway")
	gateway.RootCAs = a.pool()
	is("two", gateway)
	if _, err := served(t, server, a.client("gateway")); err == nil {
		t.Error("a client of the authority that was removed is let in")
	}
	if err := os.Remove(f.key); err != nil {
		t.Fatal(err)
	}
	is("two", gateway)
	if _, err := f.open(c.log); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened without a key: %v", err)
	}
}
