package preview

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
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
		t.Errorf("another one concurrently: %v", err)
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

// facts are those of a moment that panics when it is asked for users.
type facts struct{ Facts }

func (facts) Close() {}

func (facts) Count(context.Context) (users, tenants int64, err error) { return 1, 1, nil }

func TestAPanicOfAPreviewFailsThePreviewAlone(t *testing.T) {
	t.Parallel()
	engine, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	noted := make(chan iam.PolicyPreview, 10)
	panics := make(chan error, 10)
	j := &Jobs{
		Snapshot: func(context.Context) (Moment, error) { return facts{}, nil },
		Note: func(_ context.Context, p iam.PolicyPreview) (bool, error) {
			noted <- p
			return true, nil
		},
		Log: slog.New(slog.DiscardHandler), OnPanic: func(err error) { panics <- err },
	}
	j.Start(t.Context(), iam.PolicyPreview{ID: "p", State: "running"}, Config{Engine: engine, Base: &policy.Revision{}, Candidate: &policy.Revision{}, Workers: 2})
	if err := <-panics; !strings.Contains(err.Error(), "panic: runtime error") {
		t.Error(err)
	}
	for p := range noted {
		if p.State == "running" {
			continue
		}
		if p.State != "failed" {
			t.Errorf("the preview is %s", p.State)
		}
		break
	}
	j.Wait()
}
