//go:build race

package policy

// raceSlowdown is how much longer things may take under the race detector.
const raceSlowdown = 50
