// Package cluster runs a real API server for tests: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with
// kwok in the place of kubelets. Pods are objects that kwok marks as ready and completed; nothing runs in them. Their logs,
// commands and ports can lead to processes of the test. It owns those processes and their folder, and knows nothing of the
// service.
package cluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
)

// Options of Start.
type Options struct {
	Programs string // folder that .ci/kubernetes fills: the programs, and kwok's stages, by which nodes and pods become ready
	Kubelet  string // further configuration of kwok: where logs, commands and ports of pods lead to
}

// Cluster is a running cluster.
type Cluster struct {
	Kubeconfig string // of an administrator
	Dir        string // of everything, logs included

	t        testing.TB
	programs string
}

// token authenticates the administrator and the components; the server listens on loopback, in a test alone.
const token = "a-token-of-a-test-alone"

// startTimeout is how long a component may take to start.
const startTimeout = 2 * time.Minute

// Start starts a cluster with two nodes in two zones, until the test has ended.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: t.TempDir(), programs: o.Programs}
	c.Kubeconfig = filepath.Join(c.Dir, "kubeconfig")
	addrs, err := freeport.Addrs(6)
	if err != nil {
		t.Fatal(err)
	}
	client, peer, api := addrs[0], addrs[1], addrs[2]
	port := func(i int) string { return addrs[i][strings.LastIndex(addrs[i], ":")+1:] }
	c.write("tokens.csv", token+`,admin,admin,"system:masters"`+"\n")
	c.write("kubeconfig", kubeconfig("https://"+api))
	key := c.key()

	c.run(c.Program("etcd"), "--unsafe-no-fsync", "--data-dir="+c.path("etcd"),
		"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client, "--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)
	c.await("etcd", "http://"+client+"/health")
	c.run(c.Program("kube-apiserver"), "--etcd-servers=http://"+client, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port="+port(2), "--cert-dir="+c.path("certs"), "--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key, "--endpoint-reconciler-type=none",
		"--kubelet-preferred-address-types=InternalIP")
	c.await("kube-apiserver", "https://"+api+"/readyz")
	c.run(c.Program("kube-controller-manager"), "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
		"--secure-port="+port(3), "--bind-address=127.0.0.1", "--cert-dir="+c.path("certs-kcm"), "--service-account-private-key-file="+key, "--root-ca-file="+c.path("certs/apiserver.crt"))
	c.run(c.Program("kube-scheduler"), "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
		"--secure-port="+port(4), "--bind-address=127.0.0.1", "--cert-dir="+c.path("certs-scheduler"))
	c.run(c.Program("kwok"), "--kubeconfig="+c.Kubeconfig, "--manage-all-nodes", "--node-lease-duration-seconds=40",
		"--node-ip=127.0.0.1", "--node-port="+port(5),
		"--server-address="+addrs[5], "--tls-cert-file="+c.path("certs/apiserver.crt"), "--tls-private-key-file="+c.path("certs/apiserver.key"),
		"--config="+c.stages(o))
	for _, zone := range []string{"a", "b"} {
		c.Apply(node(zone))
	}
	c.Kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
	return c
}

// Program is the path of a program of the cluster.
func (c *Cluster) Program(name string) string { return filepath.Join(c.programs, name) }

// Kubectl runs kubectl and returns what it prints; it must succeed.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.Try("", args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Apply applies objects.
func (c *Cluster) Apply(objects string) {
	c.t.Helper()
	if out, err := c.Try(objects, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// Try runs kubectl and returns both its outputs. stdin is its input.
func (c *Cluster) Try(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(c.t.Context(), c.Program("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *Cluster) path(name string) string { return filepath.Join(c.Dir, name) }

func (c *Cluster) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// run starts a component, which is stopped when the test has ended. Its log is shown if the test has failed.
func (c *Cluster) run(program string, args ...string) {
	c.t.Helper()
	name := filepath.Base(program)
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=" + c.Dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("start %s: %v (make test-deploy builds it)", program, err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill() // nothing of it is used any more
		_ = cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && c.t.Failed() {
			c.t.Logf("%s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
}

// await returns when a URL answers 200.
func (c *Cluster) await(name, url string) {
	c.t.Helper()
	// Its certificate is made at start.
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(c.t.Context(), startTimeout)
	defer cancel()
	for ; ; time.Sleep(100 * time.Millisecond) {
		err := func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		}()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s does not start: %v", name, err)
		}
	}
}

// key writes the key that signs the tokens of service accounts.
func (c *Cluster) key() string {
	c.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	return c.path("sa.key")
}

// stages writes the configuration of kwok.
func (c *Cluster) stages(o Options) string {
	c.t.Helper()
	text := o.Kubelet
	for _, folder := range []string{"node/fast", "node/heartbeat-with-lease", "pod/fast"} {
		files, err := filepath.Glob(filepath.Join(o.Programs, "stages", folder, "[np]*.yaml"))
		if err != nil || len(files) == 0 {
			c.t.Fatalf("no stages in %s: %v", folder, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				c.t.Fatal(err)
			}
			text += "\n---\n" + string(b)
		}
	}
	c.write("kwok.yaml", text)
	return c.path("kwok.yaml")
}

func kubeconfig(server string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %s, insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
`, server, token)
}

func node(zone string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: node-%[1]s
  labels: {kubernetes.io/hostname: node-%[1]s, topology.kubernetes.io/zone: %[1]s}
status:
  allocatable: {cpu: "32", memory: 256Gi, pods: "110", ephemeral-storage: 100Gi}
  capacity: {cpu: "32", memory: 256Gi, pods: "110", ephemeral-storage: 100Gi}
`, zone)
}
