package natsbus_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"iam-service/internal/events/natsbus"
)

// What the probe says of users that may publish, that may not, and of a stream that is missing or does not fit.
func TestTheProbeFindsOutWhetherEventsCanBePublished(t *testing.T) {
	t.Parallel()
	srv, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*natsserver.User{
			{Username: "may", Password: "secret"},
			{Username: "reads", Password: "secret", Permissions: &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Allow: []string{"$JS.API.>"}}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	url := func(user string) string { return strings.Replace(srv.ClientURL(), "nats://", "nats://"+user+"@", 1) }
	probe := func(user, stream string) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		bus, err := natsbus.Connect(ctx, natsbus.Config{URL: url(user), Stream: stream, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		return bus.Probe(ctx)
	}
	if err := probe("may:secret", "IAM"); !errors.Is(err, natsbus.ErrNoStream) {
		t.Errorf("without a stream: %v", err)
	}
	bus, err := natsbus.Connect(context.Background(), natsbus.Config{URL: url("may:secret"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	if _, err := bus.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url("may:secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "MEMORY", Subjects: []string{"other.>"}}); err != nil {
		t.Fatal(err)
	}
	if err := probe("may:secret", "IAM"); err != nil {
		t.Errorf("a user that may publish: %v", err)
	}
	if err := probe("reads:secret", "IAM"); err == nil || !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
		t.Errorf("a user that may not publish: %v", err)
	}
	if err := probe("may:secret", "MEMORY"); err == nil || !strings.Contains(err.Error(), "must keep iam.>") {
		t.Errorf("a stream of other subjects: %v", err)
	}
	if err := probe("may:wrong", "IAM"); err == nil {
		t.Error("a wrong password")
	}
	s, err := js.Stream(context.Background(), "IAM")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(context.Background()); err != nil || info.State.Msgs != 0 {
		t.Errorf("the probe stored %d messages, %v", info.State.Msgs, err)
	}
}
