package console

import (
	"net/http"
	"net/url"
	"strings"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// passed are the headers of a request that the admin API gets, by their canonical names. What says who the caller is comes from
// the session alone.
var passed = []string{
	"Accept", "Accept-Language", "Content-Type", "Content-Length", "Idempotency-Key", "If-Match", "If-None-Match", "Prefer",
	"Traceparent", "Tracestate", "User-Agent",
}

// api passes a request to the admin API as the person of its session.
func (c *Console) api(w http.ResponseWriter, r *http.Request) error {
	path, ok := apiPath(r.URL.EscapedPath())
	if !ok {
		return iam.Errorf(iam.NotFound, "no such path")
	}
	s, err := c.open(r)
	if err != nil {
		return err
	}
	if r.Header.Get("X-Console-Background") == "" { // what the page does by itself is no use by a person
		if err := c.extend(r.Context(), s); err != nil {
			return err
		}
	}
	if err := c.renew(r.Context(), s); err != nil {
		return err
	}
	out := r.Clone(r.Context())
	out.Header = http.Header{}
	for _, name := range passed {
		if values := r.Header.Values(name); len(values) > 0 {
			out.Header[name] = values
		}
	}
	// Of a trusted proxy alone, whose word on the caller's address the API takes; of others it would be refused or ignored.
	if c.cfg.Trusted.Trusts(problem.Peer(r)) && len(r.Header["X-Forwarded-For"]) > 0 {
		out.Header["X-Forwarded-For"] = r.Header["X-Forwarded-For"]
	}
	out.Header.Set("Authorization", "Bearer "+s.Access)
	out.Header.Set("X-Request-Id", problem.RequestID(r))
	out.URL.RawPath = path
	if out.URL.Path, err = url.PathUnescape(path); err != nil {
		return iam.Errorf(iam.NotFound, "no such path")
	}
	if out.URL.Path == path {
		out.URL.RawPath = ""
	}
	out.RequestURI = out.URL.RequestURI()
	response := &apiResponse{ResponseWriter: w}
	c.cfg.API.ServeHTTP(response, out)
	if !response.rejected {
		return nil
	}
	// The token is valid no longer, whatever its own time is: of a new login, another one could be.
	for _, name := range []string{"Content-Type", "Content-Length", "Link"} {
		w.Header().Del(name)
	}
	if err := c.cfg.Store.EndConsoleSession(r.Context(), s.ConsoleSession.ID); err != nil {
		return err
	}
	return errEnded
}

// apiPath is the path at the admin API of an escaped path of the console. Only the API and its document are there: no path
// that some reader could take for another one.
func apiPath(escaped string) (string, bool) {
	path := strings.TrimPrefix(escaped, Path+"/api")
	if path == "/openapi.json" {
		return path, true
	}
	if !strings.HasPrefix(path, "/v1/") || strings.Contains(path, `\`) || strings.Contains(strings.ToLower(path), "%5c") {
		return "", false
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || segment == "" {
			return "", false
		}
		for part := range strings.SplitSeq(plain, "/") { // an encoded slash is data, unless it makes a step
			if part == "." || part == ".." {
				return "", false
			}
		}
	}
	return path, true
}

// apiResponse passes a response on, unless the API rejects the token.
type apiResponse struct {
	http.ResponseWriter
	rejected bool
}

// WriteHeader implements http.ResponseWriter.
func (a *apiResponse) WriteHeader(status int) {
	if status == http.StatusUnauthorized {
		a.rejected = true
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *apiResponse) Write(b []byte) (int, error) {
	if a.rejected {
		return len(b), nil
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap returns the response, for http.ResponseController: exports flush.
func (a *apiResponse) Unwrap() http.ResponseWriter { return a.ResponseWriter }
