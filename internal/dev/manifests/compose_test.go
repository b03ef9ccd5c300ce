package manifests_test

import (
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/manifests"
	"iam-service/internal/gateway"
	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
	"iam-service/internal/server"
)

var update = flag.Bool("update", false, "write deploy/traefik and the PrometheusRule anew")

// project is what Compose understands of deploy/compose.yaml.
type project struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
	}
	Configs map[string]struct{ Content string }
}

// load loads a Compose file strictly; its output is the error's text on failure.
func load(t *testing.T, file string) (p project, out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "-C", filepath.Join(manifests.Root(), ".ci/compose"), "run", ".", file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return p, stderr.String(), err
	}
	return p, "", json.Unmarshal(text, &p)
}

func composeFile(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs(deploy + "/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func compose(t *testing.T) project {
	t.Helper()
	p, out, err := load(t, composeFile(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

func TestAMistakeInTheComposeFileIsRejected(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(composeFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{name: "a key that does not exist", old: "stop_grace_period: 30s", new: "grace: 30s", want: "grace"},
		{name: "a service that does not exist", old: "nats: {condition: service_started}", new: "bus: {condition: service_started}", want: "bus"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if strings.Count(string(text), c.old) != 1 {
				t.Fatalf("%q is not once in the file", c.old)
			}
			file := filepath.Join(t.TempDir(), "compose.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), c.old, c.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, out, err := load(t, file); err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v %s", err, out)
			}
		})
	}
}

// Hydra, Traefik and NATS are of the versions that the tests build and run.
func TestComposeImagesHaveTheVersionsThatAreTested(t *testing.T) {
	t.Parallel()
	versions := map[string]string{}
	for _, file := range []string{".ci/hydra.mod", ".ci/traefik.mod", "go.mod"} {
		text, err := os.ReadFile(filepath.Join(manifests.Root(), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v(\S+)`).FindAllStringSubmatch(string(text), -1) {
			versions[m[1]] = m[2]
		}
	}
	images := map[string]string{
		"oryd/hydra": "v" + versions["github.com/ory/hydra/v2"],
		"traefik":    "v" + versions["github.com/traefik/traefik/v3"],
		"nats":       versions["github.com/nats-io/nats-server/v2"],
	}
	for name, s := range compose(t).Services {
		image, tag, tagged := strings.Cut(s.Image, ":")
		if !tagged || tag == "latest" {
			t.Errorf("%s: %s has no fixed tag", name, s.Image)
		}
		if want, tested := images[image]; tested && tag != want {
			t.Errorf("%s: %s, want %s", name, s.Image, want)
		}
	}
}

func TestTheSettingsOfComposeAreAccepted(t *testing.T) {
	t.Parallel()
	p := compose(t)
	known := map[string]bool{}
	for _, v := range server.Variables() {
		known[strings.TrimSuffix(v[0], "[_FILE]")] = true
	}
	var environ []string
	for name, value := range p.Services["iam-service"].Environment {
		if !known[name] {
			t.Errorf("%s is no setting", name)
		}
		environ = append(environ, name+"="+value)
	}
	cfg, err := server.ParseConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.RAuthURL != p.Services["hydra"].Environment["URLS_SELF_ISSUER"] {
		t.Errorf("RAUTH_URL is %s, and Hydra's issuer %s", cfg.RAuthURL, p.Services["hydra"].Environment["URLS_SELF_ISSUER"])
	}
	if _, err := server.ReadConfig([]string{"DATABASE_URL=" + p.Services["migrate"].Environment["DATABASE_URL"]}, server.Needs{Database: true}); err != nil {
		t.Error(err)
	}
}

func TestComposeRunsTraefikWithTheGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	p := compose(t)
	profiles, err := gateway.Profiles(p.Services["iam-service"].Environment["GATEWAY_PROFILE"])
	if err != nil {
		t.Fatal(err)
	}
	files, err := setup.Generate("traefik", setup.Settings{
		IAM: "http://iam-service:8080", ExtAuthz: "iam-service:9191", Backend: "http://echo:9999", Listen: ":8000", Loopback: "127.0.0.1:18080",
		Headers: policy.DefaultHeaders, Usual: true, Profiles: profiles,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := filepath.Join(deploy, "traefik", f.Name)
		if *update {
			if err := os.WriteFile(name, []byte(f.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != f.Text {
			t.Errorf("%s is not what is generated: go test ./internal/dev/manifests -run Compose -update", name)
		}
	}
}

// The settings and the client of Hydra work with Hydra itself, over SQLite.
func TestOryHydraOfComposeIssuesTokens(t *testing.T) {
	program := os.Getenv("HYDRA")
	if program == "" {
		t.Skip(`Hydra takes minutes to build: "make test-hydra" builds it and runs this test, nightly too`)
	}
	p, dir := compose(t), t.TempDir()
	addrs, err := freeport.Addrs(2)
	if err != nil {
		t.Fatal(err)
	}
	port := func(i int) string { return addrs[i][strings.LastIndex(addrs[i], ":")+1:] }
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	for name, value := range p.Services["hydra"].Environment {
		if name == "DSN" {
			value = "sqlite://" + filepath.Join(dir, "hydra.sqlite") + "?_fk=true"
		}
		environ = append(environ, name+"="+value)
	}
	environ = append(environ, "SERVE_PUBLIC_PORT="+port(0), "SERVE_ADMIN_PORT="+port(1), "SERVE_PUBLIC_HOST=127.0.0.1", "SERVE_ADMIN_HOST=127.0.0.1")
	hydra := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Env = environ
		return cmd
	}
	if out, err := hydra(p.Services["hydra-migrate"].Command...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	serve := hydra(p.Services["hydra"].Command...)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill() // its data goes with the test
		_ = serve.Wait()
	})
	client := filepath.Join(dir, "client.json")
	if err := os.WriteFile(client, []byte(p.Configs["client"].Content), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, arg := range p.Services["hydra-client"].Command {
		arg = strings.Replace(arg, "http://hydra:4445", "http://"+addrs[1], 1)
		args = append(args, strings.Replace(arg, "/client.json", client, 1))
	}
	await.True(t, "the client is imported", func() bool { return hydra(args...).Run() == nil })
	resp, err := http.PostForm("http://"+addrs[0]+"/oauth2/token", url.Values{
		"grant_type": {"client_credentials"}, "audience": {"platform"}, "client_id": {"demo"}, "client_secret": {"demo-secret-of-development"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"access_token":"ey`) {
		t.Errorf("%v %s %s", err, resp.Status, body)
	}
}
