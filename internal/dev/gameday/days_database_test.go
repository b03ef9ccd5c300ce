package gameday

import (
	"syscall"
	"time"
)

// unavailable is what callers see without PostgreSQL until the facts are stale: look-ups and writes fail.
var unavailable = map[kind]seen{unseen: only(503), write: only(503)}

// closed is what they see after it: nothing is answered from the caches, and HAProxy has no replica that is ready.
var closed = map[kind]seen{
	cached: only(503), fresh: only(503), removed: only(503), denied: only(503), unseen: only(503), write: only(503), anonymous: maybe(401, 503),
}

// withoutDatabase are the alerts. The error budget hardly suffers: once no replica is ready, HAProxy asks none.
var withoutDatabase = []string{"IAMDatabaseErrors", "IAMEnrichmentTrafficGone", "IAMFactsAging", "IAMReplicaStale"}

var databaseDays = []day{
	{
		name: "PostgreSQL killed", what: "`kill -9` of all its processes; started again",
		in:    true,
		begin: func(g *game) { g.db.kill() },
		end:   func(g *game) { g.db.restart() },
		first: unavailable, late: closed,
		fires: withoutDatabase,
	},
	{
		name: "PostgreSQL stopped", what: "SIGSTOP to all its processes, so that everything hangs; SIGCONT",
		begin: func(g *game) { g.db.signal(syscall.SIGSTOP) },
		end:   func(g *game) { g.db.signal(syscall.SIGCONT) },
		first: unavailable, late: closed,
		fires: withoutDatabase,
	},
	{
		name: "PostgreSQL read-only", what: "`default_transaction_read_only=on`; off",
		begin: func(g *game) {
			g.db.exec("SET default_transaction_read_only = off") // of the session that removes the role
			g.db.set("default_transaction_read_only", "on")
		},
		end:    func(g *game) { g.db.set("default_transaction_read_only", "off") },
		remove: sql,
		first:  map[kind]seen{write: only(503)},
		fires:  []string{"IAMDatabaseErrors"}, may: []string{"IAMOutboxAging"}, // an event whose delivery cannot be recorded waits
	},
	{
		name: "PostgreSQL full", what: "the file system of its tables, a tmpfs of 120 MB, is filled by a file; the file is deleted. The log (WAL) is elsewhere",
		rates: map[kind]int{write: 20}, // so that a table needs another page
		prepare: func(g *game) {
			fill, free := g.db.small()
			g.fill, g.undo = fill, free
		},
		begin: func(g *game) { g.fill() },
		end:   func(g *game) { g.undo() },
		first: map[kind]seen{write: also(503, 201)},
		fires: []string{"IAMDatabaseErrors"}, may: []string{"IAMOutboxAging"}, // likewise
	},
	{
		name: "PostgreSQL out of connections", what: "the service's sessions are ended, and another client takes all of `max_connections`; it leaves",
		begin:  func(g *game) { g.undo = g.db.occupy() },
		end:    func(g *game) { g.undo() },
		remove: sql, promise: staleness + time.Second,
		first: unavailable, late: closed,
		fires: withoutDatabase,
	},
	{
		name: "PostgreSQL locked", what: "`LOCK TABLE memberships IN ACCESS EXCLUSIVE MODE`, in a transaction that removes the role; it commits",
		begin: func(g *game) {
			g.db.exec("BEGIN")
			g.db.exec("LOCK TABLE memberships IN ACCESS EXCLUSIVE MODE")
			g.db.exec(removeRole)
		},
		end: func(g *game) {
			g.db.exec("COMMIT")
			g.taken = g.callers.now()
		},
		first: unavailable,
		fires: []string{"IAMDatabaseErrors", "IAMEnrichmentErrorBudgetFast", "IAMEnrichmentErrorBudgetSlow"},
	},
	{
		name: "PostgreSQL failed over", what: "`kill -9` of the primary; after six seconds its synchronous standby is promoted. `DATABASE_URL` names both",
		lasts: 6 * time.Second,
		prepare: func(g *game) {
			g.standby = g.db.standby()
			other := &database{TB: g.TB, server: g.standby}
			g.hosts = []string{g.db.host(), other.host()}
		},
		begin: func(g *game) { g.db.kill() },
		end:   func(g *game) { g.db.promote(g.standby) },
		first: unavailable,
		fires: []string{"IAMDatabaseErrors"}, may: []string{"IAMFactsAging"}, brief: true,
	},
	{
		name: "One replica cut off from PostgreSQL", what: "the network discards all bytes between one of three replicas and PostgreSQL; it forwards them again",
		network: true,
		lasts:   40 * time.Second, // the session that relays events is over after 25
		begin:   func(g *game) { g.proxies[0].Blackhole(true) },
		end: func(g *game) {
			g.proxies[0].Blackhole(false)
			g.proxies[0].Cut()
		},
		remove: sql, promise: staleness + time.Second,
		first: map[kind]seen{unseen: also(200, 503), cached: also(200, 503), fresh: also(200, 503), removed: also(200, 503), denied: also(403, 503), write: also(201, 503)},
		late:  map[kind]seen{},
		turn:  staleness + 2*time.Second,
		fires: []string{"IAMDatabaseErrors", "IAMFactsAging", "IAMReplicaStale"},
		may:   []string{"IAMEnrichmentErrorBudgetFast"},
	},
}
