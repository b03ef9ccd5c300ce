package probe_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/gateway/probe"
)

const marker = "probe-0123456789abcdef01234567"

// talk sends bytes to an echo and returns all that it answers until it closes the connection.
func talk(t *testing.T, base, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // closed with something unread
		t.Fatal(err)
	}
	return string(all)
}

func echoed(t *testing.T, answer string) probe.Seen {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	var s probe.Seen
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheEchoReturnsTheRequestLinesUnchanged(t *testing.T) {
	t.Parallel()
	_, base := echo(t)
	s := echoed(t, talk(t, base, "GET /a?b HTTP/1.1\r\nHost: h\r\nx-USER_id : 1\r\nX-A: a\r\nX-A:\r\n\tfolded: b\r\nno colon\r\nX-Probe-Id: "+marker+"\r\nConnection: close\r\n\r\n"))
	want := probe.Seen{
		Echo: "iam-service", Markers: []string{marker}, Protocol: "HTTP/1.1", Method: "GET", Target: "/a?b", Host: "h", Trailers: []probe.Line{}, Framing: []string{"a folded line"}, Connection: 1,
		Headers: []probe.Line{
			{Name: "Host", Value: "h"}, {Name: "x-USER_id ", Value: "1"}, {Name: "X-A", Value: "a"}, {Name: "X-A"}, {Name: "\tfolded", Value: "b", Folded: true},
			{Name: "no colon"}, {Name: "X-Probe-Id", Value: marker}, {Name: "Connection", Value: "close"},
		},
	}
	if diff := cmp.Diff(want, s, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "bytes" }, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheEchoNamesAmbiguousFraming(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
	for name, c := range map[string]struct {
		rest string
		want []string
		body int64
	}{
		"none":                     {rest: "Content-Length: 2\r\n\r\nab", body: 2},
		"chunks":                   {rest: "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\nX-T: t\r\n\r\n", body: 2},
		"length and coding":        {rest: "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab", want: []string{"Content-Length and Transfer-Encoding"}, body: 2},
		"two lengths":              {rest: "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", want: []string{"several lines of Content-Length"}, body: 2},
		"length with a sign":       {rest: "Content-Length: +2\r\n\r\n", want: []string{`Content-Length: "+2"`}},
		"unknown coding":           {rest: "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", want: []string{`Transfer-Encoding: "xchunked"`}},
		"two codings":              {rest: "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", want: []string{"several lines of Transfer-Encoding"}},
		"space before the colon":   {rest: "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", want: []string{"space around the name transfer-encoding"}},
		"LF":                       {rest: "X: y\n\r\n", want: []string{"a line ends in LF without CR"}},
		"CR":                       {rest: "X: y\rZ: z\r\n\r\n", want: []string{"CR within a line"}},
		"NUL":                      {rest: "X: y\x00\r\n\r\n", want: []string{"NUL within a line"}},
		"invalid size of a chunk":  {rest: "Transfer-Encoding: chunked\r\n\r\n0x1\r\n\r\n", want: []string{"an invalid size of a chunk"}},
		"chunk longer than stated": {rest: "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", want: []string{"a chunk that is longer than its size"}, body: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, base := echo(t)
			s := echoed(t, talk(t, base, head+c.rest))
			if diff := cmp.Diff(append([]string{}, c.want...), s.Framing); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if s.Body != c.body {
				t.Errorf("%d bytes of body, want %d", s.Body, c.body)
			}
			if name == "chunks" && (len(s.Trailers) != 1 || s.Trailers[0].Name != "X-T") {
				t.Errorf("trailers: %v", s.Trailers)
			}
		})
	}
}

func TestTheEchoRemembersRequestsByTheirMarker(t *testing.T) {
	t.Parallel()
	e, base := echo(t)
	second := strings.Replace(marker, "0123", "ffff", 1)
	talk(t, base, "GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET /"+marker+" HTTP/1.1\r\nHost: h\r\n\r\nGET /.probe/smuggled HTTP/1.1\r\nX-Probe-Id: "+second+"\r\n\r\n")
	if got := e.Matching(marker, second); len(got) != 2 || got[0].Target != "/"+marker || got[1].Target != "/.probe/smuggled" {
		t.Errorf("seen: %+v", got)
	}
	for query, want := range map[string]int{"?marker=" + marker: 1, "?marker=" + marker + "&marker=" + second: 2, "?marker=x": 0, "?": 0} {
		resp, err := http.Get(base + "/.probe/seen" + query)
		if err != nil {
			t.Fatal(err)
		}
		var got []probe.Seen
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || len(got) != want {
			t.Errorf("%s: %d, %v; want %d", query, len(got), err, want)
		}
		resp.Body.Close()
	}
}

// An answer that the gateway does not expect could go to another client.
func TestTheEchoIgnoresSmuggledRequests(t *testing.T) {
	t.Parallel()
	e, base := echo(t)
	if got := talk(t, base, "GET /.probe/smuggled HTTP/1.1\r\nX-Probe-Id: "+marker+"\r\n\r\n"); got != "" {
		t.Errorf("answered %q", got)
	}
	// Behind a request with ambiguous framing, whatever its path.
	second := strings.Replace(marker, "0123", "ffff", 1)
	got := talk(t, base, "POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\nGET /x HTTP/1.1\r\nX-Probe-Id: "+second+"\r\n\r\n")
	if strings.Count(got, "HTTP/1.1 200") != 1 || len(e.Matching(second)) != 1 {
		t.Errorf("answered %q, seen %v", got, e.Matching(second))
	}
}

func TestTheEchoShowsNoCredentials(t *testing.T) {
	t.Parallel()
	e, base := echo(t)
	got := talk(t, base, "GET / HTTP/1.1\r\nAuthorization: Bearer secret-1\r\nauthorization_: secret-2\r\nCookie: secret-3\r\nProxy-Authorization: Basic secret-4\r\nX-Probe-Id: "+marker+"\r\nConnection: close\r\n\r\n")
	text, err := json.Marshal(e.Matching(marker))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{got, string(text)} {
		if strings.Contains(s, "secret") || !strings.Contains(s, "Bearer sha256:") {
			t.Errorf("%s", s)
		}
	}
}

func TestTheEchoBoundsARequest(t *testing.T) {
	t.Parallel()
	_, base := echo(t)
	for name, request := range map[string]string{
		"head": "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 300<<10) + "\r\n\r\n",
		"body": "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
	} {
		if got := talk(t, base, request); got != "" && !strings.Contains(got, "Connection: close") {
			t.Errorf("%s: %.100q", name, got)
		}
	}
}
