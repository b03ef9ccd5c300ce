package console

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"iam-service/internal/iam"
)

//go:embed all:dist
var dist embed.FS

// nonce is where the build has left room for the nonce of styles.
const nonce = "__CSP_NONCE__"

// files are those of the page.
type files struct {
	index string
	other map[string]file // by path below dist
}

// file is a file, and its compressed form.
type file struct {
	contentType  string
	cacheControl string
	etag         string // of the file as it is
	plain        []byte
	gzip         func() []byte // compresses on the first call, so that no start waits for it; nil: not worth it
}

// readFiles reads the built page.
func readFiles() (*files, error) {
	all := &files{other: map[string]file{}}
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, err
	}
	return all, fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if name == "index.html" {
			all.index = string(b)
			return nil
		}
		all.other[name] = newFile(name, b)
		return nil
	})
}

func newFile(name string, b []byte) file {
	hash := sha256.Sum256(b)
	f := file{
		contentType:  mime.TypeByExtension(path.Ext(name)),
		cacheControl: "no-cache",
		etag:         base64.RawURLEncoding.EncodeToString(hash[:12]),
		plain:        b,
	}
	if text, ok := texts[path.Ext(name)]; ok {
		f.contentType = text
		if len(b) > 1024 {
			f.gzip = sync.OnceValue(func() []byte { return compress(b) })
		}
	}
	if strings.HasPrefix(name, "assets/") { // their names have a hash
		f.cacheControl = "public, max-age=31536000, immutable"
	}
	return f
}

func compress(b []byte) []byte {
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is one
	_, _ = w.Write(b)                                     // into memory
	_ = w.Close()
	return z.Bytes()
}

// texts are the types that are worth compressing; the system's own table of types could lack or change them.
var texts = map[string]string{
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".map":  "application/json",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

// serve serves a file, or the page.
func (f *files) serve(w http.ResponseWriter, r *http.Request, name string) error {
	if name == "" || name == "index.html" {
		f.page(w, r)
		return nil
	}
	one, ok := f.other[name]
	if !ok {
		return iam.Errorf(iam.NotFound, "no such path")
	}
	compressed := one.gzip != nil && acceptsGzip(r.Header.Get("Accept-Encoding"))
	etag := `"` + one.etag + `"`
	if compressed {
		etag = `"` + one.etag + `gzip"`
	}
	h := w.Header()
	h.Set("Cache-Control", one.cacheControl)
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", one.contentType)
	if compressed {
		h.Set("Content-Encoding", "gzip")
		respond(w, r, one.gzip())
		return nil
	}
	respond(w, r, one.plain)
	return nil
}

// acceptsGzip reports whether a browser accepts gzip (RFC 9110, section 12.5.3).
func acceptsGzip(accept string) bool {
	for one := range strings.SplitSeq(accept, ",") {
		name, weight, weighted := strings.Cut(strings.ReplaceAll(one, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			return !weighted || strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != ""
		}
	}
	return false
}

// page serves index.html. Styles of components are inserted by scripts, so they have a nonce; scripts have none, since
// all are files of the console.
func (f *files) page(w http.ResponseWriter, r *http.Request) {
	once := rand.Text()
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-"+once+"'; img-src 'self' data:; font-src 'self'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	respond(w, r, []byte(strings.ReplaceAll(f.index, nonce, once)))
}

func respond(w http.ResponseWriter, r *http.Request, b []byte) {
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // fails only where the caller has disconnected
	}
}
