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

// file is a file in each encoding that it has.
type file struct {
	contentType  string
	cacheControl string
	etag         string // without the encoding
	bytes        map[string][]byte
}

// readFiles reads the built page. What the build has not compressed is compressed once, here.
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
		switch extension := path.Ext(name); {
		case name == "index.html":
			all.index = string(b)
		case extension == ".br" || extension == ".gz":
			all.encoded(strings.TrimSuffix(name, extension), map[string]string{".br": "br", ".gz": "gzip"}[extension], b)
		default:
			all.add(name, b)
		}
		return nil
	})
}

func (f *files) encoded(name, encoding string, b []byte) {
	of := f.other[name]
	if of.bytes == nil {
		of.bytes = map[string][]byte{}
	}
	of.bytes[encoding] = b
	f.other[name] = of
}

func (f *files) add(name string, b []byte) {
	f.encoded(name, "", b)
	one := f.other[name]
	hash := sha256.Sum256(b)
	one.etag = base64.RawURLEncoding.EncodeToString(hash[:12])
	one.contentType = mime.TypeByExtension(path.Ext(name))
	if text, ok := texts[path.Ext(name)]; ok {
		one.contentType = text
		if _, compressed := one.bytes["gzip"]; !compressed && len(b) > 1024 {
			var z bytes.Buffer
			w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is one
			_, _ = w.Write(b)                                     // into memory
			_ = w.Close()
			one.bytes["gzip"] = z.Bytes()
		}
	}
	one.cacheControl = "no-cache"
	if strings.HasPrefix(name, "assets/") { // their names have a hash
		one.cacheControl = "public, max-age=31536000, immutable"
	}
	f.other[name] = one
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
	if !ok || one.bytes[""] == nil {
		return iam.Errorf(iam.NotFound, "no such path")
	}
	h := w.Header()
	h.Set("Cache-Control", one.cacheControl)
	h.Set("Vary", "Accept-Encoding")
	encoding := one.accepted(r.Header.Get("Accept-Encoding"))
	etag := `"` + one.etag + encoding + `"`
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", one.contentType)
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	respond(w, r, one.bytes[encoding])
	return nil
}

// accepted is the best encoding that a browser accepts (RFC 9110, section 12.5.3).
func (f *file) accepted(accept string) string {
	for _, encoding := range []string{"br", "gzip"} {
		if f.bytes[encoding] == nil {
			continue
		}
		for one := range strings.SplitSeq(accept, ",") {
			name, weight, _ := strings.Cut(strings.ReplaceAll(one, " ", ""), ";")
			if strings.EqualFold(name, encoding) && strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" == (weight != "") {
				return encoding
			}
		}
	}
	return ""
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
