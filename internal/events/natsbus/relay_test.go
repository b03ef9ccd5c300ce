package natsbus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/events/natsbus"
	"iam-service/internal/events/outbox"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

var ctx = context.Background()

// line is an outbox on PostgreSQL, NATS in process, and relays between them.
type line struct {
	testing.TB
	db   *postgres.DB
	pool *pgxpool.Pool
	opts *server.Options
	nats *server.Server

	mu     sync.Mutex
	errors map[string]int
}

func newLine(t testing.TB) *line {
	t.Helper()
	url := pgtest.URL(t)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	return &line{
		TB: t, db: pgtest.OpenURL(t, url), pool: pool, errors: map[string]int{},
		opts: &server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true},
	}
}

func (l *line) ok(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// up starts NATS, again where it was before.
func (l *line) up() {
	l.Helper()
	opts := *l.opts
	ns, err := server.NewServer(&opts)
	l.ok(err)
	go ns.Start()
	if !ns.ReadyForConnections(time.Minute) {
		l.Fatal("NATS does not answer")
	}
	if l.nats == nil {
		l.Cleanup(func() { l.down() })
	}
	l.nats = ns
}

func (l *line) down() {
	l.nats.Shutdown()
	l.nats.WaitForShutdown()
}

func (l *line) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", l.opts.Port) }

// relay runs one until the test ends or stop is called.
func (l *line) relay() (r *outbox.Relay, stop func()) {
	l.Helper()
	bus, err := natsbus.Connect(ctx, natsbus.Config{URL: l.url(), Log: slog.New(slog.DiscardHandler)})
	l.ok(err)
	r = outbox.New(outbox.Config{Queue: l.db, Bus: bus, Log: slog.New(slog.DiscardHandler), OnError: func(reason string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.errors[reason]++
	}})
	running, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.Run(running) })
	stop = sync.OnceFunc(func() { cancel(); done.Wait(); bus.Close() })
	l.Cleanup(stop)
	return r, stop
}

// roleUpdated is an event of an object whose data say something else.
type roleUpdated struct {
	iam.RoleGone
	object string
}

func (roleUpdated) EventType() string { return "RoleUpdated.v1" }

func (e roleUpdated) EventKey() iam.EventKey {
	return iam.EventKey{Tenant: "acme", Kind: iam.KindRole, Object: e.object}
}

// write appends n events of each object, interleaved; the data count.
func (l *line) write(from, n int, objects ...string) {
	l.Helper()
	for i := from; i < from+n; i++ {
		var events []iam.Event
		for _, o := range objects {
			events = append(events, roleUpdated{object: o, RoleGone: iam.RoleGone{Tenant: "acme", Role: fmt.Sprint(i)}})
		}
		l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.Append(ctx, nil, events) }))
	}
}

// drained waits until nothing is pending but what is held back.
func (l *line) drained(but int) {
	l.Helper()
	for until := time.Now().Add(30 * time.Second); ; {
		s, err := l.db.Outbox(ctx)
		if err == nil && int(s.Pending) == but {
			return
		}
		if time.Now().After(until) {
			l.Fatalf("%d events are still pending, want %d: %v", s.Pending, but, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

type received struct {
	subject, id, object, n string
}

// stream is everything that the stream keeps, in its order.
func (l *line) stream() []received {
	l.Helper()
	nc, err := nats.Connect(l.url())
	l.ok(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	l.ok(err)
	s, err := js.Stream(ctx, "IAM")
	l.ok(err)
	var all []received
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		l.ok(err)
		var e event.Event
		l.ok(json.Unmarshal(m.Data, &e))
		l.ok(e.Validate())
		var data iam.RoleGone
		l.ok(e.DataAs(&data))
		if !strings.HasPrefix(m.Header.Get("Nats-Msg-Id"), e.ID()) || e.Source() != "iam-service" {
			l.Errorf("id %s, header %v", e.ID(), m.Header)
		}
		all = append(all, received{m.Subject, e.ID(), e.Subject(), data.Role})
	}
	return all
}

// inOrder fails where events of one object are missing, twice or out of order.
func (l *line) inOrder(all []received, n int, objects ...string) {
	l.Helper()
	next, seen := map[string]int{}, map[string]bool{}
	for _, r := range all {
		if seen[r.id] {
			l.Fatalf("%s comes twice", r.id)
		}
		seen[r.id] = true
		if r.n != fmt.Sprint(next[r.object]) {
			l.Fatalf("of %s comes %s, want %d", r.object, r.n, next[r.object])
		}
		next[r.object]++
	}
	for _, o := range objects {
		if next[o] != n {
			l.Errorf("%d events of %s, want %d", next[o], o, n)
		}
	}
}

func TestEventsArriveInOrderOfTheirObject(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	l.write(0, 20, "a", "b.c", "iam:x")
	l.relay()
	l.write(20, 20, "a", "b.c", "iam:x")
	l.drained(0)
	all := l.stream()
	l.inOrder(all, 40, "a", "b.c", "iam:x")
	if all[1].subject != "iam.acme.role.b%2Ec.RoleUpdated.v1" {
		t.Errorf("subject %s", all[1].subject)
	}
}

// NATS is away for the whole run: everything is written. It comes back: everything
// arrives, in order, nothing twice. And again, while events are under way, with two relays.
func TestAnOutageLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	l.down()
	l.relay()
	l.relay()
	l.write(0, 10, "a", "b")
	l.up()
	l.drained(0)
	for i := range 3 {
		var writing sync.WaitGroup
		writing.Go(func() { l.write(10+i*50, 50, "a", "b") })
		time.Sleep(20 * time.Millisecond)
		l.down()
		time.Sleep(50 * time.Millisecond)
		l.up()
		writing.Wait()
	}
	l.drained(0)
	l.inOrder(l.stream(), 160, "a", "b")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.errors["unavailable"]+l.errors["stream"] == 0 {
		t.Error("no failure was counted")
	}
}

// The leader goes, the other takes over; what was acknowledged and not marked comes under
// the id that the stream knows.
func TestAnotherReplicaTakesOver(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	_, first := l.relay()
	_, second := l.relay()
	l.write(0, 20, "a")
	l.drained(0)
	first()
	l.write(20, 20, "a")
	l.drained(0)
	second()
	// As if they had crashed before they marked.
	_, err := l.pool.Exec(ctx, `UPDATE outbox SET sent_at = NULL`)
	l.ok(err)
	l.relay()
	l.drained(0)
	l.inOrder(l.stream(), 40, "a")
}

// An event that the bus refuses for itself is parked and holds back its own object
// alone, until an operator decides.
func TestAParkedEventHoldsBackItsObjectAlone(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.opts.MaxPayload = 2000
	l.up()
	large := roleUpdated{object: "a", RoleGone: iam.RoleGone{Tenant: strings.Repeat("x", 3000), Role: "large"}}
	l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.Append(ctx, nil, []iam.Event{large}) }))
	l.write(0, 5, "a", "b")
	l.relay()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := l.db.Outbox(ctx)
		if err == nil && s.Parked == 1 && s.Pending == 6 {
			break
		}
		if time.Now().After(until) {
			l.Fatalf("%+v, %v", s, err)
		}
	}
	l.write(5, 1, "b") // when this one is there, the relay has looked once more
	for until := time.Now().Add(30 * time.Second); len(l.stream()) < 6 && time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		continue
	}
	l.drained(6)
	for _, r := range l.stream() {
		if r.object == "a" {
			t.Errorf("%+v passed the event that is parked", r)
		}
	}
	l.inOrder(l.stream(), 6, "b")
	var id string
	l.ok(l.db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		list, err := tx.ParkedEvents(ctx)
		if err == nil && (len(list) != 1 || list[0].Why == "") {
			t.Fatalf("parked: %+v", list)
		}
		id = list[0].ID
		return err
	}))
	l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.SkipParked(ctx, id) }))
	l.drained(0)
	l.inOrder(slices.DeleteFunc(l.stream(), func(r received) bool { return r.object == "b" }), 5, "a")
	if err := l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.RetryParked(ctx, id) }); err == nil {
		t.Error("what is not parked was retried")
	}
}

// A replay while events are under way keeps the order of each object: a consumer that reads on
// ends with the newest.
func TestAReplayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	l.relay()
	l.write(0, 20, "a")
	l.drained(0)
	var writing sync.WaitGroup
	writing.Go(func() { l.write(20, 60, "a") })
	for range 5 {
		l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error {
			_, err := tx.ReplayEvents(ctx, time.Now().Add(-time.Hour))
			return err
		}))
		time.Sleep(20 * time.Millisecond)
	}
	writing.Wait()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var asked bool
		l.ok(l.pool.QueryRow(ctx, `SELECT replay_since IS NOT NULL FROM relay`).Scan(&asked))
		if !asked {
			break
		}
		if time.Now().After(until) {
			t.Fatal("no relay replays")
		}
	}
	l.drained(0)
	last, all := -1, l.stream()
	for i, r := range all {
		n, err := strconv.Atoi(r.n)
		l.ok(err)
		if n > last+1 {
			t.Fatalf("message %d: %d comes after %d", i, n, last)
		}
		last = n
	}
	if last != 79 || len(all) <= 80 {
		t.Errorf("it ends with %d after %d messages", last, len(all))
	}
}

// What was given up is not brought back.
func TestAReplayLeavesOutWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.write(0, 1, "a")
	var id string
	l.ok(l.pool.QueryRow(ctx, `UPDATE outbox SET parked = true RETURNING id::text`).Scan(&id))
	l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) error { return tx.SkipParked(ctx, id) }))
	var n int64
	l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
		n, err = tx.ReplayEvents(ctx, time.Now().Add(-time.Hour))
		return err
	}))
	if n != 0 {
		t.Errorf("%d would be sent again", n)
	}
}

// BenchmarkRelay is how many events a second pass from the table to the stream.
func BenchmarkRelay(b *testing.B) {
	l := newLine(b)
	l.up()
	_, err := l.pool.Exec(ctx, `
		INSERT INTO outbox (type, tenant, kind, object, data)
		SELECT 'RoleUpdated.v1', 'acme', 'role', 'r' || (i % 1000), '{"tenant": "acme", "role": "x"}' FROM generate_series(1, $1) i`, b.N)
	l.ok(err)
	b.ResetTimer()
	began := time.Now()
	l.relay()
	for {
		var n int
		l.ok(l.pool.QueryRow(ctx, `SELECT count(*) FROM outbox WHERE sent_at IS NULL`).Scan(&n))
		if n == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "events/s")
}

// An outage is an outage of the connection, also where nothing waits to be sent, and it is counted for as long as it lasts.
func TestAnOutageIsCountedAsOneWhileItLasts(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	l.write(0, 1, "a")
	l.relay()
	l.drained(0)
	l.down()
	l.write(1, 1, "a")
	counted := func() (unavailable, stream int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.errors["unavailable"], l.errors["stream"]
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		n, stream := counted()
		if stream > 0 {
			t.Fatalf("%d failures are said to be of the stream", stream)
		}
		if n >= 4 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the outage was counted %d times", n)
		}
	}
	l.up()
	l.drained(0)
}
