//go:build race

package builtins_test

// raceSlowdown is how much longer things may take under the race detector.
const raceSlowdown = 50
