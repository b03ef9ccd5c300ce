package adminapi

import (
	"context"
	"net/http"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Retention is how long this installation stores what it can be asked for.
type Retention struct {
	Decisions time.Duration // 0: they are not stored
	Events    time.Duration // that were published
}

// overviewBody is the state of the platform.
type overviewBody struct {
	At        time.Time         `json:"at" doc:"when this was read"`
	Policy    overviewPolicy    `json:"policy"`
	Replicas  []overviewReplica `json:"replicas" doc:"those with a heartbeat in the last 30 seconds, by name"`
	Outbox    overviewOutbox    `json:"outbox"`
	Clients   overviewClients   `json:"clients"`
	Retention overviewRetention `json:"retention"`
}

type overviewPolicy struct {
	Revision string     `json:"revision,omitempty" doc:"the active one; absent: this replica has none"`
	Name     string     `json:"name,omitempty" doc:"of the bundle"`
	Since    *time.Time `json:"since,omitempty"`
	Shared   bool       `json:"shared" doc:"all replicas follow the last activation; false: each has a policy of its own, and this is the one of the replica that responds"`
	Kind     string     `json:"kind,omitempty" enum:"source,activate,rollback" doc:"of the activation; source: automatically"`
	By       string     `json:"by,omitempty" doc:"kind and id of who activated it"`
	Reason   string     `json:"reason,omitempty"`
}

type overviewReplica struct {
	Replica  string        `json:"replica"`
	Version  string        `json:"version" doc:"of the program"`
	Revision string        `json:"revision,omitempty" doc:"the active one; absent: none"`
	Since    *time.Time    `json:"since,omitempty"`
	SeenAt   time.Time     `json:"seen_at" doc:"last heartbeat; one follows within 15 seconds"`
	Facts    *replicaFacts `json:"facts,omitempty" doc:"as of seen_at; absent: the replica is of a release that does not report it"`
	Rejected any           `json:"rejected,omitempty" doc:"the candidate that it rejected last, and why"`
}

type replicaFacts struct {
	Fresh       bool     `json:"fresh" doc:"state is fresh"`
	State       string   `json:"state" enum:"fresh,suspect,stale" doc:"fresh and suspect: facts are served from memory, valid until a change is notified; suspect: no heartbeat for 2 s. stale: past the freshness deadline, every decision is 503"`
	AgeSeconds  *float64 `json:"age_seconds,omitempty" doc:"since freshness was last confirmed; absent: it never was"`
	Window      float64  `json:"window_seconds" doc:"of the following figures"`
	Propagation *float64 `json:"propagation_p99_seconds,omitempty" doc:"99th percentile of the delay of a change, as measured by the replica's own heartbeats; absent: there was none"`
	Probes      int      `json:"probes" doc:"heartbeats that were measured"`
	Changes     int      `json:"changes" doc:"change notifications received"`
}

type overviewOutbox struct {
	Pending       int64   `json:"pending" doc:"events that are not published, 100,000 at most"`
	OldestSeconds float64 `json:"oldest_seconds" doc:"age of the oldest of them; 0: there is none"`
	Parked        int64   `json:"parked" doc:"events that the bus rejects; later ones of the same object wait"`
}

type overviewClients struct {
	Pending        int64          `json:"pending" doc:"clients with an operation that the identity provider has not confirmed"`
	OldestSeconds  float64        `json:"oldest_seconds" doc:"how long the oldest of them has waited"`
	Failed         int64          `json:"failed" doc:"clients whose last operation was rejected"`
	SecretsUnknown int64          `json:"secrets_unknown" doc:"clients whose last rotation has an unknown outcome"`
	Drift          *overviewDrift `json:"drift,omitempty" doc:"the last comparison with the identity provider, by any replica; absent: there was none"`
}

type overviewDrift struct {
	ComparedAt  time.Time      `json:"compared_at"`
	Compared    int            `json:"compared" doc:"managed clients that are not deleted"`
	Pending     int            `json:"pending" doc:"not compared"`
	Foreign     int            `json:"foreign" doc:"clients in the identity provider that others manage"`
	Differences int            `json:"differences" doc:"that it found"`
	Kinds       map[string]int `json:"kinds" doc:"differences by kind: missing, changed, not_deleted, orphan, not_ours, unmanaged"`
	Remaining   int            `json:"remaining" doc:"differences that were not repaired"`
	Stopped     bool           `json:"stopped" doc:"nothing was repaired: there were too many differences, or another database writes to the identity provider"`
}

type overviewRetention struct {
	DecisionsSeconds *float64   `json:"decisions_seconds,omitempty" doc:"absent: decisions are not stored"`
	EventsSeconds    float64    `json:"events_seconds" doc:"for which published events can be replayed"`
	AuditSince       *time.Time `json:"audit_since,omitempty" doc:"absent: the audit reaches back to its beginning"`
}

func (a *server) readOverview(ctx context.Context, w *admin.Work, _ *OnPlatform) (*resource[overviewBody], error) {
	o, err := w.Overview(ctx)
	if err != nil {
		return nil, err
	}
	b := overviewBody{
		At:       time.Now().UTC(),
		Policy:   a.overviewPolicy(o),
		Replicas: []overviewReplica{},
		Outbox:   overviewOutbox{o.Outbox.Pending, o.Outbox.Oldest.Seconds(), o.Outbox.Parked},
		Clients: overviewClients{
			Pending:        o.Clients.Pending,
			OldestSeconds:  o.Clients.Oldest.Seconds(),
			Failed:         o.Clients.Failed,
			SecretsUnknown: o.Clients.SecretUnknown,
		},
		Retention: overviewRetention{EventsSeconds: a.Retention.Events.Seconds(), AuditSince: optionalTime(o.AuditSince)},
	}
	if a.Decisions != nil && a.Retention.Decisions > 0 {
		b.Retention.DecisionsSeconds = ptr(a.Retention.Decisions.Seconds())
	}
	for _, r := range o.Replicas {
		b.Replicas = append(b.Replicas, wireOverviewReplica(r))
	}
	if c := o.Comparison; c != nil {
		b.Clients.Drift = &overviewDrift{
			ComparedAt: c.At.UTC(), Compared: c.Compared, Pending: c.Pending, Foreign: c.Others, Kinds: c.Kinds, Remaining: c.Remaining, Stopped: c.Stopped,
		}
		for _, n := range c.Kinds {
			b.Clients.Drift.Differences += n
		}
	}
	return &resource[overviewBody]{Status: http.StatusOK, Body: b}, nil
}

// overviewPolicy is the last activation where replicas follow it, else the policy of this replica, as it has reported it.
func (a *server) overviewPolicy(o admin.Overview) overviewPolicy {
	if last := o.Activation; last != nil && a.Policies.Follows() {
		return overviewPolicy{
			Revision: iam.PolicyID(last.Digest),
			Name:     last.Name,
			Since:    optionalTime(last.At),
			Shared:   true,
			Kind:     last.Kind,
			By:       last.ActorKind + " " + last.Actor,
			Reason:   last.Reason,
		}
	}
	for _, r := range o.Replicas {
		if r.Replica == a.Policies.Replica() && r.InForce != "" {
			return overviewPolicy{Revision: iam.PolicyID(r.InForce), Since: optionalTime(r.Since)}
		}
	}
	return overviewPolicy{}
}

func wireOverviewReplica(r iam.PolicyReplica) overviewReplica {
	b := overviewReplica{Replica: r.Replica, Version: r.Version, SeenAt: r.SeenAt.UTC()}
	if r.InForce != "" {
		b.Revision, b.Since = iam.PolicyID(r.InForce), optionalTime(r.Since)
	}
	if len(r.Refused) > 0 {
		b.Rejected = r.Refused
	}
	if f := r.Facts; f != nil {
		b.Facts = &replicaFacts{
			Fresh: f.State == "fresh", State: f.State, AgeSeconds: f.Age, Window: f.Window, Propagation: f.Propagation99, Probes: f.Probes, Changes: f.Changes,
		}
	}
	return b
}
