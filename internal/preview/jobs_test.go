package preview

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"iam-service/internal/iam"
)

func TestAPreviewThatIsCancelledStopsAndMakesRoomForAnother(t *testing.T) {
	t.Parallel()
	noted := make(chan string, 10)
	j := &Jobs{
		Snapshot: func(ctx context.Context) (Moment, error) { // facts that do not come
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Note: func(_ context.Context, p iam.PolicyPreview) (bool, error) {
			noted <- p.State
			return false, nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
	if err := j.Take(); err != nil {
		t.Fatal(err)
	}
	if err := j.Take(); iam.CodeOf(err) != "preview_running" {
		t.Errorf("another one beside it: %v", err)
	}
	j.Start(context.Background(), iam.PolicyPreview{ID: "p", State: "running"}, Config{})
	over := make(chan struct{})
	go func() {
		j.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(30 * time.Second):
		t.Fatal("it works on")
	}
	for range len(noted) {
		if state := <-noted; state != "running" {
			t.Errorf("noted as %s", state)
		}
	}
	if err := j.Take(); err != nil {
		t.Errorf("another one after it: %v", err)
	}
}
