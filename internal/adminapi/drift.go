package adminapi

import (
	"context"
	"time"
)

// driftBody is a comparison of all clients with the identity provider.
type driftBody struct {
	ComparedAt  time.Time        `json:"compared_at"`
	Compared    int              `json:"compared" doc:"managed clients that are not deleted"`
	Pending     int              `json:"pending" doc:"not compared: the identity provider has not confirmed the last change"`
	Foreign     int              `json:"foreign" doc:"clients in the identity provider that others manage; they are never changed"`
	Differences []differenceBody `json:"differences"`
}

type differenceBody struct {
	ClientID string   `json:"client_id"`
	Tenant   string   `json:"tenant,omitempty"`
	Kind     string   `json:"kind" enum:"missing,changed,not_deleted,orphan,not_ours,unmanaged"`
	Fields   []string `json:"fields" doc:"that differ, by the names of RFC 7591; of unmanaged: those set in the identity provider"`
	Winner   string   `json:"winner" enum:"iam-service,nobody" doc:"whose state is applied once two comparisons have found the difference; nobody: an operator must decide"`
	Why      string   `json:"why"`
}

func (a *server) readDrift(ctx context.Context, c call, _ *OnPlatform) (*resource[driftBody], error) {
	// In a transaction of its own: the comparison takes long.
	if err := a.Service.Authorize(ctx, c.caller, c.task); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, driftLimit)
	defer cancel()
	report, err := a.Clients.Compare(ctx)
	if err != nil {
		return nil, err
	}
	b := driftBody{
		ComparedAt:  report.At.UTC(),
		Compared:    report.Compared,
		Pending:     report.Pending,
		Foreign:     report.Foreign,
		Differences: []differenceBody{},
	}
	for _, d := range report.Differences {
		x := differenceBody{
			ClientID: d.Client,
			Tenant:   d.Tenant,
			Kind:     d.Kind,
			Fields:   sorted(d.Fields),
			Winner:   "iam-service",
			Why:      d.Why,
		}
		if d.Repair == "" {
			x.Winner = "nobody"
		}
		b.Differences = append(b.Differences, x)
	}
	return &resource[driftBody]{Status: 200, Body: b}, nil
}

// driftLimit is the timeout of a comparison.
const driftLimit = 60 * time.Second
