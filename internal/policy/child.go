package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Limits of a child process that takes a candidate through the gate.
const (
	childTime   = 10 * time.Second // of the processor's: a busy machine is no fault of the policy's
	childWait   = 3 * time.Minute  // in all
	childAnswer = 1 << 20          // bytes that it may say

	// Its exit status where it took too much.
	childTooBig  = 77
	childTooLong = 78
)

// ChildCommand is the argument that makes a program take one candidate through the gate and
// do nothing else: see ServeGate.
const ChildCommand = "check-candidate"

// container is what this process may take.
var container = memoryGrants{system: os.DirFS("/")}

// childLimits is what a child is told first.
type childLimits struct {
	Memory int64 `json:"memory"` // bytes on its heap
}

// job is what it is given.
type job struct {
	Candidate *Candidate `json:"candidate,omitempty"`
	Part      []byte     `json:"part,omitempty"` // or a bundle that may be a part of one: whether it can be compiled within the limits is all

	Headers  []string          `json:"headers"`
	Settings map[string]string `json:"settings"`
	Admin    bool              `json:"admin"`
}

type outcome struct {
	Error   string   `json:"error,omitempty"`
	Failing []string `json:"failing,omitempty"`
}

// inChild takes a candidate through the gate, its acceptance cases too, in a child process
// without an environment, whose time and memory are limited. A policy that explodes takes
// nothing else down.
func (e *Engine) inChild(ctx context.Context, j job) error {
	j.Headers, j.Settings, j.Admin = e.cfg.Headers, e.cfg.Settings, e.cfg.Admin
	memory, giveBack, err := container.grant()
	if err != nil {
		return notChecked(err)
	}
	defer giveBack()
	limits, err1 := json.Marshal(childLimits{memory})
	task, err2 := json.Marshal(j)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, childWait)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return notChecked(err)
	}
	var said, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, exe) //nolint:gosec // it is ourselves
	cmd.Args = e.cfg.Child
	cmd.Env = []string{} // nothing of ours is for a policy to see
	cmd.Stdin = io.MultiReader(bytes.NewReader(limits), bytes.NewReader(task))
	cmd.Stdout = &limited{&said, childAnswer}
	cmd.Stderr = &limited{&complaint, 4 << 10}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	exit, _ := errors.AsType[*exec.ExitError](err) // nil: another error, or none
	switch {
	case ctx.Err() != nil:
		return notChecked(ctx.Err())
	case exit != nil && exit.ExitCode() == childTooBig:
		return fmt.Errorf("it takes more than %d MB of memory: its data, to compile it, or its acceptance cases", memory>>20)
	case exit != nil && exit.ExitCode() == childTooLong:
		return fmt.Errorf("it takes more than %s: to compile it, or its acceptance cases", childTime)
	case exit == nil && err != nil, exit != nil && !exit.Exited(): // ended by somebody, such as a system without memory
		return notChecked(err)
	case err != nil:
		return fmt.Errorf("it cannot be checked: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	var o outcome
	if err := json.Unmarshal(said.Bytes(), &o); err != nil {
		return fmt.Errorf("it cannot be checked: %w", err)
	}
	if o.Error != "" {
		return errors.New(o.Error)
	}
	return holding(o.Failing)
}

// notChecked says that it is not the policy's fault.
func notChecked(err error) error {
	return &LaterError{fmt.Errorf("it cannot be checked: %w", err)}
}

func holding(failing []string) error {
	if len(failing) == 0 {
		return nil
	}
	return fmt.Errorf("%d of its acceptance cases do not hold: %s", len(failing), strings.Join(failing, "; "))
}

// limited keeps the first bytes that are written and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// ServeGate is the other end: it reads a job from in, writes its outcome to out, and ends
// the process where it takes too much time or memory.
func ServeGate(in io.Reader, out io.Writer) error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // where there is such a thing, we go first and not who serves
	d := json.NewDecoder(in)
	d.UseNumber()
	var limits childLimits
	if err := d.Decode(&limits); err != nil {
		return fmt.Errorf("read the limits: %w", err)
	}
	debug.SetMemoryLimit(limits.Memory * 3 / 4)
	debug.SetMaxStack(64 << 20)
	time.AfterFunc(childWait, func() { os.Exit(1) }) // whoever waited is gone
	go func() {
		heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for range time.Tick(5 * time.Millisecond) {
			if metrics.Read(heap); heap[0].Value.Uint64() > uint64(limits.Memory) { //nolint:gosec // it is not negative
				os.Exit(childTooBig)
			}
			if UsedTime() > childTime {
				os.Exit(childTooLong)
			}
		}
	}()
	var j job
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	var o outcome
	e, err := NewEngine(Config{Headers: j.Headers, Settings: j.Settings, Admin: j.Admin, CaseTime: childWait}) // the time is the processor's, of all together
	switch {
	case err != nil:
	case j.Candidate == nil:
		b, err := bundle.NewReader(bytes.NewReader(j.Part)).WithSkipBundleVerification(true).WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSizeLimitBytes(MaxBundle).Read()
		if err == nil {
			ast.NewCompiler().Compile(b.ParsedModules("part")) // as OPA will; what is wrong with it is for others to say
		}
	default:
		var r *Revision
		if r, err = e.Check(context.Background(), j.Candidate); err == nil {
			o.Failing = e.failing(context.Background(), r, j.Candidate.Cases)
		}
	}
	if err != nil {
		o.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(o)
}

// UsedTime is how long this process has had a processor.
func UsedTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // there is no reason that it could fail for
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
