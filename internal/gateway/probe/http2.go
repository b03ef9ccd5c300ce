package probe

import (
	"bytes"
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

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is a header field of HTTP/2, pseudo-headers included.
type field struct{ name, value string }

// message2 is a request of HTTP/2 before it is encoded. Nothing of it is validated.
type message2 struct {
	fields   []field
	body     []byte // nil: no DATA
	trailers []field
}

func (m *message2) add(name, value string) { m.fields = append(m.fields, field{name, value}) }

func (m *message2) set(name, value string) {
	for i, f := range m.fields {
		if f.name == name {
			m.fields[i].value = value
			return
		}
	}
	m.add(name, value)
}

func (m *message2) get(name string) string {
	for _, f := range m.fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

func (m *message2) drop(name string) {
	var rest []field
	for _, f := range m.fields {
		if !sameName(f.name, name) {
			rest = append(rest, f)
		}
	}
	m.fields = rest
}

// reproduce lists the frames of m on one line. No common tool sends most of these.
func (m *message2) reproduce(tokens []variable) string {
	list := func(fields []field) string {
		var b strings.Builder
		for _, f := range fields {
			v := f.value
			for _, t := range tokens {
				v = strings.ReplaceAll(v, t.value, "$"+t.name)
			}
			fmt.Fprintf(&b, " %s=%s", strings.Trim(strconv.Quote(f.name), `"`), strconv.Quote(v))
		}
		return b.String()
	}
	s := "h2 HEADERS" + list(m.fields)
	if m.body != nil {
		s += " DATA " + strconv.Quote(string(m.body))
	}
	if m.trailers != nil {
		s += " HEADERS" + list(m.trailers)
	}
	return s
}

// speaks2 reports whether the gateway speaks HTTP/2: by ALPN with TLS, by prior knowledge without.
// why says why not.
func (g gateway) speaks2(ctx context.Context) (why string, err error) {
	c, err := g.dial(ctx, "h2")
	if err != nil {
		if g.tls != nil && strings.Contains(err.Error(), "no application protocol") {
			return "the gateway rejects ALPN h2", nil
		}
		return "", err
	}
	defer shut(c)
	if t, is := c.(*tls.Conn); is && t.ConnectionState().NegotiatedProtocol != "h2" {
		return "the gateway does not accept ALPN h2", nil
	}
	if err := c.SetDeadline(time.Now().Add(g.timeout)); err != nil {
		return "", err
	}
	f := http2.NewFramer(c, c)
	// What cannot be written was rejected, as what is not answered by SETTINGS.
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = f.WriteSettings()
	first, err := f.ReadFrame()
	if _, is := first.(*http2.SettingsFrame); is && err == nil {
		return "", nil
	}
	return "the gateway does not answer the HTTP/2 preface (prior knowledge, clear text)", nil
}

// exchange2 sends a request on a connection of its own.
func (g gateway) exchange2(ctx context.Context, m *message2) (got []response, timedOut bool, err error) {
	c, err := g.dial(ctx, "h2")
	if err != nil {
		return nil, false, err
	}
	defer shut(c)
	defer context.AfterFunc(ctx, func() { shut(c) })()
	if err := c.SetDeadline(time.Now().Add(g.timeout)); err != nil {
		return nil, false, err
	}
	var out bytes.Buffer
	f := http2.NewFramer(&out, c)
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	// The buffer takes everything: these writes cannot fail.
	out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: encode(m.fields), EndHeaders: true, EndStream: m.body == nil && m.trailers == nil,
	})
	if m.body != nil {
		_ = f.WriteData(1, m.trailers == nil, m.body)
	}
	if m.trailers != nil {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(m.trailers), EndHeaders: true, EndStream: true})
	}
	// The gateway may refuse the stream before it has read it all.
	_, _ = out.WriteTo(c)
	var r response
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			ne, is := errors.AsType[net.Error](err)
			return r.list(), is && ne.Timeout() && r.status == 0, nil
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			r.take(frame)
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			r.body = append(r.body, frame.Data()...)
			ended = frame.StreamEnded()
			_ = f.WriteWindowUpdate(0, max(1, frame.Length))
		case *http2.RSTStreamFrame:
			ended = true
		case *http2.GoAwayFrame:
			ended = frame.ErrCode != http2.ErrCodeNo
		}
		if ended {
			return r.list(), false, nil
		}
		_, _ = out.WriteTo(c)
	}
}

// take reads the header fields of a response; those of a 1xx and of the trailers are passed over.
func (r *response) take(f *http2.MetaHeadersFrame) {
	status, err := strconv.Atoi(f.PseudoValue("status"))
	if err != nil || status < 200 || r.status != 0 {
		return
	}
	r.status, r.header = status, http.Header{}
	for _, h := range f.RegularFields() {
		r.header.Add(h.Name, h.Value)
	}
}

func (r *response) list() []response {
	if r.status == 0 {
		return nil
	}
	return []response{*r}
}

func encode(fields []field) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = e.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}) // to memory
	}
	return b.Bytes()
}
