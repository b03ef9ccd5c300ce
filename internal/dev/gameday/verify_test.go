package gameday

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"iam-service/internal/dev/await"
)

// slack is how far a change of phase is from what callers notice: a heartbeat and a probe of HAProxy are a second each.
const slack = 2500 * time.Millisecond

// recovery is how long callers may wait for the usual responses after the dependency has returned.
const recovery = 10 * time.Second

// line is a game day on the page.
type line struct {
	day                    day
	front                  string
	callers, alerts, after string
	passed                 bool
}

// verify checks what was recorded.
func (g *game) verify() line {
	g.Helper()
	all := g.callers.recorded()
	g.phases(all)
	recovered := g.recovered(all)
	after := []string{recovered, g.roleGone(all), g.writes(all), g.events()}
	if slices.ContainsFunc(all, func(r response) bool { return r.kind == client }) {
		after = append(after, g.clients())
	}
	if g.day.check != nil {
		g.day.check(g)
	}
	for _, r := range g.replicas {
		if r.exits > 0 {
			g.Errorf("replica %s ended by itself: %s", r.name, r.logged())
		}
	}
	l := line{day: g.day, front: g.front.kind, callers: g.timeline(all), after: strings.Join(slices.DeleteFunc(after, func(s string) bool { return s == "" }), "; ")}
	if long {
		l.alerts = g.alerts()
	}
	l.passed = !g.Failed()
	return l
}

// phase is a time in which callers may get some statuses.
type phase struct {
	name     string
	from, to time.Duration
	want     map[kind]seen
}

func (g *game) plan() []phase {
	usually := map[kind]seen{}
	for k, status := range well {
		usually[k] = only(status)
	}
	// Keys that are unknown are looked for a few times in a row, and then every ten seconds; meanwhile the response is 503.
	usually[foreign] = maybe(401, 503)
	merged := func(over map[kind]seen) map[kind]seen {
		m := maps.Clone(usually)
		maps.Copy(m, over)
		return m
	}
	afterwards := maps.Clone(usually)
	for k, status := range g.day.ends {
		afterwards[k] = only(status)
	}
	turn := g.ending
	plan := []phase{{name: "before the outage", to: g.begun + slack, want: usually}}
	if g.day.late != nil {
		turn = g.start + g.day.turns()
		plan = append(plan, phase{name: "late in the outage", from: turn - slack, to: g.back + recovery, want: merged(g.day.late)})
	}
	return append(plan,
		phase{name: "in the outage", from: g.start, to: turn + slack, want: merged(g.day.first)},
		// While it recovers, callers may see each phase again.
		phase{name: "recovering", from: g.ending, to: g.back + recovery, want: merged(g.day.first)},
		phase{name: "afterwards", from: g.ending, to: g.over + time.Minute, want: afterwards},
	)
}

// phases compares each response with the phases that its request overlaps.
func (g *game) phases(all []response) {
	g.Helper()
	plan := g.plan()
	busy := 0
	occurred := map[string]bool{}
	wrong := map[string]int{}
	for _, r := range all {
		allowed := false
		for _, p := range plan {
			if r.at <= p.to && r.at+r.took >= p.from && (slices.Contains(p.want[r.kind].must, r.status) || slices.Contains(p.want[r.kind].may, r.status)) {
				occurred[fmt.Sprint(p.name, r.kind, r.status)] = true
				allowed = true
			}
		}
		if !allowed && overloaded(r) && (!g.day.exact || !long) {
			busy++
			continue
		}
		if !allowed {
			wrong[fmt.Sprintf("%s got %d %s in second %d of the outage (it lasts %d)", r.kind, r.status, r.code, int((r.at-g.start).Seconds()), int((g.back-g.start).Seconds()))]++
		}
		if r.status == 503 && !r.retryAfter && r.kind != write && r.kind != client { // HAProxy itself answers for the admin API if no replica is ready
			wrong[fmt.Sprintf("%s got a 503 without Retry-After", r.kind)]++
		}
	}
	if most := choose(0.5, 5.0); float64(busy)*100 > most*float64(len(all)) {
		g.Errorf("%d of %d requests timed out, more than %g %%: is the machine overloaded?", busy, len(all), most)
	}
	for _, text := range slices.Sorted(maps.Keys(wrong)) {
		g.Errorf("%d times: %s", wrong[text], text)
	}
	for _, p := range plan {
		for k := range well {
			if g.callers.rates[k] == 0 && k != foreign || k == foreign && p.want[k].must == nil {
				continue
			}
			for _, status := range p.want[k].must {
				if p.name != "recovering" && !occurred[fmt.Sprint(p.name, k, status)] {
					g.Errorf("%s: %s never got %d", p.name, k, status)
				}
			}
		}
	}
}

// overloaded reports whether a request ran out of time within the service. On a machine that does other work some do, with or
// without an outage.
func overloaded(r response) bool {
	// In the short form, next to all other tests, the gateway runs out of time, too.
	return r.status == 503 && (!long || slices.Contains([]string{"facts_timeout", "policy_timeout", "keys_timeout", "busy"}, r.code))
}

// usually is the status of a kind when the outage is over.
func (g *game) usually(k kind) int {
	if status, ok := g.day.ends[k]; ok {
		return status
	}
	return well[k]
}

// recovered returns how long after the return the last response was not the usual one. Clients have a promise of their own.
func (g *game) recovered(all []response) string {
	g.Helper()
	var last time.Duration
	for _, r := range all {
		if r.at > g.back && r.status != g.usually(r.kind) && r.kind != client && r.kind != foreign && !(overloaded(r) && r.at > g.isReady) {
			last = max(last, r.at+r.took-g.back)
		}
	}
	ready := max(0, g.isReady-g.back)
	if last > recovery || ready > recovery {
		g.Errorf("callers were served after %s, all replicas were ready after %s, promised are %s", last, ready, recovery)
	}
	if last == 0 {
		return "nothing to recover from"
	}
	return fmt.Sprintf("callers served %.1f s after the return", last.Seconds())
}

// roleGone compares the responses with the removal.
func (g *game) roleGone(all []response) string {
	g.Helper()
	promise := g.day.promise
	if promise == 0 {
		promise = time.Second
	}
	var last time.Duration
	before, late := 0, 0
	for _, r := range all {
		if r.kind != removed || !r.editor {
			continue
		}
		if g.taken == 0 || r.at < g.taken {
			before++
			continue
		}
		last = max(last, r.at-g.taken)
		if r.at-g.taken > promise {
			late++
		}
	}
	if before == 0 {
		g.Error("no response had the role before its removal")
	}
	if late > 0 {
		g.Errorf("%d requests were allowed with the role more than %s after its removal, the last one after %s", late, promise, last)
	}
	if g.taken == 0 {
		return ""
	}
	return fmt.Sprintf("a removed role was last used %.1f s after its removal", last.Seconds())
}

// writes looks for each acknowledged write.
func (g *game) writes(all []response) string {
	g.Helper()
	there := map[string]bool{}
	for _, name := range g.db.strings(`SELECT name FROM roles`) {
		there[name] = true
	}
	acknowledged := 0
	for _, r := range all {
		if r.kind != write || r.status != 201 {
			continue
		}
		acknowledged++
		if !there[r.object] {
			g.Errorf("the role %s is lost, whose creation was acknowledged in second %d of the outage", r.object, int((r.at - g.start).Seconds()))
		}
	}
	return fmt.Sprintf("%d acknowledged writes are there", acknowledged)
}

// events waits until the bus has an event for each change.
func (g *game) events() string {
	g.Helper()
	var missing []string
	n := 0
	arrived := await.Until(time.Minute, 500*time.Millisecond, func() bool {
		bodies, err := g.bus.messages()
		if err != nil {
			missing = []string{err.Error()}
			return false
		}
		sent, objects := map[string]bool{}, map[string]bool{}
		for _, body := range bodies {
			var e struct{ ID, Type, Subject string }
			ok(g, json.Unmarshal(body, &e))
			sent[e.ID] = true
			if e.Type == "RoleCreated.v1" {
				objects[e.Subject] = true
			}
		}
		missing = nil
		ids := g.db.strings(`SELECT id::text FROM outbox`)
		for _, id := range ids {
			if !sent[id] {
				missing = append(missing, id)
			}
		}
		for _, name := range g.db.strings(`SELECT name FROM roles WHERE name LIKE 'r-%'`) {
			if !objects[name] {
				missing = append(missing, "RoleCreated.v1 of "+name)
			}
		}
		n = len(ids)
		return len(missing) == 0
	})
	if !arrived {
		g.Errorf("%d events are not on the bus: %v", len(missing), missing[:min(5, len(missing))])
	}
	return fmt.Sprintf("%d events are on the bus", n)
}

// clients waits until both systems agree.
func (g *game) clients() string {
	g.Helper()
	var open []string
	began := time.Now()
	agreed := await.Until(time.Minute-(g.over-g.back), 200*time.Millisecond, func() bool {
		open = g.db.strings(`SELECT client_id FROM registrations WHERE operation IS NOT NULL`)
		return len(open) == 0
	})
	if !agreed {
		g.Errorf("%d changes of clients are still pending a minute after R-Auth's return", len(open))
	}
	there := g.provider.Provisioned()
	ids := g.db.strings(`SELECT client_id FROM registrations`)
	for _, id := range ids {
		if there[id] == nil && agreed {
			g.Errorf("client %s is not in R-Auth", id)
		}
	}
	if time.Since(began) < time.Second {
		return fmt.Sprintf("%d clients are in R-Auth", len(ids))
	}
	return fmt.Sprintf("%d clients are in R-Auth %.0f s after its return", len(ids), (g.over - g.back + time.Since(began)).Seconds())
}

// alerts compares what fires with what is to fire.
func (g *game) alerts() string {
	g.Helper()
	fired, all := g.scrapes.alerts(g.start, g.ending, g.day.brief)
	var lines []string
	names := map[string]bool{}
	for _, a := range fired {
		names[a.Name] = true
		switch {
		case a.Before:
			g.Errorf("%s fires before the outage", a.Name)
		case a.Remains:
			g.Errorf("%s still fires at the end", a.Name)
		case !slices.Contains(g.day.fires, a.Name) && !slices.Contains(g.day.may, a.Name):
			g.Errorf("%s fires, %.0f s after the beginning", a.Name, a.After)
		}
		lines = append(lines, fmt.Sprintf("%s after %s", a.Name, (time.Duration(a.After)*time.Second).String()))
	}
	for _, name := range g.day.fires {
		if !names[name] {
			g.Errorf("%s does not fire", name)
		}
		if !slices.Contains(all, name) {
			g.Errorf("%s is no alert", name)
		}
	}
	if len(lines) == 0 {
		return "none"
	}
	return strings.Join(lines, ", ")
}

// timeline says what callers of each kind got, by second.
func (g *game) timeline(all []response) string {
	texts := map[string][]string{}
	var order []string
	for _, k := range []kind{cached, fresh, removed, unseen, denied, anonymous, foreign, write, client} {
		if !slices.ContainsFunc(all, func(r response) bool { return r.kind == k }) {
			continue
		}
		text := g.seconds(all, k)
		if texts[text] == nil {
			order = append(order, text)
		}
		texts[text] = append(texts[text], string(k))
	}
	var parts []string
	for _, text := range order {
		parts = append(parts, strings.Join(texts[text], ", ")+": "+text)
	}
	return strings.Join(parts, "<br>")
}

// seconds compresses what most callers of a kind got in each second.
func (g *game) seconds(all []response, k kind) string {
	counts := map[int]map[int]int{}
	rare := map[int]int{}
	for _, r := range all {
		if s := int((r.at - g.start + time.Hour).Seconds()) - 3600; r.kind == k && s >= -2 { // rounded down
			if counts[s] == nil {
				counts[s] = map[int]int{}
			}
			counts[s][r.status]++
			rare[r.status]++
		}
	}
	var parts []string
	last := 0
	shown := map[int]bool{}
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		most, n := 0, 0
		for _, status := range slices.Sorted(maps.Keys(counts[s])) {
			if counts[s][status] > n {
				most, n = status, counts[s][status]
			}
		}
		if most == last && len(parts) > 0 {
			continue
		}
		last = most
		shown[most] = true
		text := status(most)
		if len(parts) > 0 {
			text += fmt.Sprintf(" from %d s", s)
		}
		parts = append(parts, text)
	}
	for _, s := range slices.Sorted(maps.Keys(rare)) {
		if !shown[s] {
			parts = append(parts, fmt.Sprintf("%d × %s", rare[s], status(s)))
		}
	}
	return strings.Join(parts, ", ")
}

func status(n int) string {
	if n == 0 {
		return "no response"
	}
	return fmt.Sprint(n)
}
