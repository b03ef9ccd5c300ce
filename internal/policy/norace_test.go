//go:build !race

package policy

// raceSlowdown is 1: nothing slows us down.
const raceSlowdown = 1
