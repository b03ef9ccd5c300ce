// Package setup prints the configuration of gateways in front of this service: complete, and closed where they are open
// by default.
//
// It owns the templates, one for each kind of gateway, and what all must do: set every identity header from the response
// or remove it, drop its aliases, let no Connection header of a client remove a claim, send the facts of the request in
// the headers of the profile, wait less than a second, and deny without a response. It does not know how the service reads
// a request (package gateway).
package setup

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"iam-service/internal/gateway"
	"iam-service/internal/iam"
)

//go:embed templates
var templates embed.FS

// kind is a gateway that there are templates for.
type kind struct {
	profile string   // of GATEWAY_PROFILE; "" over gRPC
	files   []string // templates, by the names of the files that they are
	doc     string

	needsCA string // why a service with TLS needs --iam-ca; "": the authorities of the system can be named
	policy  bool   // TLS by a BackendTLSPolicy, which is of all ports of a Service
	noCert  string // why it cannot have a client certificate; "": it can
}

const (
	// byPlugin is why the opa plugins have no client certificate: opa_host, …, ssl_verify (Kong's schema) and
	// apisix/plugins/opa.lua.
	byPlugin = "the opa plugin has no option for a client certificate"
	certKong = "Kong's sandbox for functions reads no files: terminate TLS in a proxy of its own"
)

var kinds = map[string]kind{
	"nginx":         {profile: "nginx", files: []string{"nginx.conf"}, doc: "nginx, with auth_request"},
	"ingress-nginx": {profile: "ingress-nginx", files: []string{"ingress-nginx.yaml"}, doc: "ingress-nginx, by annotations"},
	"traefik":       {profile: "traefik", files: []string{"traefik.yml", "iam.yml"}, doc: "Traefik 3.7.12 or newer, by files"},
	"traefik-crd":   {profile: "traefik", files: []string{"traefik-values.yaml", "traefik-crd.yaml"}, doc: "Traefik 3.7.12 or newer, by CRDs"},
	"caddy":         {profile: "caddy", files: []string{"Caddyfile"}, doc: "Caddy 2.6 or newer"},
	"haproxy": {
		profile: "haproxy", files: []string{"haproxy.cfg", "iam.lua"}, doc: "HAProxy 2.6 or newer, with Lua",
		noCert: "HAProxy reads certificate and key from one file: add crt FILE to its server lines",
	},
	"envoy":      {profile: "envoy-http", files: []string{"envoy.yaml"}, doc: "Envoy, ext_authz over HTTP"},
	"envoy-grpc": {files: []string{"envoy-grpc.yaml"}, doc: "Envoy, ext_authz over gRPC"},
	"istio": {
		files: []string{"istio-mesh.yaml", "istio.yaml"}, doc: "Istio, a CUSTOM provider over gRPC",
		needsCA: "Istio's gateways take the authorities from a Secret",
	},
	"envoy-gateway": {
		files: []string{"envoy-gateway.yaml"}, doc: "Envoy Gateway, a SecurityPolicy over gRPC",
		policy: true,
	},
	"gateway-api": {
		profile: "gateway-api", files: []string{"gateway-api.yaml"}, doc: "the Gateway API's external auth (GEP-1494)",
		policy: true, noCert: "the Gateway itself names it: spec.tls.backend.clientCertificateRef (GEP-3155)",
	},
	"apisix": {
		profile: "apisix", files: []string{"apisix.yaml"}, doc: "Apache APISIX 3, with forward-auth",
		noCert: "APISIX's forward-auth has no option for a client certificate",
	},
	"apisix-opa": {profile: "opa", files: []string{"apisix-opa.yaml"}, doc: "Apache APISIX 3, with its opa plugin", noCert: byPlugin},
	"kong":       {profile: "kong", files: []string{"kong.yaml"}, doc: "Kong 3, with a pre-function", noCert: certKong},
	"kong-opa":   {profile: "opa", files: []string{"kong-opa.yaml"}, doc: "Kong Enterprise 3, with its opa plugin", noCert: byPlugin},
}

// Kinds are the names of all gateways, sorted, with what each is.
func Kinds() [][2]string {
	var all [][2]string
	for name, k := range kinds {
		all = append(all, [2]string{name, k.doc})
	}
	slices.SortFunc(all, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return all
}

// Settings are what a configuration depends on.
type Settings struct {
	Headers  []string          // that every 200 carries (GATEWAY_HEADERS), as they are written
	Usual    bool              // Headers are the default
	Profiles []gateway.Profile // enabled in the service
	IAM      string            // URL of GATEWAY_ADDR, as the gateway reaches it
	IAMCA    string            // PEM file of the authorities that its certificate is verified by; "": those of the system
	IAMCert  string            // PEM file of the certificate that the gateway identifies itself with (GATEWAY_CLIENT_CA_FILE, EXT_AUTHZ_CLIENT_CA_FILE)
	IAMKey   string            // PEM file of its key
	ExtAuthz string            // host:port of EXT_AUTHZ_ADDR, as the gateway reaches it; with https:// before it, by TLS
	Backend  string            // URL of what is behind the gateway
	Listen   string            // host:port that the gateway serves
	Loopback string            // host:port that HAProxy and Traefik use between their own parts
	Dir      string            // folder of the files, with a final slash, where one names another; "" is relative
}

// File is one file of a configuration.
type File struct{ Name, Text string }

// Generate returns the configuration of a kind of gateway. Its error is of kind Invalid, and names every setting that is
// not valid.
func Generate(name string, s Settings) ([]File, error) {
	k, ok := kinds[name]
	if !ok {
		var names []string
		for _, known := range Kinds() {
			names = append(names, known[0])
		}
		return nil, iam.Errorf(iam.Invalid, "there is no gateway %q; there are %s", name, strings.Join(names, ", "))
	}
	d, err := dataOf(k, s)
	if err != nil {
		return nil, err
	}
	all, err := template.New("").Funcs(template.FuncMap{
		"lower":     strings.ToLower,
		"snake":     func(header string) string { return strings.ReplaceAll(strings.ToLower(header), "-", "_") },
		"join":      strings.Join,
		"canonical": http.CanonicalHeaderKey, // as Caddy names placeholders
	}).ParseFS(templates, "templates/*.tmpl")
	if err != nil {
		return nil, err
	}
	files := make([]File, len(k.files))
	for i, file := range k.files {
		var text bytes.Buffer
		if err := all.ExecuteTemplate(&text, file+".tmpl", d); err != nil {
			return nil, err
		}
		files[i] = File{Name: file, Text: text.String()}
	}
	return files, nil
}

// data is what templates see.
type data struct {
	Headers        []string
	HeadersSetting string   // of GATEWAY_HEADERS; "": the default
	Aliases        []string // two for each header: see aliases

	Foreign      []string // headers of clients about the request or the provider
	NginxForeign []string // without those that nginx sets
	EnvoyForeign []string

	Profile, Path    string
	IAM, Backend     endpoint
	ExtAuthz         endpoint
	Listen, Loopback string
	ListenHost, Site string
	ListenPort       string
	Dir              string
}

// foreign are headers that only a gateway may set, and that backends or this service read. X-Forwarded-For, -Proto and
// -Host are set by every gateway itself.
var foreign = []string{
	"Forwarded", "X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-URI", "X-Original-URL",
	"X-Original-Host", "X-Rewrite-URL", "X-Upstream-IdP-ID",
	"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", // frameworks take them for the method that was authorized
	"HTTP2-Settings", // without it no server may switch to h2c (RFC 7540, section 3.2.1), whatever passes an Upgrade header on
}

func dataOf(k kind, s Settings) (*data, error) {
	d := &data{
		Headers:  s.Headers,
		Aliases:  aliases(s.Headers),
		Foreign:  foreign,
		Profile:  k.profile,
		Listen:   s.Listen,
		Loopback: s.Loopback,
		Dir:      s.Dir,
	}
	if !s.Usual {
		d.HeadersSetting = strings.Join(s.Headers, ",")
	}
	for _, h := range foreign {
		d.EnvoyForeign = append(d.EnvoyForeign, strings.ToLower(h))
		if h != "X-Original-Method" && h != "X-Original-URL" {
			d.NginxForeign = append(d.NginxForeign, h)
		}
	}
	d.EnvoyForeign = append(d.EnvoyForeign, "x-forwarded-host")
	if k.profile != "" {
		own, err := gateway.Profiles(k.profile)
		if err != nil {
			return nil, err
		}
		d.Path = own[0].Path(append(slices.Clone(s.Profiles), own[0]))
	}
	var wrong []iam.FieldError
	var err error
	if d.IAM, err = parseURL(s.IAM); err != nil {
		wrong = append(wrong, iam.FieldError{Pointer: "iam", Detail: err.Error()})
	}
	if d.Backend, err = parseURL(s.Backend); err != nil {
		wrong = append(wrong, iam.FieldError{Pointer: "backend", Detail: err.Error()})
	}
	if !strings.HasPrefix(s.ExtAuthz, "https://") {
		s.ExtAuthz = "grpc://" + s.ExtAuthz
	}
	if d.ExtAuthz, err = parseURL(s.ExtAuthz); err != nil {
		wrong = append(wrong, iam.FieldError{Pointer: "ext-authz", Detail: "must be host:port, or https://host:port with TLS"})
	}
	wrong = append(wrong, d.secure(&k, &s)...)
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		wrong = append(wrong, iam.FieldError{Pointer: "listen", Detail: "must be host:port or :port"})
	}
	if _, _, err := net.SplitHostPort(s.Loopback); err != nil {
		wrong = append(wrong, iam.FieldError{Pointer: "loopback", Detail: "must be host:port"})
	}
	d.ListenHost, d.ListenPort, d.Site = "0.0.0.0", port, "http://:"+port
	if host != "" {
		d.ListenHost = host
	}
	if k.profile == "nginx" && host == "" {
		d.Listen = port
	}
	return d, iam.InvalidFields(wrong)
}

// secure sets what TLS to the service needs, and returns what is wrong with it.
func (d *data) secure(k *kind, s *Settings) (wrong []iam.FieldError) {
	fault := func(flag, detail string) { wrong = append(wrong, iam.FieldError{Pointer: flag, Detail: detail}) }
	for flag, file := range map[string]string{"iam-ca": s.IAMCA, "iam-cert": s.IAMCert, "iam-key": s.IAMKey} {
		if strings.ContainsAny(file, "\"';{}\n ") {
			fault(flag, "must be a file name without spaces, quotes, braces and semicolons")
		}
	}
	encrypted := d.IAM.TLS() || k.profile == "" && d.ExtAuthz.TLS()
	switch {
	case (s.IAMCert == "") != (s.IAMKey == ""):
		fault("iam-cert", "and --iam-key go together: set both or none")
	case s.IAMCert != "" && k.noCert != "":
		fault("iam-cert", "cannot be used: "+k.noCert)
	case s.IAMCert != "" && !encrypted:
		fault("iam-cert", "needs an https --iam or --ext-authz: certificates exist in TLS only")
	}
	if k.needsCA != "" && encrypted && s.IAMCA == "" {
		fault("iam-ca", "is needed with https: "+k.needsCA)
	}
	if k.policy && k.profile == "" && d.IAM.Service() == d.ExtAuthz.Service() && d.IAM.TLS() != d.ExtAuthz.TLS() {
		fault("ext-authz", "must be https where --iam is, and the other way round: a BackendTLSPolicy is of all ports of a Service")
	}
	d.IAM.CA, d.IAM.Cert, d.IAM.Key = s.IAMCA, s.IAMCert, s.IAMKey
	d.ExtAuthz.CA, d.ExtAuthz.Cert, d.ExtAuthz.Key = s.IAMCA, s.IAMCert, s.IAMKey
	return wrong
}

// endpoint is the URL of a service, without a path.
type endpoint struct {
	Scheme, Hostname, Port string

	CA        string // PEM file of the authorities that its certificate is verified by; "": those of the system
	Cert, Key string // PEM files that the gateway identifies itself with; "": it does not
}

// Service is the name of the Kubernetes Service that the host is.
func (e endpoint) Service() string {
	name, _, _ := strings.Cut(e.Hostname, ".")
	return name
}

// TLS reports whether connections are encrypted.
func (e endpoint) TLS() bool { return e.Scheme == "https" }

// IsAddress reports whether the host is an IP address.
func (e endpoint) IsAddress() bool { return net.ParseIP(e.Hostname) != nil }

// Host is what a connection is made to.
func (e endpoint) Host() string { return net.JoinHostPort(e.Hostname, e.Port) }

// String is the URL.
func (e endpoint) String() string { return e.Scheme + "://" + e.Host() }

func parseURL(s string) (endpoint, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return endpoint{}, fmt.Errorf("must be a URL without a path, such as http://iam-service:8080, is %q", s)
	}
	e := endpoint{Scheme: u.Scheme, Hostname: u.Hostname(), Port: u.Port()}
	switch {
	case u.Scheme == "grpc" && e.Port != "":
	case u.Scheme != "http" && u.Scheme != "https":
		return endpoint{}, fmt.Errorf("must be http or https, is %q", s)
	case e.Port == "" && u.Scheme == "http":
		e.Port = "80"
	case e.Port == "":
		e.Port = "443"
	}
	if e.Port == "" {
		return endpoint{}, fmt.Errorf("must have a port, is %q", s)
	}
	return e, nil
}

// aliases are the two spellings of each header that have another separator throughout: CGI, WSGI and PHP read X_User_ID and
// X.User.ID as X-User-ID. All spellings would be 3^n-1 for n separators; what drops the others is a matter of each gateway.
// The headers themselves are not among them.
func aliases(headers []string) []string {
	var all []string
	for _, h := range headers {
		for _, separator := range []string{"_", "."} {
			if s := strings.ReplaceAll(h, "-", separator); s != h {
				all = append(all, s)
			}
		}
	}
	return all
}
