//go:build !race

package builtins_test

// raceSlowdown is 1: nothing slows us down.
const raceSlowdown = 1
