package gameday

import (
	"os/exec"

	"iam-service/internal/dev/await"
)

var busDays = []day{
	{
		name: "NATS down", what: "it is stopped; started again",
		in:     true,
		begin:  func(g *game) { g.bus.stop() },
		end:    func(g *game) { g.bus.start() },
		remove: sql,
		fires:  []string{"IAMEventBusErrors", "IAMOutboxAging"},
	},
	{
		name: "NATS restarted empty", what: "it loses its stream with all events; `iam-service events replay`",
		begin: func(g *game) {
			g.bus.stop()
			g.bus.empty()
			g.bus.start()
		},
		end:    replay,
		remove: sql,
		fires:  []string{"IAMEventStreamRecreated"},
	},
}

// replay is what the runbook says of IAMEventStreamRecreated.
func replay(g *game) {
	await.True(g, "the stream is there again", func() bool {
		all, err := g.bus.messages()
		return err == nil && len(all) > 0
	})
	cmd := exec.Command(g.program, "events", "replay", "--since", "1h")
	cmd.Env = []string{"DATABASE_URL=" + service(g.db.host())}
	if out, err := cmd.CombinedOutput(); err != nil {
		g.Fatalf("events replay: %v: %s", err, out)
	}
}
