package gameday

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"iam-service/internal/dev/await"
)

// steadily are 200 enrichments a second, some of every kind.
var steadily = map[kind]int{cached: 80, fresh: 40, unseen: 40, denied: 15, anonymous: 10, removed: 15}

// broken is what callers see whose request was in the process that is killed.
var broken = map[kind]seen{
	cached: also(200, 503), fresh: also(200, 503), unseen: also(200, 503), removed: also(200, 503), denied: also(403, 503), anonymous: also(401, 503), write: also(201, 502, 503, 0),
}

var replicaDays = []day{
	{
		name: "Stderr blocked", what: "the logs of all replicas are at debug, and their reader stops; it reads again",
		settings: []string{"LOG_LEVEL=debug", "DECISION_LOG_SAMPLE=1"},
		begin: func(g *game) {
			for _, r := range g.replicas {
				r.pausing.Store(true)
			}
			stop := chatter(g)
			await.True(g, "decisions are dropped", func() bool {
				time.Sleep(300 * time.Millisecond)
				return !slices.ContainsFunc(g.replicas, func(r *replica) bool { return !dropping(r) })
			})
			stop()
		},
		end: func(g *game) {
			for _, r := range g.replicas {
				r.pausing.Store(false)
			}
		},
		remove: sql, alone: true,
		fires: []string{"IAMDecisionLogDropped"}, may: []string{"IAMLogDropped"}, // decisions leave half of the room to other lines
	},
	{
		name: "SIGTERM to one replica", what: "one of three replicas is asked to end, at 200 requests a second; it is started again",
		rates: steadily, exact: true,
		begin: func(g *game) {
			g.replicas[0].send(syscall.SIGTERM)
			g.replicas[0].ended()
		},
		end:    func(g *game) { g.replicas[0].start() },
		remove: sql,
	},
	{
		name: "`kill -9` of one replica", what: "one of three replicas ends at once, at 200 requests a second; it is started again",
		in:    true,
		rates: steadily, exact: true,
		begin:  func(g *game) { g.replicas[0].kill() },
		end:    func(g *game) { g.replicas[0].start() },
		remove: sql,
		first:  broken, late: map[kind]seen{}, turn: 500 * time.Millisecond,
	},
	{
		name: "Rolling restart", what: "each of three replicas in turn is asked to end, and the next one when its successor is ready, at 200 requests a second",
		rates: steadily, exact: true,
		begin:  rolling,
		remove: sql,
	},
}

// chatter asks the replicas themselves about users whom they have not looked up: each evaluation is a line.
func chatter(g *game) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, r := range g.replicas {
		all.Go(func() {
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			defer c.CloseIdleConnections()
			for n := users; ctx.Err() == nil && n > 0; n-- {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.gateway+"/system/forward-auth", nil)
				if err != nil {
					g.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+g.provider.token(fmt.Sprintf("user-%d", n)))
				if resp, err := c.Do(req); err == nil {
					_ = resp.Body.Close() // only the log counts
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

var droppedLines = regexp.MustCompile(`(?m)^iam_decision_log_dropped_total\{sink="console"\} [1-9]`)

func dropping(r *replica) bool {
	text, err := r.get("/metrics")
	return err == nil && droppedLines.Match(text)
}
