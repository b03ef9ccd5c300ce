// Package natsbus is the connection to NATS JetStream.
//
// It owns connecting, unbounded reconnects, the stream, and the classification of failures as
// those of one message or of the bus. It does not know what is published. NATS is for other
// services: no authorization depends on it, so its outage never fails a start.
package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"iam-service/internal/events/outbox"
)

// Config of a Bus.
type Config struct {
	URL             string // servers, comma-separated
	CredentialsFile string // of NATS; "": none
	CAFile          string // PEM of the CA of the servers' certificates; "": the system's
	CertFile        string // of the client, with KeyFile; "": none
	KeyFile         string
	Stream          string // name; "": IAM
	Replicas        int    // of a stream that is created; 0: 1
	Log             *slog.Logger
}

// Subjects are the subjects of the stream.
const Subjects = "iam.>"

// Duplicates is the window in which the stream drops duplicates, by Nats-Msg-Id.
const Duplicates = 10 * time.Minute

// Bus is a connection, which may not be established yet.
type Bus struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg Config
}

// Connect returns at once, whether a server responds or not. It fails only for an invalid URL or
// file.
func Connect(ctx context.Context, cfg Config) (*Bus, error) {
	if cfg.Stream == "" {
		cfg.Stream = "IAM"
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	log := cfg.Log
	opts := []nats.Option{
		nats.Name("iam-service"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(200*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // nothing is buffered here: events wait in the outbox
		nats.ConnectHandler(func(*nats.Conn) { log.InfoContext(ctx, "connected to NATS") }),
		nats.ReconnectHandler(func(*nats.Conn) { log.InfoContext(ctx, "connected to NATS again") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.WarnContext(ctx, "NATS is away", slog.Any("err", err))
			}
		}),
	}
	if cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredentialsFile))
	}
	if cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	}
	if cfg.CertFile != "" {
		opts = append(opts, nats.ClientCert(cfg.CertFile, cfg.KeyFile))
	}
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096), jetstream.WithPublishAsyncTimeout(outbox.AckWait))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &Bus{nc, js, cfg}, nil
}

// State is nil while connected.
func (b *Bus) State() error {
	if b.nc.IsConnected() {
		return nil
	}
	if err := b.nc.LastError(); err != nil {
		return err
	}
	return nats.ErrDisconnected
}

// Close closes the connection.
func (b *Bus) Close() { b.nc.Close() }

// Ready creates the stream if there is none: files, so many replicas, the window in which
// duplicates are dropped. An existing one is not changed, and must fit.
func (b *Bus) Ready(ctx context.Context) (created time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := b.js.Stream(ctx, b.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = b.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: b.cfg.Stream, Subjects: []string{Subjects}, Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas, Duplicates: Duplicates,
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: 30 * 24 * time.Hour, Description: "Events of iam-service",
		})
	}
	if err != nil {
		if !b.nc.IsConnected() || away(err) {
			return time.Time{}, &outbox.AwayError{Cause: err}
		}
		return time.Time{}, fmt.Errorf("stream %s: %w", b.cfg.Stream, err)
	}
	info := s.CachedInfo()
	return info.Created, b.fits(&info.Config)
}

// fits reports what is wrong with an existing stream.
func (b *Bus) fits(c *jetstream.StreamConfig) error {
	switch {
	case !slices.Contains(c.Subjects, Subjects) && !slices.Contains(c.Subjects, ">"):
		return fmt.Errorf("stream %s keeps %v, and must keep %s", b.cfg.Stream, c.Subjects, Subjects)
	case c.Storage != jetstream.FileStorage:
		return fmt.Errorf("stream %s keeps events in memory, and must keep them in files", b.cfg.Stream)
	case c.NoAck || c.Sealed:
		return fmt.Errorf("stream %s is sealed or acknowledges nothing, and must acknowledge what it keeps", b.cfg.Stream)
	case c.Duplicates < Duplicates:
		return fmt.Errorf("stream %s drops duplicates for %s, and must for %s", b.cfg.Stream, c.Duplicates, Duplicates)
	}
	return nil
}

// ErrNoStream means that there is no stream yet: Ready creates it.
var ErrNoStream = errors.New("there is no stream yet")

// noMessage is the server's code for a message that expects another one before it (JSStreamWrongLastMsgIDErr).
const noMessage = 10070

// Probe waits for a connection, and checks the stream and the right to publish events. It changes nothing: its message
// expects one before it that does not exist, so the stream rejects it.
func (b *Bus) Probe(ctx context.Context) error {
	for !b.nc.IsConnected() {
		select {
		case <-ctx.Done():
			return b.State()
		case <-time.After(20 * time.Millisecond):
		}
	}
	s, err := b.js.Stream(ctx, b.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNoStream
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", b.cfg.Stream, cmp.Or(b.nc.LastError(), err))
	}
	if err := b.fits(&s.CachedInfo().Config); err != nil {
		return err
	}
	_, err = b.js.Publish(ctx, "iam._.doctor.probe.Probe", nil, jetstream.WithExpectLastMsgID("no such message"))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == noMessage {
		return nil
	}
	if err == nil {
		return errors.New("the stream stored a message that it had to reject")
	}
	return fmt.Errorf("publish to iam.>: %w", cmp.Or(b.nc.LastError(), err))
}

// away reports whether err is of the connection and not of the stream. ErrReconnectBufExceeded ("outbound buffer limit
// exceeded") is what a client without a connection returns for every message.
func away(err error) bool {
	for _, is := range []error{
		nats.ErrReconnectBufExceeded, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting, nats.ErrDisconnected, nats.ErrNoServers, nats.ErrTimeout,
		context.DeadlineExceeded,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// Publish sends a message, under the id by which the stream detects duplicates.
func (b *Bus) Publish(m outbox.Message) <-chan error {
	result := make(chan error, 1)
	header := nats.Header{"Content-Type": {"application/cloudevents+json"}}
	if m.TraceParent != "" {
		header["traceparent"] = []string{m.TraceParent} // headers of NATS are case-sensitive, and the name is lower case
	}
	f, err := b.js.PublishMsgAsync(&nats.Msg{Subject: m.Subject, Data: m.Body, Header: header}, jetstream.WithMsgID(m.ID))
	if err != nil {
		result <- classify(err)
		return result
	}
	go func() {
		select {
		case <-f.Ok():
			result <- nil
		case err := <-f.Err():
			result <- classify(err)
		}
	}()
	return result
}

// PublishCore publishes a message by core NATS, at most once: it is lost while disconnected.
func (b *Bus) PublishCore(subject string, body []byte) error { return b.nc.Publish(subject, body) }

// classify marks failures of one message; all others are of the bus.
func classify(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) {
		return &outbox.RefusedError{Cause: err}
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == messageTooLarge {
		return &outbox.RefusedError{Cause: err}
	}
	return err
}

// messageTooLarge is the server's code for a message beyond the limit of its stream
// (JSStreamMessageExceedsMaximumErr).
const messageTooLarge = 10054
