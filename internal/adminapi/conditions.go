package adminapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Conditional is an input that says what the caller believes.
type Conditional struct {
	IfMatch     string `header:"If-Match" maxLength:"1000" doc:"ETag of what was read; * for any"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"10" doc:"* where nothing must be there yet"`
}

// condition reads RFC 9110, section 13.1. A weak tag never matches.
func (i Conditional) condition() (admin.Condition, error) {
	var c admin.Condition
	switch i.IfNoneMatch {
	case "":
	case "*":
		c.Absent = true
	default:
		return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-None-Match", Detail: "only * is understood"}}}
	}
	if i.IfMatch == "" {
		return c, nil
	}
	if c.Absent {
		return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-Match", Detail: "goes not together with If-None-Match"}}}
	}
	if i.IfMatch == "*" {
		c.Present = true
		return c, nil
	}
	for tag := range strings.SplitSeq(i.IfMatch, ",") {
		tag = strings.TrimSpace(tag)
		inner, strong := strings.CutPrefix(tag, `"`)
		inner, whole := strings.CutSuffix(inner, `"`)
		version, _, _ := strings.Cut(inner, "-") // of the whole tag; see conditional
		n, err := strconv.ParseInt(version, 10, 64)
		switch {
		case strings.HasPrefix(tag, `W/"`):
			n = -1
		case !strong || !whole:
			return c, &iam.Error{Kind: iam.Malformed, Detail: "the request cannot be read", Fields: []iam.FieldError{{Pointer: "If-Match", Detail: `is a list of ETags, as in "3"`}}}
		case err != nil:
			n = -1 // no tag of ours
		}
		c.Versions = append(c.Versions, n)
	}
	return c, nil
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// asConflict says of a POST what a PUT with If-None-Match would: it is there already.
func asConflict(err error) error {
	if iam.KindOf(err) == iam.PreconditionFailed {
		return &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "it is there already"}
	}
	return err
}

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

func (b *buffered) WriteHeader(status int) { b.status = status }

func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }
