package doctor

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"iam-service/internal/server"
	"iam-service/internal/telemetry"
)

// Bundle is what is packed for support.
type Bundle struct {
	Environ []string
	Report  Report
	Logs    []string // files
}

// maxLog is how much of the end of a log is packed.
const maxLog = 20 << 20

// Pack returns the bundle as a gzipped tar file. It has no secrets: not the values of the
// settings that are some, not passwords in URLs, no tokens that a log may hold.
func (b *Bundle) Pack(ctx context.Context) ([]byte, error) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	clean := newCleaner(b.Environ)
	for _, f := range b.files(ctx) {
		text := clean.text(f.text)
		head := &tar.Header{Name: "iam-service-doctor/" + f.name, Mode: 0o600, Size: int64(len(text)), ModTime: time.Now()}
		if err := w.WriteHeader(head); err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	err := errors.Join(w.Close(), z.Close())
	return packed.Bytes(), err
}

type file struct {
	name string
	text []byte
}

func (b *Bundle) files(ctx context.Context) []file {
	asJSON := func(v any) []byte {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return []byte(err.Error())
		}
		return append(text, '\n')
	}
	var settings strings.Builder
	for _, s := range server.Settings(b.Environ) {
		fmt.Fprintf(&settings, "%s=%s\n", s.Name, s.Value)
	}
	all := []file{
		{"doctor.json", asJSON(b.Report)},
		{"version.json", asJSON(telemetry.ReadBuild(server.Version))},
		{"settings.txt", []byte(settings.String())},
	}
	cfg, err := server.ReadConfig(b.Environ, server.Needs{Ops: true})
	for _, page := range []struct{ file, path string }{
		{"metrics.txt", "/metrics"}, {"readyz.json", "/readyz?verbose"}, {"policy-status.json", "/policy/status"}, {"running-version.json", "/version"},
	} {
		text := []byte("OPS_ADDR is not valid\n")
		if err == nil {
			text = fetch(ctx, Ops(cfg.OpsAddr)+page.path, cfg.OpsBearer())
		}
		all = append(all, file{page.file, text})
	}
	for i, name := range b.Logs {
		text, err := tail(name, maxLog)
		if err != nil {
			text = []byte(err.Error() + "\n")
		}
		all = append(all, file{fmt.Sprintf("logs/%d-%s", i+1, filepath.Base(name)), text})
	}
	return all
}

// fetch returns a page of the operators' listener, or why there is none.
func fetch(ctx context.Context, url, bearer string) []byte {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := get(ctx, url, bearer)
	if err != nil {
		return []byte("not running here: " + err.Error() + "\n")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxLog))
	if err != nil {
		return []byte(err.Error() + "\n")
	}
	return text
}

// tail returns the end of a file.
func tail(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// cleaner removes what must not leave the host.
type cleaner struct{ secrets []string }

// shortest is the length from which a value is taken for a secret wherever it stands: a shorter one, such as a port,
// would blacken half of the text. The settings that are secrets are left out whatever their length.
const shortest = 6

func newCleaner(environ []string) cleaner {
	var c cleaner
	add := func(s string) {
		if len(s) < shortest || slices.Contains(c.secrets, s) {
			return
		}
		c.secrets = append(c.secrets, s)
		if escaped, err := json.Marshal(s); err == nil && string(escaped[1:len(escaped)-1]) != s {
			c.secrets = append(c.secrets, string(escaped[1:len(escaped)-1])) // as it stands in a line of JSON
		}
	}
	for _, v := range server.SecretValues(environ) {
		add(v)
		for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == '\n' }) {
			add(strings.TrimSpace(part))
			if u, err := url.Parse(strings.TrimSpace(part)); err == nil && u.User != nil {
				password, _ := u.User.Password()
				add(password)
				add(url.QueryEscape(password))
				add(url.PathEscape(password))
			}
		}
		for _, m := range passwords.FindAllStringSubmatch(v, -1) { // key=value of libpq, headers of a collector, JSON of issuers
			add(cmp.Or(m[1], m[2]))
			if plain, err := url.PathUnescape(m[1]); err == nil {
				add(plain[strings.LastIndexByte(plain, ' ')+1:]) // without its scheme
			}
		}
	}
	slices.SortFunc(c.secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // a part must not cut a whole one
	return c
}

var (
	passwords = regexp.MustCompile(`(?i)(?:password|authorization|api-?key|token)=([^\s,&;]+)|"[a-z_]*secret"\s*:\s*"((?:[^"\\]|\\.)+)"`)
	jwts      = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`)
	bearers   = regexp.MustCompile(`(?i)(bearer|basic)(\s+|%20)[A-Za-z0-9._~+/=-]{6,}`)
	userinfo  = regexp.MustCompile(`://[^/\s:@"]*:[^/\s@"]+@`)
)

func (c cleaner) text(text []byte) []byte {
	for _, s := range c.secrets {
		text = bytes.ReplaceAll(text, []byte(s), []byte("(secret)"))
	}
	text = jwts.ReplaceAll(text, []byte("(token)"))
	text = bearers.ReplaceAll(text, []byte("$1 (token)"))
	return userinfo.ReplaceAll(text, []byte("://(secret)@"))
}
