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

// comparer asks two revisions the same, and says how their answers differ.
type comparer struct {
	enricher *enrich.Service
	headers  []string
	skip     []bool // parallel to headers: those that differ by themselves
}

func newComparer(e *enrich.Service, headers []string) comparer {
	c := comparer{enricher: e, headers: headers}
	for _, h := range headers {
		c.skip = append(c.skip, h == "X-Decision-Id" || h == "X-Policy-Revision")
	}
	return c
}

// ask asks both, over the same documents, which it returns too. A change of no kind is
// none.
func (c comparer) ask(ctx context.Context, base, candidate *policy.Revision, t *token.Token, q enrich.Request, now time.Time) (Change, *directory.View, error) {
	deadline := time.Now().Add(evalLimit)
	facts := c.enricher.View(t, deadline)
	before, err := c.outcome(ctx, base, t, q, facts, now, deadline)
	if err != nil {
		return Change{}, nil, err
	}
	after, err := c.outcome(ctx, candidate, t, q, facts, now, deadline)
	if err != nil {
		return Change{}, nil, err
	}
	return c.compare(before, after), facts, nil
}

// outcome asks one. What is no answer of the policy's is an outcome; that the facts cannot
// be read is an error.
func (c comparer) outcome(ctx context.Context, r *policy.Revision, t *token.Token, q enrich.Request, facts *directory.View, now, deadline time.Time) (Outcome, error) {
	o, err := c.enricher.Ask(ctx, enrich.Question{Revision: r, Token: t, Request: q, Facts: facts, Now: now}, deadline)
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

func (c comparer) compare(before, after Outcome) Change {
	x := Change{Before: before, After: after}
	switch {
	case after.Error != "" && before.Error == "":
		x.Kind = Breaks
	case after.Error == "" && before.Error != "":
		x.Kind = Mends
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
