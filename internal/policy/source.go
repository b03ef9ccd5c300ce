package policy

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// maxBundleBytes bounds one file of a bundle, unpacked.
const maxBundleBytes = 32 << 20

// FromFS reads a candidate from a file system, such as an embedded one.
func FromFS(source string, fsys fs.FS) (*Candidate, error) {
	loader, err := bundle.NewFSLoader(fsys)
	if err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", source, err)
	}
	return fromLoader(source, "", loader)
}

// fromPath reads a candidate from a folder or from a bundle file (.tar.gz), with the
// signature that is asked for.
func (e *Engine) fromPath(name string) (*Candidate, error) {
	target, err := filepath.EvalSymlinks(name) // "current" may lead to a release
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	switch {
	case info.IsDir() && e.cfg.SignedOnly:
		return nil, fmt.Errorf("%s is a folder, which has no signature: build and sign a bundle (iam-service policy build --key), or allow it with POLICY_ALLOW_UNSIGNED=1", name)
	case info.IsDir():
		return fromLoader(name, target, bundle.NewDirectoryLoader(target))
	case e.cfg.SignedOnly && e.cfg.Key == nil:
		return nil, fmt.Errorf("there is no key that the signature of %s could be verified with", name)
	}
	f, err := os.Open(target)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	defer f.Close()
	loader := bundle.NewTarballLoaderWithBaseURL(io.LimitReader(f, maxBundleBytes), "")
	if e.cfg.Key == nil {
		return fromLoader(name, "", loader)
	}
	// What is signed is read as a whole: a file that is left out would be missing.
	c, err := readBundle(name, reader(loader).WithBundleVerificationConfig(e.cfg.Key.Verification()))
	if err == nil {
		leftOut := LeftOut("")
		maps.DeleteFunc(c.Modules, func(file, _ string) bool { return leftOut(file, nil, 0) })
	}
	return c, err
}

func fromLoader(source, root string, loader bundle.DirectoryLoader) (*Candidate, error) {
	return readBundle(source, reader(loader.WithFilter(LeftOut(root)).WithFollowSymlinks(true)).WithSkipBundleVerification(true).WithFollowSymlinks(true))
}

func reader(loader bundle.DirectoryLoader) *bundle.Reader {
	return bundle.NewCustomReader(loader).WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSizeLimitBytes(maxBundleBytes)
}

func readBundle(source string, r *bundle.Reader) (*Candidate, error) {
	b, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", source, err)
	}
	return FromBundle(source, &b), nil
}

// FromBundle makes a candidate of a bundle that OPA has read.
func FromBundle(source string, b *bundle.Bundle) *Candidate {
	c := &Candidate{Source: source, Name: b.Manifest.Revision, Modules: map[string]string{}, Data: b.Data}
	if b.Manifest.Roots != nil {
		c.Roots = *b.Manifest.Roots
	} else {
		c.Roots = []string{""}
	}
	for _, m := range b.Modules {
		c.Modules[strings.TrimPrefix(m.Path, "/")] = string(m.Raw)
	}
	return c
}

// LeftOut tells what of a folder is no policy (true means out): tests, and what is hidden,
// such as editors' files and the folder that the files of a mounted ConfigMap are links to.
func LeftOut(root string) func(name string, info fs.FileInfo, depth int) bool {
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

// Watch offers the folder or file to the engine whenever it has changed, until
// ctx ends. It looks at names, sizes and times twice a second: that works on
// every file system, in containers and with editors that replace files, where
// notifications do not. What it finds must have rested between two looks, so
// that a half-written file is not read.
func (e *Engine) Watch(ctx context.Context, name string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	offered, before := "", "" // what was offered before we look is offered again, which changes nothing
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := Fingerprint(name)
		if now != offered && now == before {
			offered = now
			_ = e.OfferPath(ctx, name) // said already: log, metric, status
		}
		before = now
	}
}

// OfferPath reads the folder or file and offers it.
func (e *Engine) OfferPath(ctx context.Context, name string) error {
	c, err := e.fromPath(name)
	if err != nil {
		e.Refuse(ctx, name, err)
		return err
	}
	return e.Offer(ctx, c)
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
		info, err := os.Stat(p) // follows links: a mounted ConfigMap is made of them
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a link that leads nowhere, such as an editor's lock
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
