package cluster_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/manifests"
	"iam-service/internal/dev/manifests/cluster"
)

// What docs/deployment.md and docs/runbook.md promise of Kubernetes, on its own API server.
func TestDeployment(t *testing.T) {
	programs := os.Getenv("KUBERNETES")
	if programs == "" {
		t.Skip(`Kubernetes takes many minutes to build: "make test-deploy" builds it and runs this test, nightly too`)
	}
	s := startService(t)
	c := cluster.Start(t, cluster.Options{Programs: programs, Kubelet: s.kubelet()})
	for _, file := range manifests.Definitions(t) {
		c.Kubectl("apply", "--server-side", "-f", file) // larger than an annotation may be
	}
	c.Kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
	for _, namespace := range []string{"iam", "iam-dev"} {
		c.Kubectl("create", "namespace", namespace)
		// The API server names each pod template that breaks the strictest standard.
		c.Kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
	}
	for _, o := range []overlay{{name: "dev", namespace: "iam-dev"}, {name: "production", namespace: "iam"}} {
		t.Run(o.name, func(t *testing.T) { lifeOf(t, c, o) })
	}
	t.Run("mistakes are refused", func(t *testing.T) { mistakes(t, c) })
	t.Run("the commands of the runbook run", func(t *testing.T) { runbook(t, c) })
	t.Run("the pipeline rolls out, and back", func(t *testing.T) { pipeline(t, c) })
}

type overlay struct{ name, namespace string }

// lifeOf deploys an overlay, changes its image and a setting, and rolls back.
func lifeOf(t *testing.T, c *cluster.Cluster, o overlay) {
	dir := manifests.Copy(t)
	folder := filepath.Join(dir, "overlays", o.name)
	apply := func() string {
		t.Helper()
		out := c.Kubectl("apply", "-k", folder)
		for line := range strings.SplitSeq(out, "\n") {
			if strings.HasPrefix(line, "Warning:") && !strings.Contains(line, "must not contain dots") { // base/migrate.yaml: the Job's tag
				t.Errorf("the API server warns: %s", line)
			}
		}
		c.Kubectl("-n", o.namespace, "rollout", "status", "deployment/iam-service", "--timeout=120s")
		c.Kubectl("-n", o.namespace, "wait", "--for=condition=Complete", "job", "-l", "app=iam-service-migrate", "--timeout=120s")
		return out
	}
	get := func(kind, path string) string {
		t.Helper()
		return strings.TrimSpace(c.Kubectl(slices.Concat([]string{"-n", o.namespace, "get", "-o", "jsonpath={" + path + "}"}, strings.Fields(kind))...))
	}
	const config, image = ".spec.template.spec.containers[0].envFrom[0].configMapRef.name", ".spec.template.spec.containers[0].image"
	const deployment = "deployment/iam-service"

	apply()
	firstConfig, firstImage := get(deployment, config), get(deployment, image)
	for line := range strings.SplitSeq(strings.TrimSpace(apply()), "\n") {
		// kubectl always sends the selector of a PodDisruptionBudget, which is replaced as a whole.
		if !strings.HasSuffix(line, " unchanged") && !strings.HasPrefix(line, "poddisruptionbudget") && !strings.HasPrefix(line, "Warning:") {
			t.Errorf("applied again, something changes: %s", line)
		}
	}

	replace(t, filepath.Join(folder, "kustomization.yaml"), "newTag: 0.1.0", "newTag: 0.2.0")
	replace(t, filepath.Join(folder, "kustomization.yaml"), "TRUSTED_PROXIES=10.0.0.0/8", "TRUSTED_PROXIES=10.1.0.0/16")
	if out := apply(); !strings.Contains(out, "job.batch/iam-service-migrate-0.2.0 created") {
		t.Errorf("a new image is no new migration:\n%s", out)
	}
	secondConfig, secondImage := get(deployment, config), get(deployment, image)
	if secondConfig == firstConfig || !strings.HasSuffix(secondImage, ":0.2.0") {
		t.Errorf("the Deployment has %s and %s", secondConfig, secondImage)
	}
	if got := get("configmap/"+secondConfig, ".data.TRUSTED_PROXIES"); got != "10.1.0.0/16" {
		t.Errorf("the setting is %q", got)
	}

	c.Kubectl("-n", o.namespace, "rollout", "undo", deployment)
	c.Kubectl("-n", o.namespace, "rollout", "status", deployment, "--timeout=120s")
	if got := get(deployment, config) + " " + get(deployment, image); got != firstConfig+" "+firstImage {
		t.Errorf("after the rollback: %s, want %s %s", got, firstConfig, firstImage)
	}
	if got := get("configmap/"+firstConfig, ".data.TRUSTED_PROXIES"); got != "10.0.0.0/8" {
		t.Errorf("the old setting is %q", got)
	}
	for _, pod := range strings.Fields(get("pods -l app=iam-service --field-selector=status.phase=Running", ".items[*].spec.containers[0].image")) {
		if pod != firstImage {
			t.Errorf("a pod runs %s after the rollback", pod)
		}
	}
	// A new password of the migration is no new Job, and breaks none.
	c.Kubectl("-n", o.namespace, "patch", "secret", "iam-service-migrate", "-p", `{"stringData":{"DATABASE_URL":"postgres://other@postgres/iam"}}`)
	apply()
}

// pipeline runs .ci/deploy, first where pods become ready and then where they do not.
func pipeline(t *testing.T, c *cluster.Cluster) {
	root := t.TempDir() // it changes the overlay
	for _, name := range []string{"go.mod", "go.sum", ".ci/deploy", ".ci/kustomize.mod", ".ci/kustomize.sum"} {
		text, err := os.ReadFile(filepath.Join(manifests.Root(), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(root, "deploy/kubernetes"), os.DirFS(manifests.Copy(t))); err != nil {
		t.Fatal(err)
	}
	deploy := func(image, limit string) (string, error) {
		cmd := runner{cluster: c, dir: root}.bash(".ci/deploy " + image)
		cmd.Env = append(cmd.Env, "TIMEOUT="+limit, "NATS_URL=nats://other.example.com:4222")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	get := func(path string) string {
		t.Helper()
		return c.Kubectl("-n", "iam", "get", "deployment", "iam-service", "-o", "jsonpath={"+path+"}")
	}
	const image, config = ".spec.template.spec.containers[0].image", ".spec.template.spec.volumes[0].secret.secretName"
	digest := "@sha256:" + strings.Repeat("0a", 32)

	if out, err := deploy("registry.example.com/iam-service:0.3.0"+digest, "120s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	good, secret := get(image), get(config)
	if !strings.HasSuffix(good, ":0.3.0"+digest) {
		t.Errorf("the image is %s", good)
	}
	if got := c.Kubectl("-n", "iam", "get", "secret", secret, "-o", "jsonpath={.data.NATS_URL}"); got != "bmF0czovL290aGVyLmV4YW1wbGUuY29tOjQyMjI=" {
		t.Errorf("the secret of the environment is not deployed: %s", got)
	}

	c.Kubectl("cordon", "node-a", "node-b") // no new pod is scheduled
	defer c.Kubectl("uncordon", "node-a", "node-b")
	out, err := deploy("registry.example.com/iam-service:0.4.0", "15s")
	if err == nil || !strings.Contains(out, "runs again") {
		t.Errorf("%v\n%s", err, out)
	}
	if got := get(image); got != good {
		t.Errorf("after a failed roll-out the image is %s, want %s", got, good)
	}
	if got := get(".status.readyReplicas"); got == "" || got == "0" {
		t.Errorf("%s replicas are ready after a failed roll-out", got)
	}
}

// replace changes a text that must be in a file once.
func replace(t *testing.T, file, old, by string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), old) != 1 {
		t.Fatalf("%s is not once in %s", old, file)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, by, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mistakes applies each mistake to the production overlay by a server-side dry run.
func mistakes(t *testing.T, c *cluster.Cluster) {
	const pod, container = "/spec/template/spec", "/spec/template/spec/containers/0"
	for _, m := range []struct{ name, kind, patch, want string }{
		{name: "a field that does not exist", kind: "Deployment", patch: `[{"op":"add","path":"/spec/replica","value":3}]`, want: `unknown field "spec.replica"`},
		{name: "another selector", kind: "Deployment", want: "immutable",
			patch: `[{"op":"replace","path":"/spec/selector/matchLabels/app","value":"iam"},{"op":"replace","path":"/spec/template/metadata/labels/app","value":"iam"}]`},
		{name: "a selector of other pods", kind: "Deployment", patch: `[{"op":"replace","path":"/spec/template/metadata/labels/app","value":"iam"}]`, want: "selector"},
		{name: "another template of the same migration", kind: "Job", patch: `[{"op":"add","path":"` + container + `/args/-","value":"--json"}]`, want: "field is immutable"},
		{name: "less limit than request", kind: "Deployment", patch: `[{"op":"replace","path":"` + container + `/resources/limits/memory","value":"1Mi"}]`, want: "must be less than or equal to memory limit"},
		{name: "a quantity that is none", kind: "Deployment", patch: `[{"op":"replace","path":"` + container + `/resources/limits/memory","value":"512 MB"}]`, want: "quantities must match"},
		{name: "a volume that does not exist", kind: "Deployment", patch: `[{"op":"remove","path":"` + pod + `/volumes/0"}]`, want: "volumeMounts"},
		{name: "a probe of a port without a name", kind: "Deployment", patch: `[{"op":"replace","path":"` + container + `/livenessProbe/httpGet/port","value":"op erations"}]`, want: "livenessProbe"},
		{name: "neither surge nor unavailable", kind: "Deployment", patch: `[{"op":"replace","path":"/spec/strategy/rollingUpdate/maxSurge","value":0}]`, want: "may not be 0"},
		{name: "a port that does not exist", kind: "NetworkPolicy", patch: `[{"op":"replace","path":"/spec/egress/0/ports/0/port","value":70000}]`, want: "must be between 1 and 65535"},
		{name: "two budgets in one", kind: "PodDisruptionBudget", patch: `[{"op":"add","path":"/spec/minAvailable","value":2}]`, want: "cannot be both set"},
		{name: "fewer replicas at most than at least", kind: "HorizontalPodAutoscaler", patch: `[{"op":"replace","path":"/spec/maxReplicas","value":1}]`, want: "maxReplicas"},
		{name: "an alert without an expression", kind: "PrometheusRule", patch: `[{"op":"remove","path":"/spec/groups/0/rules/0/expr"}]`, want: "expr"},
		{name: "a pod that runs as root", kind: "Deployment", patch: `[{"op":"replace","path":"` + pod + `/securityContext/runAsNonRoot","value":false}]`, want: "would violate PodSecurity"},
	} {
		t.Run(m.name, func(t *testing.T) {
			dir := manifests.Copy(t)
			if err := os.Mkdir(filepath.Join(dir, "mistake"), 0o700); err != nil {
				t.Fatal(err)
			}
			text := "resources: [../overlays/production]\npatches:\n  - {target: {kind: " + m.kind + "}, patch: '" + m.patch + "'}\n"
			if err := os.WriteFile(filepath.Join(dir, "mistake/kustomization.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := c.Try("", "apply", "--dry-run=server", "-k", filepath.Join(dir, "mistake"))
			if warning := strings.HasPrefix(m.want, "would violate"); (err == nil) != warning || !strings.Contains(out, m.want) {
				t.Errorf("%v, want %q:\n%s", err, m.want, out)
			}
		})
	}
}

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")
	inline     = regexp.MustCompile("(?s)`(kubectl [^`]+)`")
)

// commands are the lines of a page that call kubectl.
func commands(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests.Root(), page))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(strings.ReplaceAll(block[1], "\\\n", " "), "\n") {
			if strings.Contains(line, "kubectl ") || strings.Contains(line, "$OPS") {
				lines = append(lines, line)
			}
		}
	}
	for _, m := range inline.FindAllStringSubmatch(shellBlock.ReplaceAllString(string(text), ""), -1) {
		lines = append(lines, strings.Join(strings.Fields(m[1]), " "))
	}
	return lines
}

// runbook runs each command of the runbook that needs a cluster, over pods whose logs, ports and psql are real.
func runbook(t *testing.T, c *cluster.Cluster) {
	c.Apply(postgresPod)
	c.Kubectl("-n", "iam", "rollout", "status", "statefulset/postgres", "--timeout=60s")
	serveMetrics(t, c)
	lines := commands(t, "docs/runbook.md")
	if len(lines) < 15 {
		t.Fatalf("%d commands in the runbook", len(lines))
	}
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir() // commands name the overlay from the repository's root
	if err := os.MkdirAll(filepath.Join(work, "deploy"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(manifests.Copy(t), filepath.Join(work, "deploy/kubernetes")); err != nil {
		t.Fatal(err)
	}
	c.Kubectl("config", "set-context", "--current", "--namespace=iam") // which is its first command
	run := runner{cluster: c, dir: work, ops: port}
	// Commands that replace pods come last: the forwarded port is that of one pod.
	slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(changes.FindString(a), changes.FindString(b)) })
	for _, line := range lines {
		if strings.Contains(line, "port-forward") { // in the background, while the other commands run
			run.forward(t, line)
		}
	}
	for _, line := range lines {
		if strings.Contains(line, "port-forward") {
			continue
		}
		t.Run(line, func(t *testing.T) {
			// kubectl and curl must succeed; a filter may find nothing, and must be valid.
			// The image's own program is not here: its scripts in cmd/iam-service run it. What leads to it is run.
			line := strings.Replace(line, " -- /iam-service ", " -- echo ", 1)
			out, err := run.bash(line + `
status=("${PIPESTATUS[@]}"); [ "${status[0]}" = 0 ] || exit "${status[0]}"
for s in "${status[@]:1}"; do [ "$s" -le 1 ] || exit "$s"; done`).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if must := output(line); !strings.Contains(string(out), must) {
				t.Errorf("no %q in its output:\n%s", must, out)
			}
		})
	}
}

var changes = regexp.MustCompile(`kubectl (apply|rollout undo|rollout restart)`)

// runner runs commands of the runbook.
type runner struct {
	cluster *cluster.Cluster
	dir     string
	ops     int // local port of the operators' listener
}

func (r runner) bash(script string) *exec.Cmd {
	cmd := exec.Command("timeout", "120", "bash", "-c", script) // a command that hangs fails
	if strings.HasPrefix(script, "exec ") {                     // it runs until it is killed
		cmd = exec.Command("bash", "-c", script)
	}
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.cluster.Kubeconfig, "PATH="+filepath.Dir(r.cluster.Program("kubectl"))+":"+os.Getenv("PATH"),
		fmt.Sprintf("OPS=http://127.0.0.1:%d", r.ops))
	return cmd
}

// forward runs a command that forwards the port 9090, to a free local port, until the test has ended.
func (r runner) forward(t *testing.T, line string) {
	t.Helper()
	changed := strings.Replace(line, " 9090:9090", fmt.Sprintf(" %d:9090", r.ops), 1)
	if changed == line {
		t.Fatalf("%s forwards another port", line)
	}
	cmd := r.bash("exec " + strings.TrimSuffix(strings.TrimSpace(changed), "&"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the commands are done
		_ = cmd.Wait()
	})
	await.True(t, "the port is forwarded", func() bool { return r.bash(`curl -sf "$OPS/healthz"`).Run() == nil })
}

// outputs are what the output of a command holds, so that one that finds nothing by mistake is noticed.
var outputs = []struct{ part, want string }{
	{part: `readyz?verbose"`, want: "ok"},
	{part: "pg_stat_activity", want: " row"},
	{part: "http_requests_total", want: "http_requests_total{"},
	{part: "iam_cache_", want: "iam_cache_hits_total"},
	{part: "get pods", want: "iam-service-"},
	{part: "top pods", want: "iam-service-"},
	{part: "--previous", want: `"level"`},
	{part: "rollout status", want: "successfully rolled out"},
	{part: "rollout undo", want: "rolled back"},
	{part: "rollout restart", want: "restarted"},
	{part: "apply -k", want: "deployment.apps/iam-service"},
}

// output is what the output of a line holds.
func output(line string) string {
	if strings.Contains(line, "readyz") && strings.Contains(line, "grep") {
		return "" // one check, which may be on or off
	}
	for _, o := range outputs {
		if strings.Contains(line, o.part) {
			return o.want
		}
	}
	return ""
}

// service is the program with all that it needs, as the pods' logs, ports and psql.
type service struct {
	ops      string // port
	log      string // file, in the format of container runtimes
	database *url.URL
}

var exported = regexp.MustCompile(`export DATABASE_URL='([^']+)'`)

func startService(t *testing.T) *service {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "iam-dev"), "./cmd/iam-dev")
	build.Dir = manifests.Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addrs, err := freeport.Addrs(2)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{ops: addrs[0][strings.LastIndex(addrs[0], ":")+1:], log: filepath.Join(dir, "container.log")}
	cmd := exec.Command(filepath.Join(dir, "iam-dev"), "--dir", filepath.Join(dir, "data"), "--rauth", addrs[1])
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OPS_ADDR="+addrs[0], "GATEWAY_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintf(log, "%s stderr F %s\n", time.Now().UTC().Format(time.RFC3339Nano), lines.Text())
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it stops PostgreSQL
		<-logged
		_ = cmd.Wait()
		_ = log.Close()
	})
	for lines := bufio.NewScanner(stdout); s.database == nil && lines.Scan(); {
		if m := exported.FindStringSubmatch(lines.Text()); m != nil {
			if s.database, err = url.Parse(m[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.database == nil {
		text, _ := os.ReadFile(s.log)
		t.Fatalf("iam-dev does not start:\n%s", text)
	}
	go func() { // what else it prints
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
		}
	}()
	return s
}

// kubelet is the configuration of kwok.
func (s *service) kubelet() string {
	password, _ := s.database.User.Password()
	env := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	var text string
	for kind, spec := range map[string]any{
		"ClusterLogs": map[string]any{"logs": []any{map[string]any{"logsFile": s.log, "previousLogsFile": s.log}}},
		"ClusterExec": map[string]any{"execs": []any{map[string]any{"local": map[string]any{"envs": []any{
			env("PGHOST", s.database.Hostname()), env("PGPORT", s.database.Port()), env("PGPASSWORD", password), env("PATH", os.Getenv("PATH")),
		}}}}},
		"ClusterPortForward": map[string]any{"forwards": []any{map[string]any{
			"ports": []int{9090}, "target": map[string]any{"address": "127.0.0.1", "port": json.Number(s.ops)},
		}}},
	} {
		b, err := json.Marshal(map[string]any{"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": map[string]any{"name": "all"}, "spec": spec})
		if err != nil {
			panic(err) // maps of strings
		}
		text += "\n---\n" + string(b)
	}
	return text
}

const postgresPod = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgres, namespace: iam}
spec:
  serviceName: postgres
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: postgres
          image: postgres:18
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`
