package rauth

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// checkEvery is the interval of checks of the admin API.
const checkEvery = 30 * time.Second

// Watch checks the admin API now and every checkEvery, until ctx ends.
func (c *Client) Watch(ctx context.Context) {
	every := time.NewTicker(checkEvery)
	defer every.Stop()
	for {
		c.check(ctx)
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// Check reports whether the URL serves the list of clients, as the admin API does.
func (c *Client) Check(ctx context.Context) error {
	a, err := c.do(ctx, request{operation: "list", method: http.MethodGet, target: c.at("clients") + "?page_size=1", want: http.StatusOK}, nil)
	if err == nil {
		if err = isList(a.body); err != nil {
			c.report(ctx, "list", err)
		}
	}
	return err
}

func (c *Client) check(ctx context.Context) {
	err := c.Check(ctx)
	if ctx.Err() != nil {
		return
	}
	before := c.state.Swap(&err)
	switch {
	case err != nil && (before == nil || *before == nil):
		c.cfg.Log.ErrorContext(ctx, "admin API of R-Auth unusable: clients are neither created, changed nor deleted there (RAUTH_ADMIN_URL)",
			slog.String("url", c.base.Redacted()), slog.Any("err", err))
	case err == nil && before != nil && *before != nil:
		c.cfg.Log.InfoContext(ctx, "admin API of R-Auth usable again")
	}
}

// State is the result of the last check; nil where there was none yet.
func (c *Client) State() error {
	if last := c.state.Load(); last != nil {
		return *last
	}
	return nil
}
