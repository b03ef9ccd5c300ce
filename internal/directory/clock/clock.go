// Package clock is a clock that never goes back and runs on while the machine is
// suspended, as Go's monotonic one does not: facts age during a suspend too.
//
// It measures spans of time. It does not know what o'clock it is.
package clock
