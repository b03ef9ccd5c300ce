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

// programName is what scripts call the program. Where the tests have the race detector, the short form
// runs scripts with a program without it, since compiling and evaluating policies under it takes five times
// as long. The tests of this package in Go and those of the packages run the same code under the race
// detector, and the long form, "make nightly", all scripts.
const programName = "iam-service"

// programPath is the folder of the program that scripts run; empty: the test binary is the program.
var programPath string

// testMain lets the test binary be the program, and stops the shared server.
type testMain struct{ m *testing.M }

func (t testMain) Run() int {
	flag.Parse() // for testing.Short
	dir, err := buildProgram()
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the program without the race detector:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in the temporary folder does no harm
	programPath = dir
	return pgtest.Run(t.m)
}

func buildProgram() (dir string, err error) {
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

func TestMain(m *testing.M) {
	testscript.Main(testMain{m}, map[string]func(){programName: main})
}
