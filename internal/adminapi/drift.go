package adminapi

import (
	"context"
	"time"

	"iam-service/internal/clients"
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
	ClientID string        `json:"client_id"`
	Tenant   string        `json:"tenant,omitempty"`
	Kind     string        `json:"kind" enum:"missing,changed,not_deleted,orphan,not_ours,unmanaged"`
	Fields   []string      `json:"fields" doc:"that differ, by the names of RFC 7591; of unmanaged: those set in the identity provider"`
	Values   []fieldValues `json:"values" doc:"of fields that are managed here, by the names of RFC 7591, and of unmanaged ones the names alone: their values may be secrets"`

	Winner string `json:"winner" enum:"iam-service,nobody" doc:"whose state is applied once two comparisons have found the difference; nobody: an operator must decide"`
	Why    string `json:"why"`
}

// fieldValues are the three states of a field.
type fieldValues struct {
	Field     string   `json:"field"`
	Desired   []string `json:"desired,omitzero" doc:"here, as a set; of keys their kid and thumbprint (RFC 7638)"`
	Confirmed []string `json:"confirmed,omitzero" doc:"what the identity provider confirmed last; absent: not known"`
	Provider  []string `json:"provider,omitzero" doc:"in the identity provider now"`
	Winner    string   `json:"winner" enum:"iam-service,nobody" doc:"as of the difference"`
}

func wireValues(d clients.Difference, winner string) []fieldValues {
	values := []fieldValues{}
	for _, v := range d.Values {
		values = append(values, fieldValues{v.Field, v.Desired, v.Confirmed, v.Provider, winner})
	}
	if d.Kind == clients.DriftUnmanaged {
		for _, field := range sorted(d.Fields) {
			values = append(values, fieldValues{Field: field, Winner: winner})
		}
	}
	return values
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
		x.Values = wireValues(d, x.Winner)
		b.Differences = append(b.Differences, x)
	}
	return &resource[driftBody]{Status: 200, Body: b}, nil
}

// driftLimit is the timeout of a comparison.
const driftLimit = 60 * time.Second
