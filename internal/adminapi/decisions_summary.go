package adminapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

const (
	maxBuckets     = 200
	defaultBuckets = 60 // at most so many where no step is asked for
)

// summarySteps are the steps that are chosen where none is asked for.
var summarySteps = []time.Duration{
	time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// summaryBody is the number of decisions over time.
type summaryBody struct {
	From        time.Time        `json:"from" doc:"beginning of the first step: a multiple of step_seconds since 1970 (UTC)"`
	To          time.Time        `json:"to"`
	StepSeconds int64            `json:"step_seconds"`
	Buckets     []decisionBucket `json:"buckets" doc:"one for each step, also where there were no decisions"`
}

type decisionBucket struct {
	At      time.Time        `json:"at" doc:"beginning of the step"`
	Allowed int64            `json:"allowed"`
	Denied  int64            `json:"denied"`
	Codes   map[string]int64 `json:"codes" doc:"denials by the code of a reason; one with several codes counts for each"`
}

type summaryIn struct {
	OnDecisions
	From time.Time `query:"from" doc:"not earlier than this (RFC 3339), rounded down to a step; absent: an hour before to"`
	To   time.Time `query:"to" doc:"earlier than this; absent: now"`
	Step int64     `query:"step" minimum:"1" maximum:"604800" doc:"seconds of a bucket; absent: a minute, or longer so that there are about 60"`
}

// count is what is counted, by the parameters.
func (i *summaryIn) count(now time.Time) (q postgres.CountDecisions, err error) {
	q = postgres.CountDecisions{Tenant: i.Tenant, From: i.From.UTC(), To: i.To.UTC(), Step: time.Duration(i.Step) * time.Second}
	if i.To.IsZero() {
		q.To = now.UTC()
	}
	if i.From.IsZero() {
		q.From = q.To.Add(-time.Hour)
	}
	var invalid []iam.FieldError
	if !isText(q.Tenant) {
		invalid = append(invalid, iam.FieldError{Pointer: "tenant", Detail: "must be UTF-8 without a NUL"})
	}
	for name, at := range map[string]time.Time{"from": q.From, "to": q.To} {
		if at.Year() < 2000 || at.Year() > 9999 {
			invalid = append(invalid, iam.FieldError{Pointer: name, Detail: "must be a moment of the years 2000 to 9999"})
		}
	}
	if len(invalid) == 0 && !q.From.Before(q.To) {
		invalid = append(invalid, iam.FieldError{Pointer: "from", Detail: "must be earlier than to"})
	}
	if err := iam.InvalidFields(invalid); err != nil {
		return q, err
	}
	if q.Step == 0 {
		for _, step := range summarySteps {
			q.Step = step
			if q.To.Sub(q.From) <= step*defaultBuckets {
				break
			}
		}
	}
	q.From = time.Unix(q.From.Unix()-q.From.Unix()%int64(q.Step/time.Second), 0).UTC()
	if n := buckets(q); n > maxBuckets {
		return q, iam.InvalidFields([]iam.FieldError{{Pointer: "step", Detail: fmt.Sprintf(
			"there would be %d buckets, and at most %d are counted: use a longer step or a shorter time", n, maxBuckets)}})
	}
	return q, nil
}

// buckets is how many steps there are; the last one may be shorter.
func buckets(q postgres.CountDecisions) int64 {
	n := int64(q.To.Sub(q.From) / q.Step)
	if q.From.Add(time.Duration(n) * q.Step).Before(q.To) {
		n++
	}
	return n
}

func (a *server) summarizeDecisions(ctx context.Context, c call, in *summaryIn) (*resource[summaryBody], error) {
	// Those who are authorized for a tenant alone have named it, and count all of its decisions: a count names no subject.
	if _, err := a.visible(ctx, c); err != nil {
		return nil, err
	}
	if err := a.requireDecisionLog(); err != nil {
		return nil, err
	}
	q, err := in.count(time.Now())
	if err != nil {
		return nil, err
	}
	counts, err := a.Decisions.Count(ctx, q)
	if err != nil {
		return nil, err
	}
	b := summaryBody{From: q.From, To: q.To, StepSeconds: int64(q.Step / time.Second), Buckets: make([]decisionBucket, buckets(q))}
	for i := range b.Buckets {
		b.Buckets[i] = decisionBucket{At: q.From.Add(time.Duration(i) * q.Step), Codes: map[string]int64{}}
	}
	for _, n := range counts {
		bucket := &b.Buckets[n.At.Sub(q.From)/q.Step]
		if n.Allow {
			bucket.Allowed += n.Count
			continue
		}
		bucket.Denied += n.Count
		for _, code := range n.Codes {
			bucket.Codes[code] += n.Count
		}
	}
	return &resource[summaryBody]{Status: http.StatusOK, Body: b}, nil
}
