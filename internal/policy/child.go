package policy

import (
	"bytes"
	"cmp"
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
	childCPUTime   = 10 * time.Second // processor time: a busy machine is not the policy's fault
	childWait      = 3 * time.Minute  // wall-clock time
	childOutputMax = 1 << 20          // bytes

	// Exit status of a child that exceeds a limit.
	exitMemory = 77
	exitTime   = 78
)

// ChildCommand is the command that runs the gate for one candidate: see ServeGate.
const ChildCommand = "check-candidate"

// container is the memory of this process's container.
var container = memoryBudget{system: os.DirFS("/")}

// childLimits is the first document on a child's standard input.
type childLimits struct {
	Memory int64         `json:"memory"`        // bytes on its heap
	CPU    time.Duration `json:"cpu,omitempty"` // 0: childCPUTime
}

// gateJob is the second document on a child's standard input.
type gateJob struct {
	Candidate     *Candidate `json:"candidate,omitempty"`
	Draft         *draftJob  `json:"draft,omitempty"` // or a draft, which the child serves: see serveDraft
	PartialBundle []byte     `json:"part,omitempty"`  // or a bundle that may be part of a policy: the child only compiles it, within the limits

	Headers  []string          `json:"headers"`
	Settings map[string]string `json:"settings"`
	Admin    bool              `json:"admin"`
	Topdown  bool              `json:"topdown"`
	Mutant   bool              `json:"mutant,omitempty"`
}

type gateOutcome struct {
	Error   string   `json:"error,omitempty"`
	Failing []string `json:"failing,omitempty"`
}

// planOutcome is the second document of a child's output, after the outcome of an accepted
// candidate: planning comes last, so that a candidate which exceeds a limit there is accepted, and left to topdown.
type planOutcome struct {
	Left string `json:"left,omitempty"`
}

// inChild runs the gate with the acceptance cases in a child process without an environment,
// whose time and memory are limited: a policy that explodes cannot harm the service. It
// returns why an accepted candidate must be evaluated by topdown; empty: it need not.
func (e *Engine) inChild(ctx context.Context, j gateJob) (left string, err error) {
	j.Headers, j.Settings, j.Admin, j.Topdown, j.Mutant = e.cfg.Headers, e.cfg.Settings, e.cfg.Admin, e.cfg.Topdown, e.cfg.MachineMutant
	memory, release, err := container.reserve()
	if err != nil {
		return "", notCheckedError(err)
	}
	defer release()
	limits, err1 := json.Marshal(childLimits{Memory: memory, CPU: e.cfg.ChildCPU})
	task, err2 := json.Marshal(j)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, childWait)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd, err := childCommand(ctx, e.cfg.Child)
	if err != nil {
		return "", notCheckedError(err)
	}
	cmd.Stdin = io.MultiReader(bytes.NewReader(limits), bytes.NewReader(task))
	cmd.Stdout = &limited{&stdout, childOutputMax}
	cmd.Stderr = &limited{&stderr, 4 << 10}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	exit, _ := errors.AsType[*exec.ExitError](err) // nil: another error, or none
	var o gateOutcome
	out := json.NewDecoder(&stdout)
	decided := out.Decode(&o) == nil
	if decided && o.Error == "" && len(o.Failing) == 0 {
		var p planOutcome
		switch {
		case out.Decode(&p) == nil:
			return p.Left, nil
		case ctx.Err() == nil:
			return "it exceeds a limit of the gate while it is planned", nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return "", notCheckedError(ctx.Err())
	case exit != nil && exit.ExitCode() == exitMemory:
		return "", fmt.Errorf("it exceeds %d MB of memory: by its data, while compiling, or in its acceptance cases", memory>>20)
	case exit != nil && exit.ExitCode() == exitTime:
		return "", fmt.Errorf("it exceeds %s: while compiling, or in its acceptance cases", cmp.Or(e.cfg.ChildCPU, childCPUTime))
	case exit == nil && err != nil, exit != nil && !exit.Exited(): // killed, for instance by a system that is out of memory
		return "", notCheckedError(err)
	case err != nil:
		return "", fmt.Errorf("it cannot be checked: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if !decided {
		return "", errors.New("it cannot be checked: the gate reports nothing")
	}
	if o.Error != "" {
		return "", errors.New(o.Error)
	}
	return "", casesError(o.Failing)
}

// childCommand runs this program with other arguments.
func childCommand(ctx context.Context, args []string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, exe) //nolint:gosec // it is ourselves
	cmd.Args = args
	cmd.Env = []string{} // a policy must not see our environment
	return cmd, nil
}

// notCheckedError wraps a failure that is not the policy's fault.
func notCheckedError(err error) error {
	return &RetryError{fmt.Errorf("it cannot be checked: %w", err)}
}

func casesError(failing []string) error {
	if len(failing) == 0 {
		return nil
	}
	return fmt.Errorf("%d acceptance cases fail: %s", len(failing), strings.Join(failing, "; "))
}

// limited writes the first bytes and discards the rest.
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

// ServeGate runs in the child: it reads limits and a job from in, writes the outcome to out,
// and exits the process where it exceeds a limit.
func ServeGate(in io.Reader, out io.Writer) error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // on Linux, the kernel kills the child before the service
	d := json.NewDecoder(in)
	d.UseNumber()
	Capabilities()    // while a child that was started ahead waits for its draft
	directorySchema() // as above
	var limits childLimits
	if err := d.Decode(&limits); err != nil {
		return fmt.Errorf("read the limits: %w", err)
	}
	debug.SetMemoryLimit(limits.Memory * 3 / 4)
	debug.SetMaxStack(64 << 20)
	time.AfterFunc(childWait, func() { os.Exit(1) }) // the parent no longer waits
	go func() {
		heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for range time.Tick(5 * time.Millisecond) {
			if metrics.Read(heap); heap[0].Value.Uint64() > uint64(limits.Memory) { //nolint:gosec // it is not negative
				os.Exit(exitMemory)
			}
			if CPUTime() > cmp.Or(limits.CPU, childCPUTime) {
				os.Exit(exitTime)
			}
		}
	}()
	var j gateJob
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	if j.Draft != nil {
		return serveDraft(d, out, j)
	}
	var o gateOutcome
	var accepted *Revision
	e, err := NewEngine(Config{Headers: j.Headers, Settings: j.Settings, Admin: j.Admin, Topdown: j.Topdown, MachineMutant: j.Mutant, CaseTime: childWait}) // childCPUTime limits all cases together
	switch {
	case err != nil:
	case j.Candidate == nil:
		b, err := bundle.NewReader(bytes.NewReader(j.PartialBundle)).WithSkipBundleVerification(true).WithRegoVersion(ast.RegoV1).WithProcessAnnotations(true).WithSizeLimitBytes(MaxBundle).Read()
		if err == nil {
			ast.NewCompiler().Compile(b.ParsedModules("part")) // as OPA will; the gate reports errors
		}
	default:
		var r *Revision
		if r, err = e.Check(context.Background(), j.Candidate); err == nil {
			o.Failing = e.failingCases(context.Background(), r, j.Candidate.Cases)
			accepted = r
		}
	}
	if err != nil {
		o.Error = err.Error()
	}
	if err := json.NewEncoder(out).Encode(o); err != nil || accepted == nil || len(o.Failing) > 0 {
		return err
	}
	e.planned(context.Background(), accepted, j.Candidate.Cases)
	return json.NewEncoder(out).Encode(planOutcome{accepted.Engine().Reason})
}

// CPUTime is the processor time that this process has used.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
