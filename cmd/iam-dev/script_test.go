package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"iam-service/internal/dev/scripttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"iam-dev": main, "curl": curl})
}

// curl is as much of it as the printed commands use, so that they can be run as
// they are where the real one is not installed.
func curl() {
	var headers, data list
	flag.Var(&headers, "H", "header")
	flag.Var(&data, "d", "data; several are joined with &")
	user := flag.String("u", "", "user:password")
	quiet, withHead := flag.Bool("s", false, ""), flag.Bool("si", false, "")
	flag.Parse()
	_ = quiet // always
	method, body := http.MethodGet, io.Reader(nil)
	if len(data) > 0 {
		method, body = http.MethodPost, strings.NewReader(strings.Join(data, "&"))
	}
	req, err := http.NewRequest(method, flag.Arg(0), body)
	if err != nil {
		panic(err)
	}
	if len(data) > 0 {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if name, password, ok := strings.Cut(*user, ":"); ok {
		req.SetBasicAuth(name, password)
	}
	resp, err := http.DefaultClient.Do(req)
	for try := 0; err == nil && resp.StatusCode == http.StatusServiceUnavailable && try < 20; try++ {
		time.Sleep(100 * time.Millisecond) // a busy machine answers "not now" at times
		resp, err = http.DefaultClient.Do(req)
	}
	if err != nil {
		panic(err)
	}
	if *withHead {
		fmt.Println("HTTP/1.1", resp.Status)
		for name := range resp.Header {
			fmt.Println(name+":", resp.Header.Get(name))
		}
		fmt.Println()
	}
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		panic(err)
	}
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// TestScripts runs testdata/*.txtar: what a newcomer sees.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripttest.Variables = append(scripttest.Variables, "GATEWAY_ADDR", "ADMIN_ADDR", "OPS_ADDR", "DATABASE_URL", "RAUTH_URL")
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Cmds: scripttest.Commands(), RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, "tmp"))
			return os.MkdirAll(filepath.Join(env.WorkDir, "tmp"), 0o755)
		},
	})
}
