package probe

import (
	"os"
	"os/exec"
	"testing"
)

// shell runs a command and returns its output.
func shell(t *testing.T, command, variable string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), variable)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}
