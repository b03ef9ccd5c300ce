package gameday

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

const head = `<!-- Written by internal/dev/gameday (make gameday) alone: do not edit. -->

# Game days

The last run of ` + "`make gameday`" + `: %s, %d cores, %s.

Three replicas of the program behind %s, PostgreSQL, NATS and the development R-Auth, all on one machine. Some %d
requests a second (200 where the row says so) reach the replicas through the gateway's generated configuration, and
writes through a balancer of the admin API. Something fails, and returns. All share the cores of that machine, so
` + "`ENRICH_DEADLINE`" + ` is 2 s and HAProxy's time limits are wider accordingly. %d game days, of which %d passed.

**Callers** are the statuses that most of a kind got, by second from the beginning of the outage; "n × 503" are
single responses. Every 503 of a gateway has ` + "`Retry-After`" + `. The test compares each response with what
[outages.md](outages.md) promises for its moment.

**Alerts** are those of ` + "`deploy/prometheus/rules.yaml`" + ` that fire, with the time from the beginning. No other one
fires, and none still does 45 minutes after the return. Prometheus's rule engine evaluates them over what was scraped
each second. No outage here lasts as long as the windows of the rules, so the seconds before it are repeated for 75
minutes, its last six seconds for a quarter of an hour (not those of a failover), and the last seconds of the run for
45 minutes: counters grow as they did, gauges stay as they were, and ages that grew with the clock go on growing. What
an outage would do whose state changes later is not seen.

**Afterwards** no role was used after its removal, longer than [freshness.md](freshness.md) promises; each write
that was answered with 201 is in the database; each change has its event in NATS; and within 10 s of the return
callers get what they got before, without a restart.

| game day | what fails, and returns | callers | alerts | afterwards |
| --- | --- | --- | --- | --- |
`

// writePage writes docs/gamedays.md.
func writePage(t testing.TB, lines []line, took time.Duration) {
	t.Helper()
	passed, rate, front := 0, 0, ""
	for _, r := range usual {
		rate += r
	}
	var rows strings.Builder
	for _, l := range lines {
		result := l.after
		front = cmp.Or(l.front, front)
		if l.passed {
			passed++
		} else {
			result = "**failed**; " + result
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s |\n", l.day.name, l.day.what, l.callers, l.alerts, result)
	}
	text := fmt.Sprintf(head, runtime.Version(), runtime.NumCPU(), minutes(took), front, rate, len(lines), passed) + rows.String()
	ok(t, os.WriteFile(root+"/docs/gamedays.md", []byte(text), 0o644)) // #nosec G306 -- a page of the repository
}

func minutes(d time.Duration) string { return fmt.Sprintf("%d minutes", int(d.Minutes()+0.5)) }
