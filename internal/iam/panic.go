package iam

import (
	"fmt"
	"runtime/debug"
)

// PanicError is a panic that was recovered.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Try runs do, and returns its panic as a *PanicError. A goroutine needs it of its own: what its starter recovers are not its panics.
func Try(do func()) (err error) {
	defer Recovered(&err)
	do()
	return nil
}

// Recovered makes an error of a panic, for work that must not take the process down: defer iam.Recovered(&err).
func Recovered(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{v, debug.Stack()}
	}
}
