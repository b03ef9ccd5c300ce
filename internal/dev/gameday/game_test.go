package gameday

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/pgtest"
)

// seen are the statuses that callers of a kind get in a phase of an outage.
type seen struct {
	must []int // each occurs
	may  []int // each may occur, and no other
}

func only(status int) seen { return seen{must: []int{status}} }

// also is only, where some callers get the other statuses.
func also(status int, others ...int) seen { return seen{must: []int{status}, may: others} }

// maybe are statuses of which none must occur.
func maybe(statuses ...int) seen { return seen{may: statuses} }

// day is a game day. The zero value of a field means that nothing of the kind happens.
type day struct {
	name string
	what string // fails, and how it returns
	in   bool   // the short form, too

	settings []string     // further ones of the replicas
	rates    map[kind]int // requests a second, in addition to the usual ones or instead of them
	network  bool         // each replica reaches PostgreSQL through a proxy of its own
	prepare  func(*game)  // before the replicas start

	begin func(*game)   // the outage
	lasts time.Duration // before end; 0: as long as the form of the test wants
	end   func(*game)   // the outage: when it returns, what failed is back

	// remove removes the role of the user "removed" during the outage; nil: the outage permits no change.
	remove  func(*game)
	promise time.Duration // after which no response has the role; 0: a second, as freshness.md promises

	first map[kind]seen // what callers see; kinds that are left out see what they see when all is well
	late  map[kind]seen // after turn; nil: as first
	turn  time.Duration // from the beginning; 0: MAX_STALENESS
	ends  map[kind]int  // what callers see when it is over, where that is not as before

	fires []string      // alerts
	may   []string      // alerts that fire in some runs; all others must not
	alone bool          // no other day runs at the same time
	exact bool          // alone, and no request times out
	brief bool          // the outage is not prolonged for the alerts
	rest  time.Duration // how much longer callers are recorded after the return, in the long form
	check func(*game)
}

// game is one run of a day.
type game struct {
	testing.TB
	day      day
	program  string
	db       *database
	provider *provider
	bus      *bus
	proxies  []*pgtest.Proxy // of the replicas
	hosts    []string        // of PostgreSQL; nil: that of db
	replicas []*replica
	front    front
	callers  *callers
	scrapes  *scrapes
	fill     func() // the file system of the tables
	undo     func() // of what begin did
	standby  *devpg.Server
	file     string   // of a credential
	more     []string // settings of prepare

	// Moments on the clock of the callers.
	start   time.Duration // before begin
	begun   time.Duration // after it
	taken   time.Duration // after remove; 0: nothing was removed
	ending  time.Duration // before end
	back    time.Duration // after it
	isReady time.Duration // all replicas are
	over    time.Duration
}

// play runs a day and returns its line of the page.
func (d day) play(t *testing.T) line {
	t.Helper()
	began := time.Now()
	g := &game{TB: t, day: d, program: filepath.Join(binaries(t), "iam-service")}
	g.setUp()
	time.Sleep(wellFor)
	t.Logf("set up in %.1f s", (time.Since(began) - wellFor).Seconds())
	g.start = g.callers.now()
	d.begin(g)
	g.begun = g.callers.now()
	lasts := d.lasts
	if lasts == 0 {
		lasts = lateFor
		if d.late != nil {
			lasts += d.turns()
		}
	}
	if d.remove != nil {
		time.Sleep(min(time.Second, lasts/2))
		d.remove(g)
		g.taken = g.callers.now()
	}
	time.Sleep(g.begun + lasts - g.callers.now())
	g.ending = g.callers.now()
	if d.end != nil {
		d.end(g)
	}
	g.back = g.callers.now()
	await.Within(t, 30*time.Second, "all replicas are ready", func() bool {
		return !slices.ContainsFunc(g.replicas, func(r *replica) bool { return !r.ready() })
	})
	g.isReady = g.callers.now()
	time.Sleep(2*time.Second + wellFor + choose(d.rest, 0)) // HAProxy notices within a second
	g.callers.end()
	g.scrapes.end()
	g.over = g.callers.now()
	return g.verify()
}

func (d day) turns() time.Duration {
	if d.turn != 0 {
		return d.turn
	}
	return staleness
}

func (g *game) setUp() {
	g.Helper()
	g.db, g.provider, g.bus = startDatabase(g.TB), startProvider(g.TB), startBus(g.TB)
	g.db.fill(g.program, g.provider.Issuer)
	for _, name := range []string{"one", "two", "three"} {
		g.replicas = append(g.replicas, newReplica(g.TB, g.program, name))
	}
	g.Cleanup(g.save)
	if g.day.prepare != nil {
		g.day.prepare(g)
	}
	for _, r := range g.replicas {
		r.settings = append(g.settings(), slices.Concat(g.day.settings, g.more)...)
		r.start()
	}
	await.True(g, "the replicas are ready", func() bool {
		return !slices.ContainsFunc(g.replicas, func(r *replica) bool { return !r.ready() })
	})
	g.front = startFront(g.TB, g.program, g.replicas)
	rates := maps.Clone(usual)
	maps.Copy(rates, g.day.rates)
	g.callers = startCallers(g.TB, g.front, g.provider, rates)
	g.scrapes = startScrapes(g.TB, g.callers, g.replicas)
}

// settings are those of a replica. Budgets are wider than the defaults: three replicas, PostgreSQL, NATS, HAProxy and the
// callers share the cores of one machine.
func (g *game) settings() []string {
	g.Helper()
	hosts := g.hosts
	if hosts == nil {
		hosts = []string{g.db.host()}
	}
	if g.day.network {
		proxy := pgtest.NewProxy(g.TB, g.db.server.URL)
		g.proxies = append(g.proxies, proxy)
		u, err := url.Parse(proxy.URL)
		ok(g, err)
		hosts = []string{u.Host}
	}
	return []string{
		"DATABASE_URL=" + service(hosts...), "RAUTH_URL=" + g.provider.Issuer, "RAUTH_ADMIN_URL=" + g.provider.Issuer, "RAUTH_AUDIENCES=" + devstack.Audience,
		"ADMIN_AUDIENCE=" + devstack.AdminAudience, "NATS_URL=" + g.bus.url(), "GATEWAY_PROFILE=haproxy", "TRUSTED_PROXIES=127.0.0.0/8",
		"MAX_STALENESS=" + staleness.String(), "ENRICH_DEADLINE=2s", "GOMAXPROCS=2",
	}
}

// save stores the logs of the replicas of a failed day in the folder GAMEDAY_LOGS.
func (g *game) save() {
	dir := os.Getenv("GAMEDAY_LOGS")
	if !g.Failed() || dir == "" {
		return
	}
	dir = filepath.Join(dir, g.Name())
	if os.MkdirAll(dir, 0o755) == nil {
		for _, r := range g.replicas {
			r.save(dir)
		}
	}
}

// sql removes the role over the superuser's open session, as an administrator whose request succeeds does.
func sql(g *game) { g.db.exec(removeRole) }

// rolling restarts one replica after the other, as a roll-out does: the next one when this one is ready.
func rolling(g *game) {
	for _, r := range g.replicas {
		r.send(syscall.SIGTERM)
		r.ended()
		r.start()
		await.True(g, "the restarted replica is ready", r.ready)
		time.Sleep(1500 * time.Millisecond) // until HAProxy sends it requests
	}
}
