package devstack

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Lock keeps two programs from using one folder. The kernel releases it when the program
// ends, however it ends.
func Lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { // PostgreSQL's user must pass it
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another program uses the folder %s: stop it, or name another with --dir", dir)
	}
	return func() { _ = f.Close() }, nil // closing releases the lock
}
