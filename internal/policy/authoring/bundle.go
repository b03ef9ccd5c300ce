package authoring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/format"

	"iam-service/internal/policy"
)

// Format formats each .rego file below the paths as opa fmt does. It returns the names of the
// files that it has changed, and all errors; links are skipped.
func Format(paths []string) (changed []string, err error) { return eachRego(paths, formatFile) }

// Unformatted is Format that changes no file.
func Unformatted(paths []string) (names []string, err error) { return eachRego(paths, unformatted) }

// eachRego returns the names of the .rego files below the paths for which do returns true.
func eachRego(paths []string, do func(name string) (bool, error)) (changed []string, err error) {
	var errs []error
	for _, p := range paths {
		target, err := filepath.EvalSymlinks(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if info, err := os.Stat(target); err == nil && !info.IsDir() && !strings.HasSuffix(target, ".rego") {
			errs = append(errs, fmt.Errorf("%s is neither a folder nor a .rego file", p))
			continue
		}
		err = filepath.WalkDir(target, func(name string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(name, ".rego") || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			different, err := do(name)
			if err != nil {
				errs = append(errs, err)
			}
			if different {
				changed = append(changed, name)
			}
			return nil
		})
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

func unformatted(name string) (bool, error) {
	pretty, err := formatted(name)
	return pretty != nil, err
}

// formatted is the content of a file as it should be; nil where it is so already.
func formatted(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pretty, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil || bytes.Equal(pretty, text) {
		return nil, err
	}
	return pretty, nil
}

func formatFile(name string) (changed bool, err error) {
	pretty, err := formatted(name)
	if pretty == nil {
		return false, err
	}
	info, err := os.Stat(name)
	if err == nil {
		err = WriteFile(name, pretty, info.Mode().Perm())
	}
	return err == nil, err
}

// WriteFile replaces a file atomically: a watcher never reads a partial file.
func WriteFile(name string, text []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // renamed already, unless a step failed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// Signer signs bundles.
type Signer struct {
	File string // PEM with a private key
	ID   string // its name in the signature, by which OPA finds the public key
}

// algorithm returns the key's signature algorithm.
func (k Signer) algorithm() (string, error) {
	text, err := os.ReadFile(k.File)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", fmt.Errorf("%s must be the PEM of a private key", k.File)
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	} {
		private, err := parse(block.Bytes)
		if signer, ok := private.(crypto.Signer); ok && err == nil {
			return policy.SigningAlgorithm(signer.Public())
		}
	}
	return "", fmt.Errorf("%s must be the PEM of a private key without a password", k.File)
}

// Build packs a folder without its tests, and signs the bundle if there is a key. The result
// is reproducible, except for the signature.
func Build(dir, revision string, key *Signer) ([]byte, error) {
	b, err := read(dir)
	if err != nil {
		return nil, err
	}
	folder, err := policy.FromFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := folder.AddExtras(b.Data); err != nil {
		return nil, err
	}
	if revision != "" {
		b.Manifest.Revision = revision
	}
	if b.Manifest.Roots == nil || slices.Contains(*b.Manifest.Roots, "") {
		return nil, fmt.Errorf(`%s has no .manifest with its roots: add {"roots": ["iam"], "rego_version": 1} to %s`, dir, filepath.Join(dir, ".manifest"))
	}
	return write(b, key)
}

// Sign replaces the signature of a packed bundle, and removes its tests.
func Sign(packed []byte, key Signer) ([]byte, error) {
	b, err := open(packed, nil)
	if err != nil {
		return nil, err
	}
	b.Modules = slices.DeleteFunc(b.Modules, func(m bundle.ModuleFile) bool { return isTest(m.Path) })
	return write(b, &key)
}

// Verify reads a bundle and verifies its signature.
func Verify(packed []byte, key *policy.Key) (b bundle.Bundle, err error) {
	err = key.Verify(func(v *bundle.VerificationConfig) error {
		b, err = open(packed, v)
		return err
	})
	return b, err
}

func read(dir string) (bundle.Bundle, error) {
	target, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return bundle.Bundle{}, err
	}
	b, err := bundle.NewCustomReader(bundle.NewDirectoryLoader(target).WithFilter(policy.Excluded(target)).WithFollowSymlinks(true)).
		WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSkipBundleVerification(true).WithSizeLimitBytes(policy.MaxBundle).WithFollowSymlinks(true).Read()
	if err != nil {
		return b, fmt.Errorf("read %s: %w", dir, err)
	}
	return b, nil
}

// open reads a packed bundle, and verifies its signature where there is a configuration.
func open(packed []byte, v *bundle.VerificationConfig) (bundle.Bundle, error) {
	if err := policy.CheckArchive(packed); err != nil {
		return bundle.Bundle{}, err
	}
	r := bundle.NewReader(bytes.NewReader(packed)).WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSizeLimitBytes(policy.MaxBundle)
	if v == nil {
		r = r.WithSkipBundleVerification(true)
	} else {
		r = r.WithBundleVerificationConfig(v)
	}
	return r.Read()
}

func write(b bundle.Bundle, key *Signer) ([]byte, error) {
	b.Signatures = bundle.SignaturesConfig{}
	if key != nil {
		algorithm, err := key.algorithm()
		if err != nil {
			return nil, err
		}
		if err := b.GenerateSignature(bundle.NewSigningConfig(key.File, algorithm, ""), key.ID, true); err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
	}
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// signatureOf describes the unverified signature of a packed bundle. It reads the file itself:
// OPA skips a signature that it does not verify.
func signatureOf(packed []byte) (string, error) {
	loader := bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "").WithSizeLimitBytes(policy.MaxBundle + 1)
	for {
		f, err := loader.NextFile()
		switch {
		case errors.Is(err, io.EOF):
			return "none", nil
		case err != nil:
			return "", err
		case !bundle.IsSignaturesFile(f.Path()):
			continue
		}
		var text bytes.Buffer
		if _, err := f.Read(&text, policy.MaxBundle+1); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		var found bundle.SignaturesConfig
		var header struct {
			Algorithm string `json:"alg"`
			Key       string `json:"kid"`
		}
		if err := json.Unmarshal(text.Bytes(), &found); err != nil || len(found.Signatures) == 0 {
			return "there is one that cannot be read", nil
		}
		first, _, _ := strings.Cut(found.Signatures[0], ".")
		if decoded, err := base64.RawURLEncoding.DecodeString(first); err != nil || json.Unmarshal(decoded, &header) != nil {
			return "there is one that cannot be read", nil
		}
		return fmt.Sprintf("by the key %s, %s; check it with iam-service policy verify", header.Key, header.Algorithm), nil
	}
}

// Inspect describes a folder or a bundle.
func Inspect(name string) (Inspection, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Inspection{}, err
	}
	var b bundle.Bundle
	seen := Inspection{Signature: "none", Packages: []Package{}, Reasons: []string{}}
	if info.IsDir() {
		b, err = read(name)
	} else {
		packed, readErr := os.ReadFile(name)
		if readErr != nil {
			return seen, readErr
		}
		if b, err = open(packed, nil); err == nil {
			seen.Signature, err = signatureOf(packed)
		}
	}
	if err != nil {
		return seen, err
	}
	seen.Revision = b.Manifest.Revision
	if b.Manifest.Roots != nil {
		seen.Roots = *b.Manifest.Roots
	}
	packages := map[string]int{}
	for _, m := range b.Modules {
		packages[strings.TrimPrefix(m.Parsed.Package.Path.String(), "data.")] += len(m.Parsed.Rules)
		for _, a := range m.Parsed.Annotations {
			if code, ok := a.Custom["code"].(string); ok {
				seen.Reasons = append(seen.Reasons, code+": "+a.Title)
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(packages)) {
		seen.Packages = append(seen.Packages, Package{p, packages[p]})
	}
	slices.Sort(seen.Reasons)
	seen.Reasons = slices.Compact(seen.Reasons)
	c, err := policy.FromBundle(name, &b)
	if err != nil {
		return seen, err
	}
	seen.Cases = len(c.Cases)
	seen.Data, err = json.Marshal(c.Data["iam"])
	return seen, err
}

// Inspection describes a policy.
type Inspection struct {
	Revision  string          `json:"revision"`
	Roots     []string        `json:"roots,omitempty"`
	Signature string          `json:"signature"`
	Packages  []Package       `json:"packages"`
	Reasons   []string        `json:"reasons"`
	Cases     int             `json:"cases"`
	Data      json.RawMessage `json:"data_iam"`
}

// Package is a package of a policy.
type Package struct {
	Name  string `json:"name"`
	Rules int    `json:"rules"`
}

// Text writes the inspection as text.
func (i Inspection) Text(out io.Writer) {
	row := func(what string, values ...string) {
		for _, v := range values {
			fmt.Fprintf(out, "%-10s %s\n", what, v)
			what = ""
		}
	}
	row("revision", i.Revision)
	if i.Roots != nil {
		row("roots", strings.Join(i.Roots, ", "))
	}
	row("signature", i.Signature)
	var list []string
	for _, p := range i.Packages {
		list = append(list, fmt.Sprintf("%s (%d rules)", p.Name, p.Rules))
	}
	row("packages", list...)
	row("reasons", i.Reasons...)
	row("cases", strconv.Itoa(i.Cases))
	row("data.iam", string(i.Data))
}

// CheckBundle runs the gate for a packed bundle, including its acceptance cases.
func CheckBundle(ctx context.Context, name string, o CheckOptions) (*policy.Revision, error) {
	return gate(ctx, o, (*policy.Engine).Prepare, func(e *policy.Engine) (*policy.Candidate, error) { return e.FromPath(name) })
}

// CheckPacked is CheckBundle for the bytes of a bundle.
func CheckPacked(ctx context.Context, name string, packed []byte, o CheckOptions) (*policy.Revision, error) {
	return gate(ctx, o, (*policy.Engine).Prepare, func(e *policy.Engine) (*policy.Candidate, error) { return e.Unpack(name, packed) })
}
