package main

// query is one line, or one set of lines, of a graph.
type query struct{ expr, legend string }

// graph is one panel, as it is written below.
type graph struct {
	title, says string // says: what a reader concludes
	unit        string // of Grafana
	queries     []query
	stat        bool    // one number
	stacked     bool    // lines that add up
	exemplars   bool    // it leads to traces
	limit       float64 // beyond it something is wrong; 0: none
}

// section is a row of panels.
type section struct {
	title  string
	graphs []graph
}

const (
	enrich = `handler="/system/enrich-token",instance=~"$instance"`
	here   = `instance=~"$instance"`
)

func quantile(q, metric, labels string) string {
	return `histogram_quantile(` + q + `, sum by (le) (rate(` + metric + `_bucket{` + labels + `}[$__rate_interval])))`
}

var sections = []section{
	{"Golden signals", []graph{
		{title: "Requests", says: "Enrichments a second, by status. A drop to zero is trouble of the gateway or of the provider.", unit: "reqps", stacked: true, queries: []query{
			{`sum by (code) (rate(http_requests_total{` + enrich + `}[$__rate_interval]))`, "{{code}}"},
		}},
		{title: "Failed closed", says: "Share of enrichments that are 5xx: neither allowed nor denied. The SLO is 99.9 %.", unit: "percentunit", limit: .001, queries: []query{
			{`sum(rate(http_requests_total{` + enrich + `,code=~"5.."}[$__rate_interval])) / sum(rate(http_requests_total{` + enrich + `}[$__rate_interval]))`, "5xx"},
		}},
		{title: "Latency", says: "Time of an enrichment within the service. Points are traces, where tracing is on.", unit: "s", exemplars: true, limit: .05, queries: []query{
			{quantile("0.5", "http_request_duration_seconds", enrich), "p50"},
			{quantile("0.95", "http_request_duration_seconds", enrich), "p95"},
			{quantile("0.99", "http_request_duration_seconds", enrich), "p99"},
		}},
		{title: "Decisions", says: "Decisions a second by outcome and code. A jump of one code after an activation is the policy.", unit: "ops", stacked: true, queries: []query{
			{`sum by (outcome, code) (rate(iam_decisions_total{` + here + `}[$__rate_interval]))`, "{{outcome}} {{code}}"},
		}},
		{title: "CPU", says: "Cores that each replica uses.", unit: "none", queries: []query{
			{`rate(process_cpu_seconds_total{` + here + `}[$__rate_interval])`, "{{instance}}"},
		}},
		{title: "Memory", says: "Resident memory, and what the garbage collector counts. It follows MEMORY_AIM.", unit: "bytes", queries: []query{
			{`process_resident_memory_bytes{` + here + `}`, "{{instance}} resident"},
			{`go_memstats_heap_inuse_bytes{` + here + `}`, "{{instance}} heap"},
		}},
		{title: "Goroutines", says: "A line that only grows is a leak.", unit: "short", queries: []query{
			{`go_goroutines{` + here + `}`, "{{instance}}"},
		}},
		{title: "Rejected tokens", says: "Tokens that were rejected, by reason. key and signature at once for all callers: a rotation that did not arrive.", unit: "ops", stacked: true, queries: []query{
			{`sum by (reason) (rate(iam_tokens_rejected_total{` + here + `}[$__rate_interval]))`, "{{reason}}"},
		}},
	}},
	{"Gateways", []graph{
		{title: "By gateway", says: "Enrichments a second by gateway profile.", unit: "reqps", stacked: true, queries: []query{
			{`sum by (gateway) (rate(http_requests_total{` + enrich + `}[$__rate_interval]))`, "{{gateway}}"},
		}},
		{title: "Denied, by gateway", says: "Share of 401 and 403. One gateway alone at 1: it sends no facts, or no secret.", unit: "percentunit", queries: []query{
			{`sum by (gateway) (rate(http_requests_total{` + enrich + `,code=~"40[13]"}[$__rate_interval])) / sum by (gateway) (rate(http_requests_total{` + enrich + `}[$__rate_interval]))`, "{{gateway}}"},
		}},
		{title: "Facts missing, no secret", says: "Requests whose gateway does not send what the policy reads, or GATEWAY_SECRET.", unit: "ops", queries: []query{
			{`sum(rate(iam_decisions_total{code="request_facts_missing",` + here + `}[$__rate_interval]))`, "facts missing"},
			{`sum(rate(iam_gateway_unauthenticated_total{` + here + `}[$__rate_interval]))`, "not authenticated"},
		}},
		{title: "Signed identities", says: "Assertions that were signed, and those that could not be.", unit: "ops", queries: []query{
			{`sum(rate(iam_assertions_signed_total{` + here + `}[$__rate_interval]))`, "signed"},
			{`sum(rate(iam_assertion_failures_total{` + here + `}[$__rate_interval]))`, "failed"},
		}},
		{title: "Key of identities", says: "Time until the last key of signed identities is used up. It is rotated long before.", unit: "s", queries: []query{
			{`min(iam_assertion_key_remaining_seconds{` + here + `})`, "remaining"},
		}},
	}},
	{"Caches", []graph{
		{title: "Hit rate", says: "Share of look-ups that a cache answers. Low for decisions: the policy reads something that differs between requests.", unit: "percentunit", queries: []query{
			{`sum by (cache) (rate(iam_cache_hits_total{` + here + `}[$__rate_interval])) / (sum by (cache) (rate(iam_cache_hits_total{` + here + `}[$__rate_interval])) + sum by (cache) (rate(iam_cache_misses_total{` + here + `}[$__rate_interval])))`, "{{cache}}"},
		}},
		{title: "Evictions", says: "Entries that had to leave for others: raise the …_ENTRIES of that cache, or MEMORY_AIM.", unit: "ops", queries: []query{
			{`sum by (cache) (rate(iam_cache_evictions_total{` + here + `}[$__rate_interval]))`, "{{cache}}"},
		}},
		{title: "Size", says: "Estimated bytes of all caches together, by cache.", unit: "bytes", stacked: true, queries: []query{
			{`sum by (cache) (iam_cache_bytes{` + here + `})`, "{{cache}}"},
		}},
		{title: "Entries", says: "Entries of all replicas together.", unit: "short", queries: []query{
			{`sum by (cache) (iam_cache_entries{` + here + `})`, "{{cache}}"},
		}},
		{title: "Outdated decisions", says: "Cached decisions that were found invalid, by cause.", unit: "ops", stacked: true, queries: []query{
			{`sum by (cause) (rate(iam_decisions_outdated_total{` + here + `}[$__rate_interval]))`, "{{cause}}"},
		}},
		{title: "Evaluation", says: "Time of a policy evaluation, without waiting for facts.", unit: "s", queries: []query{
			{quantile("0.5", "iam_policy_evaluation_seconds", here), "p50"},
			{quantile("0.99", "iam_policy_evaluation_seconds", here), "p99"},
		}},
	}},
	{"Freshness", []graph{
		{title: "Age of facts", says: "Time since freshness was last confirmed. At MAX_STALENESS (10 s) a replica fails closed.", unit: "s", limit: 10, queries: []query{
			{`max by (instance) (iam_facts_age_seconds{` + here + `})`, "{{instance}}"},
		}},
		{title: "Propagation", says: "Delay of change notifications. The promise is 1 s at p99.", unit: "s", limit: 1, queries: []query{
			{quantile("0.5", "iam_feed_delay_seconds", here), "p50"},
			{quantile("0.99", "iam_feed_delay_seconds", here), "p99"},
		}},
		{title: "Stale replicas", says: "Replicas that are suspect or stale.", unit: "short", queries: []query{
			{`sum(iam_feed_state{state="suspect",` + here + `})`, "suspect"},
			{`sum(iam_feed_state{state="stale",` + here + `})`, "stale"},
		}},
		{title: "Invalidations", says: "Documents that changes have invalidated. everything: a reconnect, or a purge.", unit: "ops", stacked: true, queries: []query{
			{`sum by (cause) (rate(iam_facts_invalidations_total{` + here + `}[$__rate_interval]))`, "{{cause}}"},
		}},
		{title: "Loads", says: "Look-ups in the database, and those that failed.", unit: "ops", queries: []query{
			{`sum(rate(iam_facts_loads_total{` + here + `}[$__rate_interval]))`, "loads"},
			{`sum(rate(iam_facts_load_failures_total{` + here + `}[$__rate_interval]))`, "failed"},
		}},
		{title: "Change feed", says: "Notifications and heartbeats a second, and reconnects, each of which clears the caches.", unit: "ops", queries: []query{
			{`sum(rate(iam_feed_notifications_total{` + here + `}[$__rate_interval]))`, "notifications"},
			{`sum(rate(iam_feed_beats_total{` + here + `}[$__rate_interval]))`, "heartbeats"},
			{`sum(rate(iam_feed_sessions_total{` + here + `}[$__rate_interval]))`, "reconnects"},
		}},
		{title: "Notification queue", says: "How full PostgreSQL's queue of notifications is. A transaction that never ends fills it.", unit: "percentunit", limit: .5, queries: []query{
			{`max(iam_feed_queue_usage{` + here + `})`, "used"},
		}},
	}},
	{"Dependencies", []graph{
		{title: "Database errors", says: "Failures of PostgreSQL by reason.", unit: "ops", stacked: true, queries: []query{
			{`sum by (reason) (rate(database_errors_total{` + here + `}[$__rate_interval]))`, "{{reason}}"},
		}},
		{title: "Connections in use", says: "Share of each pool. At 1, look-ups wait.", unit: "percentunit", limit: .9, queries: []query{
			{`max by (pool) (iam_db_pool_in_use{` + here + `} / iam_db_pool_max{` + here + `})`, "{{pool}}"},
		}},
		{title: "Open connections", says: "Connections of all replicas together, by pool.", unit: "short", stacked: true, queries: []query{
			{`sum by (pool) (iam_db_pool_connections{` + here + `})`, "{{pool}}"},
		}},
		{title: "Waits for a connection", says: "Times that no connection was free.", unit: "ops", queries: []query{
			{`sum by (pool) (rate(iam_db_pool_waits_total{` + here + `}[$__rate_interval]))`, "{{pool}}"},
		}},
		{title: "Identity provider errors", says: "Failed calls by operation and reason.", unit: "ops", stacked: true, queries: []query{
			{`sum by (operation, reason) (rate(idp_adapter_errors_total{` + here + `}[$__rate_interval])) > 0`, "{{operation}} {{reason}}"},
		}},
		{title: "Age of keys", says: "Time since each issuer's keys were fetched: every five minutes. At JWKS_MAX_AGE they are not used any more.", unit: "s", queries: []query{
			{`max by (issuer) (iam_issuer_keys_age_seconds{` + here + `})`, "{{issuer}}"},
		}},
	}},
	{"Policy", []graph{
		{title: "Active since", says: "When each replica's policy became active. They agree within a second, unless a roll-out is under way.", unit: "dateTimeFromNow", stat: true, queries: []query{
			{`1000 * max by (instance) (iam_policy_in_force_timestamp_seconds{` + here + `})`, "{{instance}}"},
		}},
		{title: "Candidates", says: "Policies that the gate accepted or rejected.", unit: "short", queries: []query{
			{`sum by (result) (increase(iam_policy_candidates_total{` + here + `}[$__rate_interval]))`, "{{result}}"},
		}},
		{title: "Broken policy", says: "Requests that failed closed because the policy was broken or too slow. Roll back.", unit: "ops", queries: []query{
			{`sum(rate(iam_decisions_total{code="policy_error",` + here + `}[$__rate_interval]))`, "error"},
			{`sum(rate(iam_decisions_total{code="policy_timeout",` + here + `}[$__rate_interval]))`, "timeout"},
		}},
		{title: "Replicas by engine", says: "What evaluates the active policy: the machine, or OPA's interpreter (topdown), at several times the cost.", unit: "short", queries: []query{
			{`sum(iam_policy_engine_machine{` + here + `})`, "machine"},
			{`count(iam_policy_engine_machine{` + here + `}) - sum(iam_policy_engine_machine{` + here + `})`, "topdown"},
		}},
		{title: "Left to topdown", says: "Evaluations that the machine left to topdown, and those in which they differed: each switches the machine off.", unit: "ops", queries: []query{
			{`sum(rate(iam_policy_left_to_topdown_total{` + here + `}[$__rate_interval]))`, "left"},
			{`sum(rate(iam_policy_engine_mismatches_total{` + here + `}[$__rate_interval]))`, "differed"},
		}},
		{title: "Shadow", says: "Evaluations of the shadow policy, those that differ, and those that were dropped.", unit: "ops", queries: []query{
			{`sum(rate(iam_policy_shadow_evaluations_total{` + here + `}[$__rate_interval]))`, "evaluations"},
			{`sum(rate(iam_policy_shadow_differences_total{` + here + `}[$__rate_interval]))`, "differences"},
			{`sum(rate(iam_policy_shadow_dropped_total{` + here + `}[$__rate_interval]))`, "dropped"},
		}},
	}},
	{"Signals", []graph{
		{title: "Accepted signals", says: "Security event tokens of providers by what they have led to, where SIGNALS_FILE is set.", unit: "short", stacked: true, queries: []query{
			{`sum by (outcome) (increase(iam_signals_accepted_total{` + here + `}[$__rate_interval])) > 0`, "{{outcome}}"},
		}},
		{title: "Rejected signals", says: "Those that were rejected: what the provider revokes has no effect.", unit: "short", stacked: true, queries: []query{
			{`sum by (stream, reason) (increase(iam_signals_rejected_total{` + here + `}[$__rate_interval])) > 0`, "{{stream}} {{reason}}"},
		}},
		{title: "Silence", says: "Time since the last signal of each stream that is silent for longer than its silent_after.", unit: "s", queries: []query{
			{`(time() - max by (stream) (iam_signals_last_accepted_timestamp_seconds{` + here + `})) and max by (stream) (iam_signals_silent{` + here + `}) > 0`, "{{stream}}"},
		}},
	}},
	{"Roles and AuthZEN", []graph{
		{title: "Requests for roles", says: "What members ask for, what administrators decide, and break-glass grants.", unit: "short", stacked: true, queries: []query{
			{`sum by (event) (increase(iam_role_requests_total{` + here + `}[$__rate_interval]))`, "{{event}}"},
		}},
		{title: "Overdue ends of roles", says: "Roles that have ended and are not removed yet. They are not in force; the loop that removes them is stuck.", unit: "short", queries: []query{
			{`min(iam_role_ends_overdue{` + here + `})`, "overdue"},
		}},
		{title: "AuthZEN decisions", says: "Evaluations of the AuthZEN API, by outcome.", unit: "ops", stacked: true, queries: []query{
			{`sum by (outcome) (rate(iam_authzen_decisions_total{` + here + `}[$__rate_interval]))`, "{{outcome}}"},
		}},
	}},
	{"Clients", []graph{
		{title: "Pending", says: "Changes of clients that R-Auth has not confirmed, and those that it rejected.", unit: "short", queries: []query{
			{`max(iam_clients_pending{` + here + `})`, "pending"},
			{`max(iam_clients_failed{` + here + `})`, "failed"},
			{`max(iam_client_secrets_unknown{` + here + `})`, "secret unknown: rotate"},
		}},
		{title: "Oldest pending", says: "Age of the oldest change that waits for R-Auth.", unit: "s", limit: 300, queries: []query{
			{`max(iam_clients_pending_oldest_seconds{` + here + `})`, "oldest"},
		}},
		{title: "Drift", says: "Clients that differ between the database and R-Auth, by kind.", unit: "short", queries: []query{
			{`max by (kind) (iam_client_drift{` + here + `})`, "{{kind}}"},
		}},
		{title: "Repairs", says: "Repairs in R-Auth. stopped: too many at once, an operator must confirm.", unit: "short", queries: []query{
			{`sum by (outcome) (increase(iam_client_repairs_total{` + here + `}[$__rate_interval]))`, "{{outcome}}"},
		}},
	}},
	{"Events and logs", []graph{
		{title: "Outbox", says: "Events that wait. Growing: NATS is away, or the relay is stuck.", unit: "short", queries: []query{
			{`max(outbox_pending_count{` + here + `})`, "pending"},
			{`max(iam_outbox_parked{` + here + `})`, "parked: events skip or retry"},
		}},
		{title: "Oldest event", says: "Age of the oldest event that waits.", unit: "s", limit: 60, queries: []query{
			{`max(outbox_oldest_seconds{` + here + `})`, "oldest"},
		}},
		{title: "Bus errors", says: "Failures of NATS by reason; a stream that is another one than before; events that were deleted unpublished.", unit: "short", queries: []query{
			{`sum by (reason) (increase(event_bus_errors_total{` + here + `}[$__rate_interval]))`, "{{reason}}"},
			{`max(iam_event_stream_recreated{` + here + `})`, "stream recreated"},
			{`sum(increase(iam_outbox_expired_total{` + here + `}[$__rate_interval]))`, "expired"},
		}},
		{title: "Lost lines", says: "Log lines and recorded decisions that were dropped, and panics. All must be zero.", unit: "short", queries: []query{
			{`sum(increase(iam_log_dropped_total{` + here + `}[$__rate_interval]))`, "log"},
			{`sum by (sink) (increase(iam_decision_log_dropped_total{` + here + `}[$__rate_interval]))`, "decisions {{sink}}"},
			{`sum by (where) (increase(iam_panics_total{` + here + `}[$__rate_interval]))`, "panics {{where}}"},
		}},
		{title: "Audit without a partition", says: "Entries in the default partition. They are moved within an hour.", unit: "short", queries: []query{
			{`max(iam_audit_default_rows{` + here + `})`, "entries"},
		}},
		{title: "Versions", says: "Replicas by version. Two, only during a roll-out.", unit: "short", queries: []query{
			{`count by (version) (iam_build_info{` + here + `})`, "{{version}}"},
		}},
	}},
}
