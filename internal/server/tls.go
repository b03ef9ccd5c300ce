package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// tlsFiles are the files of a listener's TLS. None at all: the listener is plain text.
type tlsFiles struct {
	prefix   string // of the variables: EXT_AUTHZ names EXT_AUTHZ_CERT_FILE, _KEY_FILE and _CLIENT_CA_FILE
	cert     string // PEM: the certificate and its intermediates
	key      string // PEM: its private key
	clientCA string // PEM: authorities of client certificates; "": none is requested
}

func (f *tlsFiles) enabled() bool { return f.cert != "" }

// check reports what is wrong with the files, by variable.
func (f *tlsFiles) check(fault func(string, ...any)) {
	switch {
	case (f.cert == "") != (f.key == ""):
		fault("%s_CERT_FILE and %s_KEY_FILE go together: set both or none", f.prefix, f.prefix)
	case f.clientCA != "" && f.cert == "":
		fault("%s_CLIENT_CA_FILE is set, and %s_CERT_FILE is missing: client certificates exist in TLS only", f.prefix, f.prefix)
	case f.enabled():
		if _, err := f.read(); err != nil {
			for _, e := range unjoin(err) {
				fault("%v", e)
			}
		}
	}
}

// material is what the files hold at one moment. It is immutable.
type material struct {
	digest  [sha256.Size]byte // of all files
	cert    tls.Certificate
	clients *x509.CertPool // nil: client certificates are not requested
}

// read returns the content of the files. Its error joins one for each file that cannot be used, by variable.
func (f *tlsFiles) read() (*material, error) {
	var errs []error
	sum := sha256.New()
	load := func(variable, name string) []byte {
		text, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s_%s cannot be read: %w", f.prefix, variable, err))
		}
		fmt.Fprintf(sum, "%d ", len(text))
		sum.Write(text)
		return text
	}
	m := &material{}
	cert, key := load("CERT_FILE", f.cert), load("KEY_FILE", f.key)
	if f.clientCA != "" {
		authorities := load("CLIENT_CA_FILE", f.clientCA)
		m.clients = x509.NewCertPool()
		if len(errs) == 0 && !m.clients.AppendCertsFromPEM(authorities) {
			errs = append(errs, fmt.Errorf("%s_CLIENT_CA_FILE must hold certificates in PEM, and %s holds none", f.prefix, f.clientCA))
		}
	}
	if cert != nil && key != nil {
		var err error
		if m.cert, err = tls.X509KeyPair(cert, key); err != nil {
			errs = append(errs, fmt.Errorf("%s_CERT_FILE and %s_KEY_FILE cannot be used together: %w", f.prefix, f.prefix, err))
		}
	}
	sum.Sum(m.digest[:0])
	return m, errors.Join(errs...)
}

// rereadEvery is how often the files are read: replaced ones are used within that time.
const rereadEvery = 5 * time.Second

// certificates are what a listener identifies itself with and which clients it accepts. Files that change are
// used for the next connection; files that became unusable are reported, and the last good ones stay.
type certificates struct {
	files     tlsFiles
	protocols []string // of ALPN, preferred first
	log       *slog.Logger
	current   atomic.Pointer[tls.Config]

	// of reread alone
	used, broken [sha256.Size]byte // digests: in use, and reported as unusable
}

// open reads the files of a listener that speaks these protocols (ALPN).
func (f *tlsFiles) open(log *slog.Logger, protocols ...string) (*certificates, error) {
	c := &certificates{files: *f, protocols: protocols, log: log.With(slog.String("variable", f.prefix+"_CERT_FILE"))}
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	c.use(m)
	return c, nil
}

// config is for the listener. It follows the files.
func (c *certificates) config() *tls.Config {
	follow := c.current.Load().Clone()
	follow.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return follow
}

func (c *certificates) use(m *material) {
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{m.cert},
		NextProtos:   c.protocols,
	}
	if m.clients != nil {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, m.clients
		cfg.SessionTicketsDisabled = true // a session of a removed authority must not be resumed
	}
	c.used, c.broken = m.digest, [sha256.Size]byte{}
	c.current.Store(cfg)
}

// run follows the files until ctx ends.
func (c *certificates) run(ctx context.Context) {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.reread(ctx)
		}
	}
}

// reread uses the files if they have changed. It reports an unusable content once.
func (c *certificates) reread(ctx context.Context) {
	m, err := c.files.read()
	switch {
	case err != nil && c.broken != m.digest:
		c.broken = m.digest
		c.log.WarnContext(ctx, "certificate not reloaded", slog.Any("err", err))
	case err == nil && m.digest != c.used:
		c.use(m)
		c.log.InfoContext(ctx, "certificate reloaded", slog.Time("not_after", m.cert.Leaf.NotAfter))
	case err == nil:
		c.broken = [sha256.Size]byte{} // the files in use are back
	}
}
