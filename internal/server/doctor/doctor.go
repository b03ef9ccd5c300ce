// Package doctor checks a deployment with the settings of serve, before it serves or while it does, and says what to do
// next for each fault.
//
// It owns the checks, their order and their words. It changes nothing: a write is rolled back, a message is one that the
// stream must reject. Only with TryClient it creates a client in the identity provider, and deletes it. Each check has a
// time limit, and one that depends on a failed check is skipped, with the reason.
//
// It does not know how anything is opened or validated: packages server, postgres, token, rauth and natsbus are called as
// serve calls them.
//
//	settings ─▶ database ─▶ rights, schema, write, notifications, instance, clock
//	         ├▶ decision log's database
//	         ├▶ listeners
//	         ├▶ issuers, transmitters of signals ─▶ clock, admin API ─▶ audience
//	         └▶ NATS, policy, gateways, certificates
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/postgres"
	"iam-service/internal/server"
	"iam-service/internal/token"
)

// States of a result.
const (
	OK      = "ok"
	Warn    = "warn"    // it works, and is not as it should be in production
	Fail    = "fail"    // it does not work
	Skipped = "skipped" // it was not checked
)

// Result is what one check has found.
type Result struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"` // what to do
	TookMS int64  `json:"took_ms"`
}

// Report is what all checks have found.
type Report struct {
	Healthy bool     `json:"healthy"` // nothing has failed
	Results []Result `json:"results"`
}

// Options of a run.
type Options struct {
	Limit     time.Duration // of each check; 0: 5 s
	TryClient bool          // create a client in the identity provider, get a token for it, and delete it
}

// doctor is one run.
type doctor struct {
	options  Options
	cfg      server.Config
	log      *slog.Logger
	db       *postgres.DB // nil: it cannot be used
	dates    *dates       // of what issuers sent
	verifier *token.Verifier
	provider *rauth.Client // nil: there is none, or it cannot be used
	report   Report
}

// Run checks a deployment with the settings of environ.
func Run(ctx context.Context, environ []string, o Options) Report {
	if o.Limit <= 0 {
		o.Limit = 5 * time.Second
	}
	d := &doctor{options: o, log: slog.New(slog.DiscardHandler), dates: &dates{}}
	cfg, err := server.ParseConfig(environ)
	d.cfg = cfg
	if faults, ok := errors.AsType[*server.ConfigError](err); ok {
		for _, f := range faults.Faults {
			d.add(Result{Check: "settings", State: Fail, Detail: f, Next: "correct the variable (docs/configuration.md), and restart"})
		}
		d.add(Result{Check: "everything else", State: Skipped, Detail: "the settings are not valid"})
		return d.report
	}
	d.add(Result{Check: "settings", State: OK, Detail: "all variables are valid"})
	d.database(ctx)
	if d.db != nil {
		defer d.db.Close()
	}
	d.decisionLog(ctx)
	d.listeners(ctx)
	d.issuers(ctx)
	d.signals(ctx)
	d.adminAPI(ctx)
	d.console(ctx)
	d.clocks()
	d.nats(ctx)
	d.policy(ctx)
	d.gateways()
	d.certificates()
	d.report.Healthy = true
	for _, r := range d.report.Results {
		d.report.Healthy = d.report.Healthy && r.State != Fail
	}
	return d.report
}

func (d *doctor) add(r Result) { d.report.Results = append(d.report.Results, r) }

// finding is what a check returns: its state, what it saw, and what to do next.
type finding struct{ state, detail, next string }

func ok(format string, args ...any) finding { return finding{OK, fmt.Sprintf(format, args...), ""} }

func skipped(why string) finding { return finding{Skipped, why, ""} }

// failed is a failure with its cause on one line.
func failed(err error, next string) finding { return finding{Fail, server.OneLine(err).Error(), next} }

// check runs one check within its limit, also where the check ignores the limit.
func (d *doctor) check(ctx context.Context, name string, do func(ctx context.Context) finding) finding {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, d.options.Limit)
	defer cancel()
	found := make(chan finding, 1)
	go func() { found <- do(limited) }()
	var f finding
	select {
	case f = <-found:
	case <-time.After(d.options.Limit + time.Second):
		f = finding{Fail, fmt.Sprintf("no response within %s", d.options.Limit), "check the network and the peer"}
	}
	d.add(Result{Check: name, State: f.state, Detail: f.detail, Next: f.next, TookMS: time.Since(began).Milliseconds()})
	return f
}

// skip adds checks that cannot be done.
func (d *doctor) skip(why string, names ...string) {
	for _, name := range names {
		d.add(Result{Check: name, State: Skipped, Detail: why})
	}
}
