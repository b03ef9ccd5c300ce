package gameday

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
)

// replica is one process of the program. It can be started again, at the same addresses.
type replica struct {
	testing.TB
	name                string
	gateway, admin, ops string
	program             string
	settings            []string

	mu      sync.Mutex
	cmd     *exec.Cmd
	dead    chan struct{}
	wanted  bool // it is to be running
	exits   int  // while it was to be running
	log     bytes.Buffer
	starts  int
	pausing atomic.Bool
}

func newReplica(t testing.TB, program, name string) *replica {
	t.Helper()
	addrs, err := freeport.Addrs(3)
	ok(t, err)
	r := &replica{TB: t, program: program, name: name, gateway: addrs[0], admin: addrs[1], ops: addrs[2]}
	t.Cleanup(r.kill)
	return r
}

// start runs it. It is ready later.
func (r *replica) start() {
	r.Helper()
	cmd := exec.Command(r.program, "serve")
	cmd.Env = append([]string{"GATEWAY_ADDR=" + r.gateway, "ADMIN_ADDR=" + r.admin, "OPS_ADDR=" + r.ops}, r.settings...)
	stderr, w, err := os.Pipe()
	ok(r, err)
	cmd.Stderr = w
	ok(r, cmd.Start())
	ok(r, w.Close())
	dead := make(chan struct{})
	r.mu.Lock()
	r.cmd, r.dead, r.wanted = cmd, dead, true
	r.starts++
	r.mu.Unlock()
	go r.read(stderr)
	go func() {
		_ = cmd.Wait() // how it ended does not matter
		r.mu.Lock()
		if r.wanted && r.cmd == cmd {
			r.exits++
		}
		r.mu.Unlock()
		close(dead)
	}()
}

// read stores the log, unless it pauses.
func (r *replica) read(stderr *os.File) {
	defer stderr.Close()
	buf := make([]byte, 64<<10)
	for {
		for r.pausing.Load() {
			time.Sleep(50 * time.Millisecond)
		}
		n, err := stderr.Read(buf)
		r.mu.Lock()
		if r.log.Len() < 64<<20 {
			r.log.Write(buf[:n])
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// send sends a signal that is to end it.
func (r *replica) send(s syscall.Signal) {
	r.mu.Lock()
	cmd := r.cmd
	r.wanted = false
	r.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(s) // it may have ended
	}
}

// kill ends it at once, and returns when it is dead.
func (r *replica) kill() {
	r.send(syscall.SIGKILL)
	r.ended()
}

// ended waits until it is dead.
func (r *replica) ended() {
	r.mu.Lock()
	dead := r.dead
	r.mu.Unlock()
	if dead != nil {
		<-dead
	}
}

// get reads from the operators' listener.
func (r *replica) get(path string) (body []byte, err error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.ops + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return body, err
}

func (r *replica) ready() bool {
	_, err := r.get("/readyz")
	return err == nil
}

// logged is the end of its log.
func (r *replica) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.log.Bytes()
	return string(text[max(0, len(text)-3000):])
}

// save writes its log to a folder, for people who look into a failure.
func (r *replica) save(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = os.WriteFile(filepath.Join(dir, r.name+".log"), r.log.Bytes(), 0o600) // it is an extra
}
