package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// message is a request of HTTP/1.1 before it is written. Nothing of it is validated: most attacks are
// requests that no library sends.
type message struct {
	method, target, version string
	lines                   []string // field lines without their end
	eol                     string
	body                    string
}

func (m *message) add(lines ...string) { m.lines = append(m.lines, lines...) }

// first puts a line directly below the request line.
func (m *message) first(line string) { m.lines = append([]string{line}, m.lines...) }

// drop removes the lines of a name.
func (m *message) drop(name string) {
	var rest []string
	for _, l := range m.lines {
		if n, _, _ := strings.Cut(l, ":"); !sameName(n, name) {
			rest = append(rest, l)
		}
	}
	m.lines = rest
}

func (m *message) set(name, value string) {
	m.drop(name)
	m.add(name + ": " + value)
}

func (m *message) bytes() []byte {
	return []byte(m.method + " " + m.target + " " + m.version + m.eol + strings.Join(append(m.lines, "", ""), m.eol) + m.body)
}

// reproduce is a shell command that sends m. Tokens stay variables.
func (m *message) reproduce(g gateway, tokens []variable) string {
	text := escape(string(m.bytes()))
	for _, t := range tokens {
		text = strings.ReplaceAll(text, escape(t.value), `'"$`+t.name+`"'`)
	}
	to := "nc -q 2 " + g.host() + " " + g.port()
	if g.tls != nil {
		to = "openssl s_client -quiet -servername " + g.tls.ServerName + " -connect " + g.addr
	}
	return "printf '" + text + "' | " + to
}

// variable is a value with its name: a token is shown by its name alone.
type variable struct{ name, value string }

// escape writes s as a format of printf(1) within single quotes.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '%':
			b.WriteString("%%")
		case c == '\\':
			b.WriteString(`\\`)
		case c == '\'' || c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// gateway is where requests go.
type gateway struct {
	addr      string // host and port to connect to
	authority string // for Host
	tls       *tls.Config
	timeout   time.Duration
}

func (g gateway) host() string { h, _, _ := net.SplitHostPort(g.addr); return h }
func (g gateway) port() string { _, p, _ := net.SplitHostPort(g.addr); return p }
func (g gateway) scheme() string {
	if g.tls != nil {
		return "https"
	}
	return "http"
}

// dial connects; protocols are offered by ALPN, where there is TLS.
func (g gateway) dial(ctx context.Context, protocols ...string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	d := &net.Dialer{}
	if g.tls == nil {
		return d.DialContext(ctx, "tcp", g.addr)
	}
	cfg := g.tls.Clone()
	cfg.NextProtos = protocols
	return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, "tcp", g.addr)
}

// response is what the gateway answered.
type response struct {
	status int // 0: none
	header http.Header
	body   []byte
}

// exchange sends a request of HTTP/1.1 and reads the response, and others that follow it on the connection
// within wait. No response is no error: the gateway may close the connection. timedOut: it did nothing.
func (g gateway) exchange(ctx context.Context, m *message, wait time.Duration) (got []response, timedOut bool, err error) {
	c, err := g.dial(ctx, "http/1.1")
	if err != nil {
		return nil, false, err
	}
	defer shut(c)
	defer context.AfterFunc(ctx, func() { shut(c) })()
	if err := c.SetDeadline(time.Now().Add(g.timeout)); err != nil {
		return nil, false, err
	}
	// A gateway may refuse the head and close before it has read the body. What it answered is read all the same.
	_, _ = c.Write(m.bytes())
	br := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: m.method})
		if err != nil {
			ne, is := errors.AsType[net.Error](err)
			return got, is && ne.Timeout() && len(got) == 0, nil
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // cut short: judged as far as it came
		_ = resp.Body.Close()
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		got = append(got, response{resp.StatusCode, resp.Header, body})
		if wait == 0 || resp.StatusCode == http.StatusSwitchingProtocols || resp.Close {
			return got, false, nil
		}
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return got, false, nil //nolint:nilerr // the connection is closed: nothing follows
		}
	}
}

// shut closes what is judged by what arrived on it before.
func shut(c io.Closer) { _ = c.Close() }

func contentLength(body string) string { return "Content-Length: " + strconv.Itoa(len(body)) }
