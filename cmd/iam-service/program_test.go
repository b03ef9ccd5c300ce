package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"iam-service/internal/dev/pgtest"
)

// programName is what scripts call the program. In the processes that scripts keep running it is this
// test binary; in those that end by themselves it is built without the race detector, where the tests
// have it: to compile and evaluate policies under it takes five times as long, and a command that
// evaluates one file after the other has no race that the tests of its packages would not find. The
// long form, "make nightly", runs all of them under the race detector.
const programName = "iam-service"

// commandPath is the folder of the program for commands that end by themselves; empty: the test binary.
var commandPath string

// testMain lets the test binary be the program, and stops the shared server.
type testMain struct{ m *testing.M }

func (t testMain) Run() int {
	flag.Parse() // for testing.Short
	dir, err := buildCommand()
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the program without the race detector:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in the temporary folder does no harm
	commandPath = dir
	return pgtest.Run(t.m)
}

func buildCommand() (dir string, err error) {
	if !raceDetector || !testing.Short() {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", "iam-service-"); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, programName), ".").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
}

// background is a capture command that starts the test binary as the program.
func background(capture func(*testscript.TestScript, bool, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) > 1 && args[1] == programName {
			path, err := exec.LookPath(programName) // testscript.Main has put the test binary there
			ts.Check(err)
			args[1] = path
		}
		capture(ts, neg, args)
	}
}

func TestMain(m *testing.M) {
	testscript.Main(testMain{m}, map[string]func(){programName: main})
}
