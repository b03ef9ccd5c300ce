// Package scripttest runs the programs themselves through txtar scripts, with a
// few commands more than testscript has: http, field, eventually, freeport, signal.
//
// It knows nothing of what the programs do.
package scripttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
)

// Commands are those that scripts have in addition to testscript's own.
func Commands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"http":       httpCommand,
		"eventually": eventually,
		"freeport":   freePorts,
		"signal":     signalProcess,
		"capture":    capture,
		"append":     appendTo,
		"field":      field,
	}
}

// httpCommand: http STATUS METHOD URL [HEADER...] [-d BODY] asks once and leaves the
// response, status line and headers first, in the file response. A header that begins with
// @ is a bearer token from a file. A body is JSON unless a header says otherwise; one
// that begins with @ is from a file.
func httpCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD URL [HEADER...]")
	}
	status, response, err := ask(ts, args[1:])
	for try := 0; err == nil && status == http.StatusServiceUnavailable && args[0] != "503" && try < 20; try++ {
		time.Sleep(100 * time.Millisecond) // a busy machine answers "not now" at times, and says to try again
		status, response, err = ask(ts, args[1:])
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("response"), response, 0o600))
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("%s %s: status %d, want %s:\n%s", args[1], args[2], status, args[0], response)
	}
}

func ask(ts *testscript.TestScript, args []string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	headers := args[2:]
	var body io.Reader
	if n := len(headers); n >= 2 && headers[n-2] == "-d" {
		text := headers[n-1]
		if file, ok := strings.CutPrefix(text, "@"); ok {
			text = ts.ReadFile(file)
		}
		body, headers = strings.NewReader(text), headers[:n-2]
	}
	req, err := http.NewRequestWithContext(ctx, args[0], args[1], body)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		if file, ok := strings.CutPrefix(h, "@"); ok {
			req.Header.Add("Authorization", "Bearer "+strings.TrimSpace(ts.ReadFile(file)))
			continue
		}
		name, value, _ := strings.Cut(h, ":")
		if name == "Content-Type" {
			req.Header.Del(name)
		}
		req.Header.Add(name, strings.TrimSpace(value))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	b.WriteString(resp.Status + "\n")
	if resp.Close {
		b.WriteString("Connection: close\n") // net/http takes it out of the headers
	}
	if err := resp.Header.Write(&b); err != nil {
		return 0, nil, err
	}
	b.WriteString("\n")
	_, err = io.Copy(&b, resp.Body)
	return resp.StatusCode, bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n")), err
}

// eventually: eventually STATUS METHOD URL [HEADER...] asks until the response has
// the status; eventually match REGEXP METHOD URL [HEADER...] until the response has a
// match; eventually grep REGEXP FILE looks until the file has one.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually STATUS METHOD URL [HEADER...] | eventually match REGEXP METHOD URL [HEADER...] | eventually grep REGEXP FILE")
	}
	var last string
	done := await.Until(4*time.Minute, 20*time.Millisecond, func() bool {
		if args[0] == "grep" {
			b, _ := os.ReadFile(ts.MkAbs(args[2])) // not there yet: empty
			last = string(b)
			return regexp.MustCompile(`(?m)` + args[1]).Match(b)
		}
		request := args[1:]
		if args[0] == "match" {
			request = args[2:]
		}
		status, response, err := ask(ts, request)
		good := err == nil && strconv.Itoa(status) == args[0]
		if args[0] == "match" {
			good = err == nil && regexp.MustCompile(`(?m)`+args[1]).Match(response)
		}
		if good {
			ts.Check(os.WriteFile(ts.MkAbs("response"), response, 0o600))
			return true
		}
		last = string(response)
		if err != nil {
			last = err.Error()
		}
		return false
	})
	if !done {
		ts.Fatalf("never: %s\nlast seen:\n%s", strings.Join(args, " "), last)
	}
}

// field: field NAME PATH sets a variable to a value of the last response: of its JSON body
// by the names and places that lead to it, as in items.0.user, or a header's for
// header.ETag.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field NAME PATH")
	}
	head, body, _ := strings.Cut(ts.ReadFile("response"), "\n\n")
	if name, ok := strings.CutPrefix(args[1], "header."); ok {
		for line := range strings.Lines(head) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
				ts.Setenv(args[0], strings.TrimSpace(v))
				return
			}
		}
		ts.Fatalf("no header %s in:\n%s", name, head)
	}
	var v any
	ts.Check(json.Unmarshal([]byte(body), &v))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(at) {
				ts.Fatalf("no %s in:\n%s", args[1], body)
			}
			v = at[i]
		}
	}
	if v == nil {
		ts.Fatalf("no %s in:\n%s", args[1], body)
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// freePorts: freeport NAME... sets each variable to a loopback address that was free.
func freePorts(ts *testscript.TestScript, _ bool, args []string) {
	addrs, err := freeport.Addrs(len(args))
	ts.Check(err)
	for i, name := range args {
		ts.Setenv(name, addrs[i])
	}
}

// signalProcess: signal NAME PIDFILE sends a signal to the process whose id
// stands in the file.
func signalProcess(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: signal INT|TERM|KILL PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	ts.Check(syscall.Kill(pid, sig))
}

// capture: capture FILE COMMAND [ARG...] starts a program in the background with
// both its outputs in the file, where eventually can look at them, and its process
// id in FILE.pid. When it has ended, FILE.exit has its exit status.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: capture FILE COMMAND [ARG...]")
	}
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	name, err := lookPath(ts, args[1])
	ts.Check(err)
	cmd := exec.Command(name, args[2:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, out
	cmd.Env = environment(ts)
	ts.Check(cmd.Start())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // its status is recorded
		_ = out.Close()
		_ = os.WriteFile(ts.MkAbs(args[0]+".exit"), []byte(strconv.Itoa(cmd.ProcessState.ExitCode())+"\n"), 0o600)
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill() // gone already is as good
		<-done
	})
}

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		if _, err := os.Stat(dir + "/" + name); err == nil {
			return dir + "/" + name, nil
		}
	}
	return exec.LookPath(name)
}

// environment is what the script has set, of the variables that programs read.
func environment(ts *testscript.TestScript) []string {
	var vars []string
	for _, name := range Variables {
		if v := ts.Getenv(name); v != "" {
			vars = append(vars, name+"="+v)
		}
	}
	return vars
}

// Variables are passed on to programs started by capture; tests add their own.
var Variables = []string{"PATH", "HOME", "TMPDIR", "TESTSCRIPT_COMMAND"}

// appendTo: append FILE TEXT adds a line.
func appendTo(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: append FILE TEXT")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteString(args[1] + "\n")
	ts.Check(err)
	ts.Check(f.Close())
}
