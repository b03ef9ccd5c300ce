package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Write access to STATE_DIR decides which policy a start finds.
func TestAStateFolderThatOthersCanWriteToIsRejected(t *testing.T) {
	t.Parallel()
	dir, uid := t.TempDir(), os.Geteuid()
	for mode, good := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o770: false, 0o775: false, 0o702: false, 0o777: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := checkStateDir(dir, uid); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "must not be writable by its group or by all users") {
			t.Errorf("%o: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if uid == 0 {
		if err := checkStateDir(dir, 12345); err != nil {
			t.Errorf("one of root's: %v", err)
		}
		if err := os.Chown(dir, 12345, -1); err != nil {
			t.Fatal(err)
		}
		uid = 12345
	}
	if err := checkStateDir(dir, uid); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := checkStateDir(dir, uid+1); err == nil || !strings.Contains(err.Error(), "must belong to the service's own user or to root") {
		t.Errorf("another owner's: %v", err)
	}
	if err := checkStateDir(filepath.Join(dir, "none"), uid); err != nil {
		t.Errorf("one that is to be made: %v", err)
	}
	if err := checkStateDir(filepath.Join(dir, "none", "state"), uid); err == nil || !strings.Contains(err.Error(), "cannot be used") {
		t.Errorf("none: %v", err)
	}
}
