package world

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"iam-service/internal/directory"
)

// Get is the request line of an enrichment.
const Get = "GET /system/enrich-token"

// Ask sends a request as it stands, without a client that tidies it up, and returns the
// status, the header lines as they came, and the body.
func (w *World) Ask(requestLine string, lines ...string) (int, []string, string) {
	w.Helper()
	return w.AskHost(requestLine, "iam", lines...)
}

// AskHost is Ask with another Host.
func (w *World) AskHost(requestLine, host string, lines ...string) (int, []string, string) {
	w.Helper()
	if !w.Unsettled {
		w.Settle()
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	w.OK(err)
	defer conn.Close()
	w.OK(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	rest := strings.Join(slices.Concat(lines, []string{""}), "\r\n")
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", requestLine, host, rest)
	w.OK(err)
	text, err := io.ReadAll(conn)
	w.OK(err)
	head, body, _ := strings.Cut(string(text), "\r\n\r\n")
	var status int
	sc := bufio.NewScanner(strings.NewReader(head))
	sc.Scan()
	if _, err := fmt.Sscanf(sc.Text(), "HTTP/1.1 %d", &status); err != nil {
		w.Fatalf("no status in %q", head)
	}
	var got []string
	for sc.Scan() {
		got = append(got, sc.Text())
	}
	return status, got, body
}

// Evaluation requests an enrichment and returns the status and the id of the evaluation,
// which a cached decision repeats.
func (w *World) Evaluation(lines ...string) (int, string) {
	w.Helper()
	status, got, body := w.Ask(Get, lines...)
	if status == http.StatusOK {
		return status, Value(got, "X-Decision-ID")
	}
	_, id, _ := strings.Cut(body, `"instance":"`)
	id, _, _ = strings.Cut(id, `"`)
	return status, id
}

// CachesEmptied is how often all caches were emptied: Settle does so where change notifications are late.
func (w *World) CachesEmptied() int64 { return w.Facts.Invalidations(directory.Causes["everything"]) }

// Bearer is the header line of a token.
func Bearer(token string) string { return "Authorization: Bearer " + token }

// Claims are the header lines about an identity.
func Claims(lines []string) map[string][]string {
	got := map[string][]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		if strings.HasPrefix(name, "X-") {
			got[name] = append(got[name], strings.TrimSpace(value))
		}
	}
	return got
}

// Value is that of a header which must be there once.
func Value(lines []string, name string) string {
	v := Claims(lines)[http.CanonicalHeaderKey(name)]
	if len(v) != 1 {
		return fmt.Sprintf("%d lines", len(v))
	}
	return v[0]
}
