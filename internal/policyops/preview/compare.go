package preview

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// comparer decides requests under two revisions, and reports how the decisions differ.
type comparer struct {
	enricher *enrich.Service
	headers  []string
	skip     []bool // parallel to headers: those that always differ
}

func newComparer(e *enrich.Service, headers []string) comparer {
	c := comparer{enricher: e, headers: headers}
	for _, h := range headers {
		c.skip = append(c.skip, h == "X-Decision-Id" || h == "X-Policy-Revision")
	}
	return c
}

// comparison is one request to decide under two revisions.
type comparison struct {
	base, candidate *policy.Revision
	token           *token.Token       // nil: an anonymous caller
	claims          [2]*policy.Token   // what base and candidate see of the token; nil: it is found out
	user            directory.Prepared // the caller's own document, where it was read already
	request         enrich.Request
	now             time.Time // input.now
}

// compare decides under both revisions over the same documents, which it returns. A change without a kind is
// no change.
func (c comparer) compare(ctx context.Context, x comparison) (Change, *directory.View, error) {
	deadline := time.Now().Add(evalLimit)
	q := enrich.Question{
		Revision: x.base, Token: x.token, Claims: x.claims[0], Request: x.request, Facts: c.enricher.View(x.token, deadline), Now: x.now,
	}
	q.Facts.Pin(x.user)
	before, err := c.outcome(ctx, q, deadline)
	if err != nil {
		return Change{}, nil, err
	}
	q.Revision, q.Claims = x.candidate, x.claims[1]
	after, err := c.outcome(ctx, q, deadline)
	if err != nil {
		return Change{}, nil, err
	}
	return c.difference(before, after), q.Facts, nil
}

// outcome decides under one revision. A policy that fails is an outcome; facts that cannot be read are an
// error.
func (c comparer) outcome(ctx context.Context, q enrich.Question, deadline time.Time) (Outcome, error) {
	o, err := c.enricher.Ask(ctx, q, deadline)
	if err != nil {
		known, ours := errors.AsType[*iam.Error](err)
		if !ours || ctx.Err() != nil || strings.HasPrefix(known.Code, "facts_") {
			return Outcome{}, err
		}
		out := Outcome{Status: 503, Error: known.Code, Codes: []string{known.Code}}
		switch known.Kind {
		case iam.Unauthenticated:
			out.Status, out.Error = 401, ""
		case iam.Forbidden:
			out.Status, out.Error = 403, ""
		default:
		}
		return out, nil
	}
	out := Outcome{Allow: o.Response.Allowed, Status: o.Response.Status, Codes: []string{}, values: o.Response.Values, took: o.Decision.Took}
	if out.Allow {
		out.Status = 200
	}
	for _, reason := range o.Decision.Reasons {
		out.Codes = append(out.Codes, reason.Code)
	}
	slices.Sort(out.Codes)
	return out, nil
}

func (c comparer) difference(before, after Outcome) Change {
	x := Change{Before: before, After: after}
	switch {
	case after.Error != "" && before.Error == "":
		x.Kind = Breaks
	case after.Error == "" && before.Error != "":
		x.Kind = Fixes
	case after.Allow && !before.Allow:
		x.Kind = Gains
	case !after.Allow && before.Allow:
		x.Kind = Loses
	case after.Status != before.Status:
		x.Kind = Status
	}
	if before.Allow && after.Allow {
		for i, name := range c.headers {
			if !c.skip[i] && before.values[i] != after.values[i] {
				x.Headers = append(x.Headers, Header{name, before.values[i], after.values[i]})
			}
		}
		if len(x.Headers) > 0 {
			x.Kind = Headers
		}
	}
	if x.Kind == "" && !slices.Equal(before.Codes, after.Codes) {
		x.Kind = Reasons
	}
	return x
}
