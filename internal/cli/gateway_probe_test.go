package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/gateway/probe"
	"iam-service/internal/policy"
)

// openGateway passes everything on to an echo that the command starts at addr.
func openGateway(t *testing.T) (gateway, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	s := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr}))
	t.Cleanup(s.Close)
	return s.URL + "/orders/7", addr
}

func execute(t *testing.T, environ []string, args ...string) (out string, err error) {
	t.Helper()
	cmd := Command(environ)
	var b bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	err = cmd.ExecuteContext(t.Context())
	return b.String(), err
}

func TestGatewayProbeReportsFaultsOfTheConfiguredHeaders(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		environ []string
		args    []string
		want    []string
	}{
		"the default set": {want: policy.DefaultHeaders},
		"of the settings": {environ: []string{"GATEWAY_HEADERS=X-User-ID,X-Tenant-ID"}, want: []string{"X-User-ID", "X-Tenant-ID"}},
		"of a flag":       {args: []string{"--headers", "Remote-User,X-Region"}, want: []string{"Remote-User", "X-Region"}},
		"with limits":     {args: []string{"--headers", "Remote-User", "--timeout", "3s", "--limit", "1m", "--concurrency", "4"}, want: []string{"Remote-User"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gateway, addr := openGateway(t)
			out, err := execute(t, c.environ, append([]string{"gateway", "probe", gateway, "--listen-echo", addr, "--token", "@" + token, "--only", "header,hint", "--only", "alias/_", "--format", "json"}, c.args...)...)
			if _, untested := errors.AsType[*untestedError](err); err == nil || untested || !strings.HasSuffix(err.Error(), " faults") {
				t.Fatalf("%v", err)
			}
			var r probe.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range r.Headers {
				got = append(got, h.Name)
			}
			if !slices.Equal(got, c.want) || r.Kinds[probe.Forged] == 0 || strings.Contains(out, "secret-token") {
				t.Errorf("%v, %v", got, r.Kinds)
			}
		})
	}
}

func TestGatewayProbeReportsWhyItCouldNotTest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no token":          {args: []string{"http://127.0.0.1:1/a"}, want: "token: needed"},
		"no file":           {args: []string{"http://127.0.0.1:1/a", "--token", "@/does/not/exist"}, want: "--token: open /does/not/exist"},
		"no authority":      {args: []string{"https://127.0.0.1:1/a", "--token", "t", "--ca-file", os.DevNull}, want: "has no certificate"},
		"nothing listening": {args: []string{"http://127.0.0.1:1/a", "--token", "t"}, want: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := execute(t, nil, append([]string{"gateway", "probe"}, c.args...)...)
			if _, untested := errors.AsType[*untestedError](err); !untested || !strings.Contains(err.Error(), "could not test the gateway: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if got := exitStatus(err); got != 2 {
				t.Errorf("status %d", got)
			}
		})
	}
	if _, err := execute(t, nil, "gateway", "probe", "http://h/a", "--format", "xml"); exitStatus(err) != 2 {
		t.Errorf("%v", err)
	}
	if got := exitStatus(errors.New("3 faults")); got != 1 {
		t.Errorf("faults: status %d", got)
	}
}

func TestGatewayEchoServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := Command(nil)
	cmd.SetArgs([]string{"gateway", "echo", "--addr", addr, "--quiet"})
	listening := make(chan struct{})
	cmd.SetErr(writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "echo listens at "+addr) {
			close(listening)
		}
		return len(p), nil
	}))
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	<-listening
	resp, err := http.Get("http://" + addr + "/a?b")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var seen probe.Seen
	if err := json.NewDecoder(resp.Body).Decode(&seen); err != nil || seen.Target != "/a?b" {
		t.Errorf("%+v, %v", seen, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
