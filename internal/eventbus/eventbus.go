// Package eventbus holds the connection to NATS.
//
// It owns connecting, reconnecting for ever, and saying whether it stands. It
// does not know what is published. NATS is for neighbours: whether it is there
// decides nothing about an authorization, so its absence never fails a start.
package eventbus

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// Bus is a connection that may not stand yet.
type Bus struct{ nc *nats.Conn }

// Connect returns at once, whether a server answers or not. It fails only for a
// URL or file that cannot be used.
func Connect(ctx context.Context, url, credentialsFile string, log *slog.Logger) (*Bus, error) {
	opts := []nats.Option{
		nats.Name("iam-service"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(200*time.Millisecond, time.Second),
		nats.ConnectHandler(func(*nats.Conn) { log.InfoContext(ctx, "connected to NATS") }),
		nats.ReconnectHandler(func(*nats.Conn) { log.InfoContext(ctx, "connected to NATS again") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.WarnContext(ctx, "NATS is away", slog.Any("err", err))
			}
		}),
	}
	if credentialsFile != "" {
		opts = append(opts, nats.UserCredentials(credentialsFile))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, err
	}
	return &Bus{nc}, nil
}

// State is nil when the connection stands.
func (b *Bus) State() error {
	if b.nc.IsConnected() {
		return nil
	}
	if err := b.nc.LastError(); err != nil {
		return err
	}
	return nats.ErrDisconnected
}

// Close ends the connection.
func (b *Bus) Close() { b.nc.Close() }
