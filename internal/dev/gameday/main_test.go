package gameday

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// long is the form of "make gameday": every day, HAProxy, and the alerts.
var long = os.Getenv("GAMEDAYS") != ""

// The form decides how long a day takes.
var (
	staleness = choose(10*time.Second, 4*time.Second) // MAX_STALENESS
	wellFor   = choose(7*time.Second, 2*time.Second)  // before the outage, and at the end
	lateFor   = choose(9*time.Second, 3*time.Second)  // after the turn of an outage, or the whole of one without a turn
)

func choose[T any](inLong, inShort T) T {
	if long {
		return inLong
	}
	return inShort
}

const root = "../../.."

var built struct {
	sync.Once
	dir string
	err error
}

// binaries builds the programs, once, and returns their folder.
func binaries(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "iam-gameday-"); built.err != nil {
			return
		}
		builds := [][]string{{"-o", filepath.Join(built.dir, "iam-service"), "iam-service/cmd/iam-service"}}
		if long {
			builds = append(builds, []string{"-C", root + "/.ci/alerts", "-o", filepath.Join(built.dir, "alerts"), "."})
		}
		for _, args := range builds {
			out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
			if err != nil {
				built.err = errors.Join(built.err, fmt.Errorf("go build %v: %w: %s", args, err, out))
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a leftover in the temporary folder does no harm
	}
	os.Exit(code)
}
