package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

const migrateNext = "run \"iam-service migrate up --grant-to ROLE\" as the schema's owner, with the role of DATABASE_URL"

// databaseNext is what to do about a code of an error.
var databaseNext = map[string]string{
	"database_full":       "free space on the database's disk",
	"database_read_only":  "point DATABASE_URL at the primary, or make it writable",
	"database_overloaded": "lower DATABASE_FACTS_CONNS and DATABASE_ADMIN_CONNS, or raise max_connections",
}

func databaseFailed(err error, next string) finding {
	return failed(err, cmp.Or(databaseNext[iam.CodeOf(err)], next))
}

func (d *doctor) database(ctx context.Context) {
	dependents := []string{"prepared statements", "database role", "schema", "index of roles", "database writes", "change notifications", "instance", "clock of the database"}
	server := postgres.Server(d.cfg.DatabaseURL)
	var db *postgres.DB
	found := d.check(ctx, "database", func(ctx context.Context) finding {
		var err error
		db, err = postgres.Open(context.WithoutCancel(ctx), postgres.Config{URL: d.cfg.DatabaseURL, Listen: d.cfg.ListenURL, Issuers: d.cfg.Issuers, Conns: 2}, d.log, nil)
		if err != nil {
			return finding{Fail, "DATABASE_URL cannot be used", "correct DATABASE_URL"}
		}
		if err := db.Ping(ctx); err != nil {
			db.Close()
			return databaseFailed(err, "check that PostgreSQL runs at "+server+", that the network policy lets this pod reach it, and user, password and database of DATABASE_URL")
		}
		return ok("PostgreSQL at %s", server)
	})
	if found.state == Fail {
		d.skip("the database cannot be used", dependents...)
		return
	}
	d.db = db
	if f := d.check(ctx, "prepared statements", func(ctx context.Context) finding {
		if err := db.CheckPrepared(ctx); err != nil {
			return databaseFailed(err, "with PgBouncer 1.21 or newer set max_prepared_statements; otherwise use session mode, or let DATABASE_URL lead to PostgreSQL itself")
		}
		return ok("each connection has its own")
	}); f.state == Fail {
		d.skip("statements cannot be prepared", dependents[1:]...)
		return
	}
	if f := d.check(ctx, "schema", func(ctx context.Context) finding {
		err := db.CheckSchema(ctx)
		if _, old := errors.AsType[*postgres.OldSchemaError](err); old {
			return failed(err, migrateNext) // a role without rights sees no schema either
		}
		if err != nil {
			return databaseFailed(err, migrateNext)
		}
		return ok("it has all migrations that this version needs")
	}); f.state == Fail {
		d.skip("the schema is not usable", "database role", "index of roles", "database writes", "change notifications", "instance", "clock of the database")
		return
	}
	d.check(ctx, "database role", d.role)
	d.check(ctx, "index of roles", d.roleIndex)
	d.check(ctx, "database writes", func(ctx context.Context) finding {
		if err := db.DryWrite(ctx); err != nil {
			return databaseFailed(err, "read PostgreSQL's log; changes by administrators fail, enrichment goes on")
		}
		return ok("a write works; it was rolled back")
	})
	d.check(ctx, "change notifications", d.notifications)
	d.check(ctx, "instance", func(ctx context.Context) finding {
		id, copied, err := db.Instance(ctx)
		if err != nil {
			return databaseFailed(err, "run \"iam-service migrate up\"")
		}
		if copied {
			return finding{
				Fail, "the database was copied or moved: clients are not changed in R-Auth",
				"run \"iam-service instance keep\" if the original is gone, \"iam-service instance renew\" if this is a copy (docs/outages.md)",
			}
		}
		return ok("%s", id)
	})
	d.check(ctx, "clock of the database", func(ctx context.Context) finding {
		ahead, within, err := db.Clock(ctx)
		if err != nil {
			return databaseFailed(err, "read PostgreSQL's log")
		}
		return skew("the database's clock", clockLimit{ahead, within, databaseSkew})
	})
}

// decisionLog checks the database of the decision log as serve does at its start. No request depends on it.
func (d *doctor) decisionLog(ctx context.Context) {
	if d.cfg.DecisionsURL == "" {
		return
	}
	d.check(ctx, "decision log's database", func(ctx context.Context) finding {
		store, err := postgres.OpenDecisions(context.WithoutCancel(ctx), d.cfg.DecisionsURL, d.cfg.DecisionsKeep, d.log, nil)
		if err != nil {
			return finding{Fail, "DECISIONS_DATABASE_URL cannot be used", "correct DECISIONS_DATABASE_URL"}
		}
		defer store.Close()
		err = store.Check(ctx)
		if _, old := errors.AsType[*postgres.OldSchemaError](err); old {
			return failed(err, "run \"iam-service migrate up --grant-to ROLE\" with DECISIONS_DATABASE_URL as the schema's owner")
		}
		if err != nil {
			return failed(err, "check that PostgreSQL runs at "+postgres.Server(d.cfg.DecisionsURL)+", and DECISIONS_DATABASE_URL; decisions are not stored meanwhile")
		}
		return ok("PostgreSQL at %s", postgres.Server(d.cfg.DecisionsURL))
	})
}

func (d *doctor) role(ctx context.Context) finding {
	r, err := d.db.Rights(ctx)
	switch {
	case err != nil:
		return databaseFailed(err, "run \"iam-service migrate up --grant-to "+cmp.Or(r.Role, "ROLE")+"\" as the schema's owner")
	case len(r.Missing) > 0:
		return finding{Fail, r.Role + " lacks " + strings.Join(r.Missing, ", "), "run \"iam-service migrate up --grant-to " + r.Role + "\" as the schema's owner"}
	case len(r.Excess) > 0:
		return finding{
			Warn, r.Role + " " + strings.Join(r.Excess, ", "),
			"create a role that owns nothing, run \"iam-service migrate up --grant-to ROLE\", and use it in DATABASE_URL (docs/admin.md, the database's two roles)",
		}
	}
	return ok("%s can do what the service needs, and not more", r.Role)
}

// roleIndex compares the table by which the holders of a role are found with the memberships.
func (d *doctor) roleIndex(ctx context.Context) finding {
	x, err := d.db.CheckRoleIndex(ctx)
	switch {
	case err != nil:
		return databaseFailed(err, "read PostgreSQL's log, and raise --timeout if it took too long")
	case x.Missing+x.Excess > 0:
		return finding{
			Fail, fmt.Sprintf("membership_roles lacks %d roles of memberships, and has %d that no membership has: holders of a role are missing from lists of access", x.Missing, x.Excess),
			"repair it as the schema's owner (docs/doctor.md, the index of roles)",
		}
	case !x.All:
		return ok("membership_roles equals memberships, in the part of both that was compared")
	}
	return ok("membership_roles equals memberships")
}

// notifications sends a heartbeat through the pool and waits for it on the direct connection, as serve does at its start.
func (d *doctor) notifications(ctx context.Context) finding {
	next := "DATABASE_LISTEN_URL must lead to the same database past any pooler: a pooler in transaction mode delivers no notifications"
	l, err := d.db.Listen(ctx)
	if err != nil {
		return databaseFailed(err, next)
	}
	defer l.Close()
	nonce := "doctor-" + rand.Text()
	if err := d.db.SendHeartbeat(ctx, nonce); err != nil {
		return databaseFailed(err, "read PostgreSQL's log; with synchronous_standby_names a standby must respond")
	}
	sent := time.Now()
	for {
		m, err := l.Next(ctx)
		if err != nil {
			return finding{Fail, "LISTEN works, and a notification that was sent did not arrive", next}
		}
		if m.Heartbeat != nil && m.Heartbeat.Nonce == nonce {
			return ok("one arrived after %s", time.Since(sent).Round(time.Millisecond))
		}
	}
}

// Limits of clocks. A token may be from 5 s ahead of this host's clock (package token). Freshness is counted by the
// database's clock alone; expiries of memberships are compared with it.
const (
	skewWarn     = 2 * time.Second
	issuerSkew   = 5 * time.Second
	databaseSkew = 30 * time.Second
)

// clockLimit is how far another clock is ahead, how exactly that is known, and from where it is a failure.
type clockLimit struct{ ahead, within, fails time.Duration }

func skew(whose string, c clockLimit) finding {
	state, off := OK, max(c.ahead, -c.ahead)-c.within
	if off > skewWarn {
		state = Warn
	}
	if off > c.fails {
		state = Fail
	}
	f := finding{state: state, detail: whose + " agrees with this host's"}
	if state != OK {
		direction := "ahead of"
		if c.ahead < 0 {
			direction = "behind"
		}
		f.detail = fmt.Sprintf("%s is %s %s this host's", whose, max(c.ahead, -c.ahead).Round(time.Second), direction)
		f.next = "synchronise the clocks of both hosts (NTP): expiry and revocation of tokens compare them"
	}
	return f
}
