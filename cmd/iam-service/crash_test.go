package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// hurry lets leases and pauses be over: time that a test need not wait for.
func (p *plant) hurry() {
	p.Helper()
	_, err := p.pool.Exec(p.ctx, `UPDATE registrations SET lease_until = NULL, next_try = now() WHERE operation IS NOT NULL`)
	p.ok(err)
}

func (p *plant) count(sql string, args ...any) (n int) {
	p.Helper()
	p.ok(p.pool.QueryRow(p.ctx, sql, args...).Scan(&n))
	return n
}

// retiring is how many old secrets are to be ended.
func (p *plant) retiring() int {
	p.Helper()
	return p.count(`SELECT count(*) FROM registrations WHERE retire_at IS NOT NULL`)
}

// settle waits until nothing is under way.
func (p *plant) settle() {
	p.Helper()
	p.until("nothing is under way", func() bool {
		p.hurry()
		return p.count(`SELECT count(*) FROM registrations WHERE operation IS NOT NULL`) == 0
	})
}

// agree holds both systems, the events and the secrets to what was to be. Clients is how
// many there must be, and events which ones the client has.
func (p *plant) agree(where string, clients int, id string, events map[string]int) {
	p.Helper()
	drift := p.again("GET", "/v1/clients/drift", nil, nil, 200)
	if list, _ := drift.body["differences"].([]any); len(list) > 0 || len(p.rauth.Provisioned()) != clients ||
		p.count(`SELECT count(*) FROM clients WHERE status <> 'deleted'`) != clients {
		p.Errorf("%s: %d clients in R-Auth, and they differ in %v", where, len(p.rauth.Provisioned()), list)
	}
	for what, n := range events {
		if got := p.count(`SELECT count(*) FROM outbox WHERE object = $1 AND type = $2`, id, what+".v1"); got != n {
			p.Errorf("%s: %d events %s, want %d", where, got, what, n)
		}
	}
	p.delivered(where)
	p.secretless(where)
}

// delivered waits until the bus has all that is in the outbox, each once or more under its
// one id, and nothing else.
func (p *plant) delivered(where string) {
	p.Helper()
	var there, sent []string
	p.until(where+": the bus has the events of the outbox, and no others", func() bool {
		p.ok(p.pool.QueryRow(p.ctx, `SELECT array_agg(id::text ORDER BY id::text) FROM outbox`).Scan(&there))
		sent = nil
		for _, m := range p.messages() {
			var e struct{ ID string }
			p.ok(json.Unmarshal(m, &e))
			sent = append(sent, e.ID)
		}
		slices.Sort(sent)
		return slices.Equal(slices.Compact(sent), there)
	})
}

// messages are all that the bus has.
func (p *plant) messages() (all [][]byte) {
	p.Helper()
	conn, err := nats.Connect(p.natsURL)
	p.ok(err)
	defer conn.Close()
	js, err := conn.JetStream()
	p.ok(err)
	sub, err := js.SubscribeSync("iam.>", nats.OrderedConsumer())
	p.ok(err)
	info, err := js.StreamInfo("IAM")
	p.ok(err)
	for range info.State.Msgs {
		m, err := sub.NextMsg(10 * time.Second)
		p.ok(err)
		all = append(all, m.Data)
	}
	return all
}

// secretless looks for every secret that was ever issued, wherever it must not be.
func (p *plant) secretless(where string) {
	p.Helper()
	places := map[string]string{"the log": p.logged()}
	for _, m := range p.messages() {
		places["an event"] += string(m)
	}
	rows, err := p.pool.Query(p.ctx, `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`)
	p.ok(err)
	var tables []string
	for rows.Next() {
		var t string
		p.ok(rows.Scan(&t))
		tables = append(tables, t)
	}
	for _, t := range tables {
		var all string
		p.ok(p.pool.QueryRow(p.ctx, `SELECT coalesce(string_agg(x::text, ' '), '') FROM `+t+` x`).Scan(&all))
		places["the table "+t] = all
	}
	if resp, err := http.Get(p.ops + "/metrics"); err == nil { //nolint:noctx // a test
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		places["the metrics"] = string(text)
	}
	if len(tables) < 10 || len(places["the log"]) == 0 || places["the metrics"] == "" {
		p.Fatalf("%s: not everything was searched: %d tables", where, len(tables))
	}
	for _, secret := range p.rauth.Issued() {
		for place, text := range places {
			if strings.Contains(text, secret) {
				p.Errorf("%s: a secret is in %s", where, place)
			}
		}
	}
}

// scenario is one change, from a client or from nothing.
type scenario struct {
	name   string
	method string // of what is done in R-Auth
	fresh  bool   // there is no client yet
	before func(p *plant, id string)
	do     func(p *plant, id string)
	check  func(p *plant, where, id string)
}

var program = map[string]any{"client_name": "billing", "grant_types": []string{"client_credentials"}}

const clientKey = "Idempotency-Key: 1"

// only is the one client that there is.
func (p *plant) only() string {
	p.Helper()
	for id := range p.rauth.Provisioned() {
		return id
	}
	return ""
}

var scenarios = []scenario{
	{"create", http.MethodPost, true, nil, func(p *plant, _ string) {
		p.call("POST", "/v1/clients", program, clientKey)
	}, func(p *plant, where, _ string) {
		// A caller without a response repeats its request.
		p.again("POST", "/v1/clients", program, []string{clientKey}, 201, 202)
		p.settle()
		id := p.only()
		p.agree(where, 1, id, map[string]int{"ClientCreated": 1})
		p.works(where, id)
	}},
	{"update", http.MethodPut, false, nil, func(p *plant, id string) {
		p.call("PUT", "/v1/clients/"+id, renamed, "If-Match: *")
	}, func(p *plant, where, id string) {
		p.settle()
		p.again("PUT", "/v1/clients/"+id, renamed, []string{"If-Match: *"}, 200)
		p.settle()
		if got := p.rauth.Provisioned()[id]["client_name"]; got != "renamed" {
			p.Errorf("%s: it is called %v", where, got)
		}
		p.agree(where, 1, id, map[string]int{"ClientCreated": 1, "ClientUpdated": 1})
	}},
	{"rotate", http.MethodPost, false, nil, func(p *plant, id string) {
		p.call("POST", "/v1/clients/"+id+"/secrets:rotate", nil)
	}, func(p *plant, where, id string) {
		p.settle()
		c := p.again("GET", "/v1/clients/"+id, nil, nil, 200)
		rotated := p.count(`SELECT count(*) FROM outbox WHERE object = $1 AND type = 'ClientSecretRotated.v1'`, id)
		issued := p.count(`SELECT secrets FROM registrations WHERE client_id = $1`, id)
		if rotated != issued-1 || c.text("secret_state") == "unknown" && rotated != 0 {
			p.Errorf("%s: %d rotations are published, %d secrets issued, the state is %s", where, rotated, issued, c.text("secret_state"))
		}
		first := p.rauth.Issued()[0]
		if !slices.Contains(p.rauth.Secrets(id), first) {
			p.Errorf("%s: the secret in use does not work any more", where)
		}
		p.agree(where, 1, id, map[string]int{"ClientCreated": 1, "ClientSecretRotated": issued - 1})
		p.works(where, id)
	}},
	{"delete", http.MethodDelete, false, nil, func(p *plant, id string) {
		p.call("DELETE", "/v1/clients/"+id, nil)
	}, func(p *plant, where, id string) {
		p.again("DELETE", "/v1/clients/"+id, nil, nil, 204, 202, 404)
		p.settle()
		p.again("GET", "/v1/clients/"+id, nil, nil, 404)
		p.agree(where, 0, id, map[string]int{"ClientCreated": 1, "ClientDeleted": 1})
	}},
	{"retire", http.MethodDelete, false, func(p *plant, id string) {
		p.again("POST", "/v1/clients/"+id+"/secrets:rotate", nil, nil, 200)
	}, func(p *plant, _ string) {
		_, err := p.pool.Exec(p.ctx, `UPDATE registrations SET retire_at = now()`)
		p.ok(err)
		// What is committed can be seen before the step after the commit.
		p.until("the loop comes by", func() bool { return p.reached() || p.retiring() == 0 && !p.proxy.Committing() })
	}, func(p *plant, where, id string) {
		p.until(where+": the old secret is ended", func() bool {
			p.hurry()
			return p.retiring() == 0
		})
		p.settle()
		if n := len(p.rauth.Secrets(id)); n != 1 {
			p.Errorf("%s: %d secrets work", where, n)
		}
		p.agree(where, 1, id, map[string]int{"ClientCreated": 1, "ClientSecretRotated": 1, "ClientSecretRetired": 1})
	}},
}

var renamed = map[string]any{"client_name": "renamed", "grant_types": []string{"client_credentials"}}

// works rotates, at once, and tries the secret.
func (p *plant) works(where, id string) {
	p.Helper()
	r := p.again("POST", "/v1/clients/"+id+"/secrets:rotate", map[string]any{"overlap": "0", "retire_old": true}, nil, 200)
	// Where there was no time for it while the caller waited, the loop ends the old one.
	p.until(where+": the secret that was given is the one that works", func() bool {
		return slices.Equal(p.rauth.Secrets(id), []string{r.text("client_secret")})
	})
}

// The process ends, or the network is cut, at each step of each change in turn: after it
// both systems agree, there is one client, each change has one event, and no secret is
// anywhere. The short form kills the process in every other change and cuts the network in the rest, at the last step
// of each kind that every change has; the long one, of "make nightly", does both at every step.
func TestNoStepOfAChangeIsLost(t *testing.T) {
	t.Parallel()
	for i, how := range []string{"killed", "cut"} {
		for j, s := range scenarios {
			if testing.Short() && (i+j)%2 == 1 {
				continue
			}
			t.Run(how+" "+s.name, func(t *testing.T) {
				t.Parallel()
				for k, step := range []struct {
					where string
					least int64 // of these steps a change has
				}{
					{where: "before a commit", least: 2},
					{where: "after a commit", least: 2},
					{where: "before " + s.method + " in R-Auth", least: 1},
					{where: "after " + s.method + " in R-Auth", least: 1},
				} {
					n, last := int64(1), int64(19)
					if testing.Short() { // make test disturbs two kinds of step of each change, once; make nightly every step of each kind
						if (j/2+k)%2 == 1 { // each way meets steps before and after
							continue
						}
						n, last = step.least, step.least
					}
					for n <= last && !t.Failed() && disturbed(t, s, how, step.where, n) {
						n++
					}
					if n <= step.least {
						t.Errorf("%s: disturbed %d times, want %d", step.where, n-1, step.least)
					}
				}
			})
		}
	}
}

// disturbed runs one scenario with one step gone wrong: the n-th of its kind. It reports
// whether there was one.
func disturbed(t *testing.T, s scenario, how, step string, n int64) bool {
	t.Helper()
	p := newPlant(t, func(p *plant) {
		if programPath != "" {
			p.program = filepath.Join(programPath, programName) // it starts once for each step
		}
	})
	defer p.kill()
	id := ""
	if !s.fresh {
		id = p.again("POST", "/v1/clients", program, []string{clientKey}, 201).text("client_id")
	}
	if s.before != nil {
		s.before(p, id)
	}
	p.quiet()
	stop := p.disturb(step, n, func() bool {
		if how == "killed" {
			p.kill()
		}
		return how == "cut"
	})
	s.do(p, id)
	stop()
	if p.reached() && how == "killed" {
		p.start()
	}
	s.check(p, fmt.Sprintf("%s %s, for the %d. time", how, step, n), id)
	return p.reached()
}
