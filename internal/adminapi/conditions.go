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

// Conditional is an input of a conditional request.
type Conditional struct {
	IfMatch     string `header:"If-Match" maxLength:"1000" doc:"ETags of an earlier response; *: the resource must exist"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"10" doc:"*: the resource must not exist"`
}

// condition parses the preconditions of RFC 9110, section 13.1. A weak tag never matches.
func (i Conditional) condition() (admin.Condition, error) {
	var c admin.Condition
	switch i.IfNoneMatch {
	case "":
	case "*":
		c.Absent = true
	default:
		return c, malformedHeader("If-None-Match", "only * is supported")
	}
	if i.IfMatch == "" {
		return c, nil
	}
	if c.Absent {
		return c, malformedHeader("If-Match", "cannot be combined with If-None-Match")
	}
	if i.IfMatch == "*" {
		c.Present = true
		return c, nil
	}
	for tag := range strings.SplitSeq(i.IfMatch, ",") {
		tag = strings.TrimSpace(tag)
		inner, strong := strings.CutPrefix(tag, `"`)
		inner, whole := strings.CutSuffix(inner, `"`)
		version, _, _ := strings.Cut(inner, "-") // the rest is a hash of the body: see withETag
		n, err := strconv.ParseInt(version, 10, 64)
		switch {
		case strings.HasPrefix(tag, `W/"`):
			n = -1
		case !strong || !whole:
			return c, malformedHeader("If-Match", `must be a list of ETags, as in "3"`)
		case err != nil:
			n = -1 // not one of our tags
		}
		c.Versions = append(c.Versions, n)
	}
	return c, nil
}

func malformedHeader(name, detail string) error {
	return &iam.Error{
		Kind:   iam.Malformed,
		Detail: "the request cannot be read",
		Fields: []iam.FieldError{{Pointer: name, Detail: detail}},
	}
}

// etag is the ETag of a version; withETag extends it.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// asConflict is the error of a POST that creates something, in place of a failed If-None-Match.
func asConflict(err error) error {
	if iam.KindOf(err) == iam.PreconditionFailed {
		return &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "it exists already"}
	}
	return err
}

// withETag adds to each 200 of a GET or HEAD an ETag that changes with every byte of the body, and responds 304 to a request that
// names it in If-None-Match (RFC 9110, section 13.1.2).
//
// Where the handler has set the version as the ETag, the tag begins with it, and If-Match compares that part only: a member can
// expire, or a client be provisioned, without a new version. A tag of the body alone is weak, and If-Match never matches it.
func withETag(next http.Handler) http.Handler {
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
			if matchesTag(r.Header.Values("If-None-Match"), tag) {
				h.Del("Content-Type")
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		w.WriteHeader(b.status)
		_, _ = w.Write(b.body.Bytes()) // fails only where the caller has disconnected
	})
}

// matchesTag reports whether lists of tags have a tag, by the weak comparison; * matches any.
func matchesTag(lists []string, tag string) bool {
	for _, list := range lists {
		for candidate := range strings.SplitSeq(list, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// buffered buffers a response until its ETag is known.
type buffered struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (b *buffered) WriteHeader(status int) { b.status = status }

func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }
