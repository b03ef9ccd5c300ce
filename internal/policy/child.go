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
	"time"
)

// Limits of a child process that runs acceptance cases.
const (
	childTime   = 10 * time.Second
	childMemory = 256 << 20 // bytes on its heap
	childAnswer = 1 << 20   // bytes that it may say

	childTooBig = 77 // its exit status where it ran out of memory
)

// ChildCommand is the argument that makes a program run acceptance cases and nothing else:
// see ServeCases.
const ChildCommand = "run-acceptance-cases"

// job is what a child is given.
type job struct {
	Candidate *Candidate        `json:"candidate"`
	Headers   []string          `json:"headers"`
	Settings  map[string]string `json:"settings"`
}

type outcome struct {
	Error   string   `json:"error,omitempty"`
	Failing []string `json:"failing,omitempty"`
}

// runCases runs the acceptance cases of a candidate that has passed the rest of the gate:
// in a child process without an environment, whose time and memory are limited. A policy
// that explodes takes nothing else down.
func (e *Engine) runCases(ctx context.Context, c *Candidate, r *Revision) error {
	if len(c.Cases) == 0 {
		return nil
	}
	if len(e.cfg.Child) == 0 {
		return holding(e.failing(ctx, r, c.Cases))
	}
	task, err := json.Marshal(job{c, e.cfg.Headers, e.cfg.Settings})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return notRun(err)
	}
	var said, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, exe) //nolint:gosec // it is ourselves
	cmd.Args = e.cfg.Child
	cmd.Env = []string{} // nothing of ours is for a policy to see
	cmd.Stdin = bytes.NewReader(task)
	cmd.Stdout = &limited{&said, childAnswer}
	cmd.Stderr = &limited{&complaint, 4 << 10}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	exit, _ := errors.AsType[*exec.ExitError](err) // nil: another error, or none
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return notRun(ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("its acceptance cases did not end within %s", childTime)
	case exit != nil && exit.ExitCode() == childTooBig:
		return fmt.Errorf("its acceptance cases, or its data, take more than %d MB of memory", childMemory>>20)
	case exit == nil && err != nil:
		return notRun(err)
	case err != nil:
		return fmt.Errorf("its acceptance cases cannot be run: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	var o outcome
	if err := json.Unmarshal(said.Bytes(), &o); err != nil {
		return fmt.Errorf("its acceptance cases cannot be run: %w", err)
	}
	if o.Error != "" {
		return errors.New(o.Error)
	}
	return holding(o.Failing)
}

// notRun says that it is not the policy's fault.
func notRun(err error) error {
	return &LaterError{fmt.Errorf("its acceptance cases cannot be run: %w", err)}
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

// ServeCases is the other end: it reads a job from in, writes its outcome to out, and ends
// the process where it takes too much time or memory.
func ServeCases(in io.Reader, out io.Writer) error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // where there is such a thing, we go first and not who serves
	debug.SetMemoryLimit(childMemory * 3 / 4)
	debug.SetMaxStack(64 << 20)
	time.AfterFunc(childTime, func() { os.Exit(1) }) // whoever waited is gone
	go func() {
		heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for range time.Tick(5 * time.Millisecond) {
			if metrics.Read(heap); heap[0].Value.Uint64() > childMemory {
				os.Exit(childTooBig)
			}
		}
	}()
	var j job
	d := json.NewDecoder(in)
	d.UseNumber()
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	var o outcome
	e, err := NewEngine(Config{Headers: j.Headers, Settings: j.Settings})
	var r *Revision
	if err == nil {
		r, err = e.Check(context.Background(), j.Candidate)
	}
	if err != nil {
		o.Error = err.Error()
	} else {
		o.Failing = e.failing(context.Background(), r, j.Candidate.Cases)
	}
	return json.NewEncoder(out).Encode(o)
}
