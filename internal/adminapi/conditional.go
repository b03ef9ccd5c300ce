package adminapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// conditional gives each 200 of a GET or HEAD an ETag that changes with every byte of the body, and
// answers 304 to a request that names it in If-None-Match (RFC 9110, section 13.1.2).
//
// Where a handler gave the version of what is read, the tag begins with it: that part is what
// If-Match compares, since a member can expire, or a client be provisioned, without a new
// version. A tag that is made of the body alone is weak, and If-Match never matches it.
func conditional(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		b := &buffered{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(b, r)
		h := w.Header()
		if b.status == http.StatusOK {
			sum := sha256.Sum256(b.body.Bytes())
			tag := hex.EncodeToString(sum[:8])
			if version, ok := strings.CutSuffix(h.Get("ETag"), `"`); ok {
				tag = version + "-" + tag + `"`
			} else {
				tag = `W/"` + tag + `"`
			}
			h.Set("ETag", tag)
			if namesTag(r.Header.Values("If-None-Match"), tag) {
				h.Del("Content-Type")
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		w.WriteHeader(b.status)
		_, _ = w.Write(b.body.Bytes()) // the client is gone; nothing left to report
	})
}

// namesTag reports whether a list of tags has one, by the weak comparison; * is any.
func namesTag(lists []string, tag string) bool {
	for _, list := range lists {
		for one := range strings.SplitSeq(list, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// buffered holds an answer back until it is known whether it is sent.
type buffered struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (b *buffered) WriteHeader(status int)      { b.status = status }
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }
