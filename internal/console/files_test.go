package console

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAFileIsServedInTheEncodingThatTheBrowserAccepts(t *testing.T) {
	t.Parallel()
	all, err := readFiles()
	if err != nil {
		t.Fatal(err)
	}
	script := ""
	for name := range all.other {
		if strings.HasSuffix(name, ".js") && all.other[name].gzip != nil {
			script = name
		}
	}
	get := func(t *testing.T, name string, headers ...string) *http.Response {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/"+name, http.NoBody)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		if err := all.serve(w, r, name); err != nil {
			t.Fatal(err)
		}
		return w.Result()
	}
	for name, c := range map[string]struct{ file, accept, encoding string }{
		"gzip":                  {file: script, accept: "br, GZIP", encoding: "gzip"},
		"gzip with a weight":    {file: script, accept: "br;q=1.0, gzip; q=0.5", encoding: "gzip"},
		"gzip is excluded":      {file: script, accept: "gzip;q=0.0, br"},
		"another encoding":      {file: script, accept: "br"},
		"no header":             {file: script},
		"too small to compress": {file: "favicon.svg", accept: "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := get(t, c.file, "Accept-Encoding", c.accept)
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if r.Header.Get("Content-Encoding") != c.encoding || r.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("headers %v", r.Header)
			}
			if c.encoding == "gzip" {
				z, err := gzip.NewReader(bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if body, err = io.ReadAll(z); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(body, all.other[c.file].plain) {
				t.Error("the body is not the file's")
			}
			again := get(t, c.file, "Accept-Encoding", c.accept, "If-None-Match", r.Header.Get("ETag"))
			if again.StatusCode != http.StatusNotModified {
				t.Errorf("with its ETag: %d, want 304", again.StatusCode)
			}
		})
	}
	if plain, zipped := get(t, script), get(t, script, "Accept-Encoding", "gzip"); plain.Header.Get("ETag") == zipped.Header.Get("ETag") {
		t.Error("both encodings have one ETag")
	}
}
