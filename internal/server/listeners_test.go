package server

import (
	"log/slog"
	"net/http"
	"testing"
)

// Without one, a peer that stops reading holds a connection and a goroutine permanently.
func TestEachListenerHasAWriteTimeout(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gateway", "admin", "ops"} {
		if s := newListener(name, nil, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); s.http.WriteTimeout <= 0 {
			t.Errorf("%s has none", name)
		}
	}
}
