// Package manifests tests deploy/kubernetes and deploy/compose.yaml. It builds the overlays with kustomize, validates them
// by the schemas of Kubernetes and applies the policies of deploy/policies; its folder cluster applies them to a real API
// server. It owns no code of the program.
//
// The programs that it runs come from Go modules under .ci, pinned there.
package manifests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Root is the repository's root folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../..")
}

// programs are the paths of the built programs, by module file and name.
var (
	programs   = map[string]func() (string, error){}
	programsMu sync.Mutex
)

// program returns the path of a program, which is built the first time.
func program(module, name string) (string, error) {
	programsMu.Lock()
	path, known := programs[module+" "+name]
	if !known {
		path = sync.OnceValues(func() (string, error) {
			find := exec.Command("go", "tool", "-modfile="+filepath.Join(".ci", module+".mod"), "-n", name)
			find.Dir = Root()
			// With an empty module cache, Go writes what it downloads to the standard error.
			var stderr bytes.Buffer
			find.Stderr = &stderr
			out, err := find.Output()
			if err != nil {
				return "", fmt.Errorf("build %s: %w: %s", name, err, stderr.String())
			}
			return strings.TrimSpace(string(out)), nil
		})
		programs[module+" "+name] = path
	}
	programsMu.Unlock()
	return path()
}

// Tool runs a program of a module file of .ci, such as "kustomize", which is built the first time, and returns what it
// prints. After a failure that is both outputs, with an error.
func Tool(t testing.TB, module, name string, args ...string) (string, error) {
	t.Helper()
	path, err := program(module, name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// Copy returns the folder of a copy of deploy/kubernetes, in which the secrets of the production overlay exist.
func Copy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(Root(), "deploy/kubernetes"))); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "overlays/production/secrets")
	if err := os.RemoveAll(secrets); err != nil { // a developer's own
		t.Fatal(err)
	}
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"DATABASE_URL":              "postgres://iam_service:one@postgres.example.com/iam",
		"MIGRATE_DATABASE_URL":      "postgres://iam_owner:two@postgres.example.com/iam",
		"NATS_URL":                  "nats://iam:three@nats.example.com:4222",
		"RAUTH_ADMIN_CLIENT_SECRET": "four",
		"POLICY_KEY":                publicKey(t),
	} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func publicKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Build builds a folder with kustomize.
func Build(t testing.TB, dir string) string {
	t.Helper()
	text, err := Tool(t, "kustomize", "kustomize", "build", dir)
	if err != nil {
		t.Fatalf("kustomize build %s: %v\n%s", dir, err, text)
	}
	return text
}

// Definitions are the CustomResourceDefinitions of the objects of components/monitoring, as files.
func Definitions(t testing.TB) []string {
	t.Helper()
	const operator = "github.com/prometheus-operator/prometheus-operator"
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-modfile=.ci/crds.mod", "-json", operator)
	cmd.Dir = Root()
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if err := json.Unmarshal(out, &module); err != nil && len(out) > 0 {
		t.Fatal(err)
	}
	if err != nil || module.Dir == "" {
		t.Fatalf("download %s: %v %s", operator, err, module.Error)
	}
	var files []string
	for _, name := range []string{"servicemonitors", "prometheusrules"} {
		files = append(files, filepath.Join(module.Dir, "example/prometheus-operator-crd/monitoring.coreos.com_"+name+".yaml"))
	}
	return files
}

// Documents splits a stream of YAML documents.
func Documents(text string) []string { return strings.Split(text, "\n---\n") }
