package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
)

// replica is one process of the production program.
type replica struct {
	gateway, admin, ops string
	ready               time.Duration // from its start
	cmd                 *exec.Cmd
	log                 string
}

// startReplicas starts n replicas, one after the other. Settings are NAME=value and override the presets.
func startReplicas(ctx context.Context, stack *devstack.Stack, program string, n int, settings ...string) (_ []*replica, err error) {
	var all []*replica
	defer func() {
		if err != nil {
			stopReplicas(all)
		}
	}()
	for i := range n {
		r, err := startReplica(ctx, stack, program, filepath.Join(os.TempDir(), fmt.Sprintf("iam-replica-%d.log", i)), settings)
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
	return all, nil
}

func startReplica(ctx context.Context, stack *devstack.Stack, program, logName string, settings []string) (*replica, error) {
	addrs, err := freeport.Addrs(3)
	if err != nil {
		return nil, err
	}
	logFile, err := os.Create(logName)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	r := &replica{gateway: addrs[0], admin: addrs[1], ops: addrs[2], log: logName, cmd: exec.CommandContext(ctx, program, "serve")}
	r.cmd.Env = append([]string{
		"DATABASE_URL=" + stack.Postgres.URL, "RAUTH_URL=" + stack.RAuth.Issuer, "RAUTH_AUDIENCES=" + devstack.Audience,
		"GATEWAY_ADDR=" + addrs[0], "ADMIN_ADDR=" + addrs[1], "OPS_ADDR=" + addrs[2], "SHUTDOWN_DELAY=0s",
	}, settings...)
	r.cmd.Stdout, r.cmd.Stderr = logFile, logFile
	began := time.Now()
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	for {
		resp, err := http.Get("http://" + r.ops + "/readyz")
		if err == nil {
			_ = resp.Body.Close() // only the status matters
			if resp.StatusCode == http.StatusOK {
				r.ready = time.Since(began)
				return r, nil
			}
		}
		if time.Since(began) > 30*time.Second {
			stopReplicas([]*replica{r})
			return nil, fmt.Errorf("%s is not ready after 30 s: see %s", program, logName)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func stopReplicas(all []*replica) {
	for _, r := range all {
		_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	}
	for _, r := range all {
		_ = r.cmd.Wait() // its exit status does not matter
	}
}

// statusError is a response other than 200.
type statusError struct{ status int }

func (e *statusError) Error() string { return "the response is " + strconv.Itoa(e.status) }

// enrich sends one enrichment and returns the headers of the response. On a busy machine a response may be 503;
// then it retries.
func (r *replica) enrich(client *http.Client, token string) (http.Header, error) {
	for try := 0; ; try++ {
		req, err := http.NewRequest(http.MethodGet, "http://"+r.gateway+"/system/enrich-token", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close() // read to its end
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusOK:
			return resp.Header, nil
		case resp.StatusCode != http.StatusServiceUnavailable || try == 20:
			return nil, &statusError{resp.StatusCode}
		}
	}
}

// lastResponse runs change, which returns when it began, and returns how long after that some replica's response
// was still old. Requests go to all replicas without a pause, beginning before the change.
func lastResponse(all []*replica, isOld func(*replica) (bool, error), change func() (time.Time, error)) (time.Duration, error) {
	var mu sync.Mutex
	var last time.Time
	var wg sync.WaitGroup
	errs := make([]error, len(all)+1)
	for i, r := range all {
		wg.Go(func() {
			for until := time.Now().Add(40 * time.Second); ; {
				old, err := isOld(r)
				at := time.Now()
				if err != nil || !old {
					errs[i] = err
					return
				}
				mu.Lock()
				if at.After(last) {
					last = at
				}
				mu.Unlock()
				if at.After(until) {
					errs[i] = errors.New("the response is still old after 40 s")
					return
				}
			}
		})
	}
	time.Sleep(2 * time.Millisecond)
	began, err := change()
	errs[len(all)] = err // also on failure wait for the others: each ends after 40 s at most
	wg.Wait()
	return max(0, last.Sub(began)), errors.Join(errs...)
}

// forEach calls do for 0 to n-1, four at a time, until one fails.
func forEach(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	next := make(chan int)
	stop := make(chan struct{})
	var once sync.Once
	for range 4 {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					errs <- err
					once.Do(func() { close(stop) })
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
			continue
		case <-stop:
		}
		break
	}
	close(next)
	wg.Wait()
	close(errs)
	return <-errs
}

func userToken(stack *devstack.Stack, n int) (string, error) {
	return stack.RAuth.Mint("EdDSA", map[string]any{"sub": "user-" + strconv.Itoa(n), "client_id": "web"})
}

// resident is the resident memory of a process in MB, from /proc; -1 on other systems.
func (r *replica) resident() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB")) // the kernel writes a number
			return kb / 1024
		}
	}
	return -1
}

// cpu is the CPU time of a process, from /proc in ticks of 10 ms; 0 on other systems.
func (r *replica) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(fields[11]) // the kernel writes a number
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
