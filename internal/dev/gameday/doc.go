// Package gameday rehearses outages. Three replicas of the program, as processes of their own behind HAProxy, serve a steady
// rate of requests while a dependency fails and returns. Each game day is a row of the table in days_test.go: what fails, what
// callers see by second, and which alerts fire. After each of them no role was used after its removal, no acknowledged write
// and no event is lost, and callers are served again within ten seconds, without a restart.
//
//	setup ─▶ all is well ─▶ outage ─turns─▶ late in the outage ─▶ return ─ 10 s at most ─▶ all is well ─▶ checks, alerts, page
//
// It owns the outages, the record of responses, and docs/gamedays.md, which the long form writes. It does not know how the
// program survives: it sees responses, metrics, tables and events. Rules are evaluated by .ci/alerts, with Prometheus's engine.
package gameday
