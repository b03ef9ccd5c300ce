// Package logbuffer is a log that a test reads while it is written.
package logbuffer

import (
	"bytes"
	"sync"
)

// Buffer is safe for concurrent use; its zero value is empty.
type Buffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	onWrite func(line []byte)
}

// OnWrite calls f with each line before it is added.
func (b *Buffer) OnWrite(f func(line []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onWrite = f
}

func (b *Buffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	f := b.onWrite
	b.mu.Unlock()
	if f != nil {
		f(line)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
