package preview

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policyops/explain"
)

// replay evaluates recorded decisions again.
func (r *run) replay(ctx context.Context) error {
	return r.Replay(ctx, func(d iam.RecordedDecision) error {
		q, err := explain.FromRecord(d)
		var lacking []string
		if err == nil {
			lacking = append(explain.Unknown(r.Base, q), explain.Unknown(r.Candidate, q)...)
		}
		if err != nil || len(lacking) > 0 {
			s := &r.sections[ofRecords]
			s.NotReplayable++
			slices.Sort(lacking)
			for _, ref := range slices.Compact(lacking) {
				if at, known := slices.BinarySearch(s.Lacking, ref); !known {
					s.Lacking = slices.Insert(s.Lacking, at, ref)
				}
			}
			return nil
		}
		c, facts, err := r.both.compare(ctx, comparison{
			base:      r.Base,
			candidate: r.Candidate,
			token:     q.Token,
			request:   enrich.Request{TenantHint: q.Tenant, Facts: q.Request},
			now:       q.Now,
		})
		if err != nil {
			return err
		}
		if c.Facts, err = explain.Changed(ctx, q.Recorded.Facts, facts); err != nil {
			return err
		}
		c.Decision, c.Issuer, c.Subject, c.ClientID, c.Tenant = d.ID, d.Issuer, d.Subject, d.ClientID, d.Tenant
		return r.count(ofRecords, c)
	})
}

// Recorded finds recorded decisions.
type Recorded interface {
	Find(ctx context.Context, f iam.DecisionFilter) ([]iam.RecordedDecision, error)
}

// Since iterates over the decisions that were recorded since a time, the newest first, in
// pages; 100,000 at most.
func Since(recorded Recorded, from time.Time) func(context.Context, func(iam.RecordedDecision) error) error {
	return func(ctx context.Context, each func(iam.RecordedDecision) error) error {
		f := iam.DecisionFilter{From: from, Limit: pageSize}
		for range replayMost / pageSize {
			page, err := recorded.Find(ctx, f)
			if err != nil {
				return err
			}
			for _, d := range page {
				if err := each(d); err != nil {
					return err
				}
				f.Before, f.BeforeID = d.At, d.ID
			}
			if len(page) < pageSize {
				return nil
			}
		}
		return nil
	}
}
