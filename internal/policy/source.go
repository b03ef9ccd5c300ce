package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"iam-service/internal/iam"
)

// FromFS reads a candidate from a file system, such as an embedded one.
func FromFS(source string, fsys fs.FS) (*Candidate, error) {
	loader, err := bundle.NewFSLoader(fsys)
	if err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", source, err)
	}
	c, err := fromLoader(source, "", loader)
	if err != nil {
		return nil, err
	}
	c.Embedded, c.files = true, fsys
	return c, errors.Join(c.readCases(fsys), c.readSchemas(fsys))
}

// readCases reads the acceptance cases in a folder.
func (c *Candidate) readCases(fsys fs.FS) error {
	for _, pattern := range []string{"cases/*.yaml", "cases/*.yml"} {
		files, err := fs.Glob(fsys, pattern) // sorted
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := fs.ReadFile(fsys, file)
			if err != nil {
				return fmt.Errorf("read the policy %s: %w", c.Source, err)
			}
			cases, err := ParseCases(file, text)
			if err != nil {
				return err
			}
			c.Cases = append(c.Cases, cases...)
		}
	}
	return nil
}

// FromFolder reads a candidate from a folder.
func FromFolder(name string) (*Candidate, error) {
	target, err := filepath.EvalSymlinks(name) // "current" may lead to a release
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	c, err := fromLoader(name, target, bundle.NewDirectoryLoader(target))
	if err != nil {
		return nil, err
	}
	return c, errors.Join(c.readCases(os.DirFS(target)), c.readSchemas(os.DirFS(target)))
}

// FromPath reads a candidate from a folder or from a bundle file (.tar.gz), and verifies its
// signature where one is required.
func (e *Engine) FromPath(name string) (*Candidate, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the policy: %w", err)
	case info.IsDir() && e.cfg.SignedOnly:
		return nil, fmt.Errorf("%s is a folder, which has no signature: build and sign a bundle (iam-service policy build --key), "+
			"or allow it with POLICY_ALLOW_UNSIGNED=1", name)
	case info.IsDir():
		return FromFolder(name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	defer func() { _ = f.Close() }() // it is only read
	packed, err := io.ReadAll(io.LimitReader(f, MaxBundle+1))
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	return e.Unpack(name, packed)
}

// Unpack reads a candidate from a packed bundle, and verifies its signature where one is required.
func (e *Engine) Unpack(source string, packed []byte) (*Candidate, error) {
	return e.unpack(source, packed, checkSignature)
}

// UnpackVerified is Unpack for a bundle whose signature a trusted replica has verified before.
func (e *Engine) UnpackVerified(source string, packed []byte) (*Candidate, error) {
	return e.unpack(source, packed, trustSignature)
}

type signatureCheck int

const (
	checkSignature signatureCheck = iota
	trustSignature                // verified before
)

func (e *Engine) unpack(source string, packed []byte, check signatureCheck) (*Candidate, error) {
	if e.cfg.SignedOnly && e.cfg.Key == nil && check == checkSignature {
		return nil, fmt.Errorf("no key is configured to verify the signature of %s", source)
	}
	if err := CheckArchive(packed); err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", source, err)
	}
	loader := func() bundle.DirectoryLoader { return bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "") }
	var c *Candidate
	var err error
	if e.cfg.Key == nil || check == trustSignature {
		c, err = fromLoader(source, "", loader())
	} else if err = e.cfg.Key.Verify(func(v *bundle.VerificationConfig) error {
		c, err = readBundle(source, reader(loader()).WithBundleVerificationConfig(v))
		return err
	}); err == nil {
		// A signature covers all files, so they are excluded only after it is verified.
		excluded := Excluded("")
		maps.DeleteFunc(c.Modules, func(file, _ string) bool { return excluded(file, nil, 0) })
	}
	if err != nil {
		return nil, err
	}
	if e.cfg.Key != nil && check == checkSignature {
		c.Verified = iam.VerifiedByKey
	}
	c.Packed = packed
	return c, nil
}

// Pack returns a candidate as a bundle: the signed one, or an unsigned one where there is none.
func (c *Candidate) Pack() ([]byte, error) {
	if c.Packed != nil {
		return c.Packed, nil
	}
	b := bundle.Bundle{Manifest: bundle.Manifest{Revision: c.Name, Roots: &c.Roots}, Data: maps.Clone(c.Data)}
	if b.Data == nil {
		b.Data = map[string]any{}
	}
	if err := c.AddExtras(b.Data); err != nil {
		return nil, err
	}
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: file, Path: "/" + file, Raw: []byte(c.Modules[file])})
	}
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		return nil, fmt.Errorf("pack %s: %w", c.Source, err)
	}
	return out.Bytes(), nil
}

func fromLoader(source, root string, loader bundle.DirectoryLoader) (*Candidate, error) {
	loader = loader.WithFilter(Excluded(root)).WithFollowSymlinks(true)
	return readBundle(source, reader(loader).WithSkipBundleVerification(true).WithFollowSymlinks(true))
}

func reader(loader bundle.DirectoryLoader) *bundle.Reader {
	return bundle.NewCustomReader(loader).WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSizeLimitBytes(MaxBundle)
}

func readBundle(source string, r *bundle.Reader) (*Candidate, error) {
	b, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", source, err)
	}
	return FromBundle(source, &b)
}

// FromBundle returns a candidate from a bundle that OPA has read.
func FromBundle(source string, b *bundle.Bundle) (*Candidate, error) {
	c := &Candidate{Source: source, Name: b.Manifest.Revision, Modules: map[string]string{}, Data: b.Data, Verified: iam.VerifiedByNobody}
	if b.Manifest.Roots != nil {
		c.Roots = *b.Manifest.Roots
	} else {
		c.Roots = []string{""}
	}
	for _, m := range b.Modules {
		c.Modules[strings.TrimPrefix(m.Path, "/")] = string(m.Raw)
	}
	return c, c.extractExtras()
}

// Excluded returns a filter that is true for files that are not part of a policy: tests, and
// hidden ones such as editors' files and the link targets of a mounted ConfigMap.
func Excluded(root string) func(name string, info fs.FileInfo, depth int) bool {
	root = filepath.ToSlash(root)
	return func(name string, _ fs.FileInfo, _ int) bool {
		name = strings.TrimPrefix(filepath.ToSlash(name), root)
		if strings.HasSuffix(name, "_test.rego") {
			return true
		}
		for step := range strings.SplitSeq(name, "/") {
			if strings.HasPrefix(step, ".") && step != "." && step != ".manifest" && step != ".signatures.json" {
				return true
			}
		}
		return false
	}
}

// Watch submits the folder or file to the engine whenever it has changed, until
// ctx ends. It polls names, sizes and times twice a second: that works on every
// file system, in containers and with editors that replace files, where
// notifications do not. Two polls must agree, so that a half-written file is not read.
func (e *Engine) Watch(ctx context.Context, name string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var submittedAt time.Time
	retry, activeThen := false, e.activeDigest()
	submitted, previous := "", "" // the first poll submits the current files again, which changes nothing
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := Fingerprint(name)
		if time.Since(submittedAt) > resubmitAfter && (retry || e.activeDigest() != activeThen) {
			submitted = "" // it could not be checked then, or another revision was activated since
		}
		if now != submitted && now == previous {
			submitted = now
			_, retry = errors.AsType[*RetryError](e.SubmitPath(ctx, name)) // the engine reports errors
			submittedAt, activeThen = time.Now(), e.activeDigest()
		}
		previous = now
	}
}

// resubmitAfter is the pause before an unchanged candidate is submitted again.
const resubmitAfter = 5 * time.Second

func (e *Engine) activeDigest() string {
	if r := e.current.Load(); r != nil {
		return r.Digest
	}
	return ""
}

// SubmitPath reads the folder or file and submits it.
func (e *Engine) SubmitPath(ctx context.Context, name string) error {
	c, err := e.FromPath(name)
	if err != nil {
		e.Reject(ctx, name, "", err)
		return err
	}
	return e.Submit(ctx, c)
}

// Fingerprint changes when a file below name does.
func Fingerprint(name string) string {
	h := fnv.New64a()
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err.Error()
	}
	err = filepath.WalkDir(target, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p) // follows links: a mounted ConfigMap consists of them
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a dangling link, such as an editor's lock
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			fmt.Fprintf(h, "%s %d %d\n", p, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprint(h, err)
	}
	return fmt.Sprint(h.Sum64())
}
