package preview

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// meaning describes a kind for people.
var meaning = map[string]string{
	Breaks:  "would fail",
	Gains:   "would be allowed",
	Loses:   "would be denied",
	Headers: "would be allowed with other headers",
	Status:  "would be denied with another status",
	Fixes:   "would no longer fail",
	Reasons: "would be decided equally, for other reasons",
}

// Text writes a report for people.
func (r Report) Text(w io.Writer) {
	fmt.Fprintf(w, "revision %s %s against %s, over the facts of %s\n", r.Candidate, r.Name, r.Against, r.At.Format(time.RFC3339))
	fmt.Fprintf(w, "evaluated for each user in each tenant, and for each client: %s\n", strings.Join(r.Questions, "; "))
	for _, lacking := range r.Lacking {
		fmt.Fprintf(w, "a question lacks a fact that a policy reads, and is denied (request_facts_missing): %s\n", lacking)
	}
	r.Directory.text(w)
	fmt.Fprintln(w, "\nin each tenant, outsiders: an anonymous caller, an unknown user, a user and a client of other tenants:")
	r.Outsiders.text(w)
	if r.Replayed != nil {
		fmt.Fprintln(w, "\nrecorded decisions, evaluated again:")
		r.Replayed.text(w)
		if n := r.Replayed.FactsChanged; n > 0 {
			fmt.Fprintf(w, "%d of them depend on facts that have changed since\n", n)
		}
		if n := r.Replayed.NotReplayable; n > 0 {
			fmt.Fprintf(w, "%d could not be evaluated: input that a policy reads was not recorded: %s\n", n, strings.Join(r.Replayed.Lacking, ", "))
		}
	}
}

func (s Section) text(w io.Writer) {
	fmt.Fprintf(w, "%d evaluations, %d decisions change\n", s.Asked, s.Changed())
	for _, kind := range s.kindsFound() {
		fmt.Fprintf(w, "  %-8s %d %s\n", kind, s.Counts[kind], meaning[kind])
	}
	for _, g := range s.Groups {
		if g.Kind == Reasons {
			continue
		}
		fmt.Fprintf(w, "\n%s: %d", g.Kind, g.Count)
		if g.Question != "" {
			fmt.Fprintf(w, ", %s", g.Question)
		}
		fmt.Fprintf(w, "\n  by %s, before by %s\n", codes(g.After), codes(g.Before))
		if len(g.Headers) > 0 {
			fmt.Fprintf(w, "  headers: %s\n", strings.Join(g.Headers, ", "))
		}
		for _, who := range g.Sample {
			name := cmp.Or(who.Subject, "anonymous")
			if who.Tenant != "" {
				name += " in " + who.Tenant
			}
			if who.Decision != "" {
				name += ", decision " + who.Decision
			}
			fmt.Fprintf(w, "    %s\n", name)
		}
		if more := g.Count - int64(len(g.Sample)); more > 0 {
			fmt.Fprintf(w, "    and %d more (--export FILE has them all)\n", more)
		}
	}
	if s.Slow > 0 {
		fmt.Fprintf(w, "%d evaluations exceeded the limit of serve: they may be 503 policy_timeout\n", s.Slow)
	}
	if s.Left > 0 {
		fmt.Fprintf(w, "%d changes are in no group: there are too many different ones (--export FILE has them all)\n", s.Left)
	}
}

func codes(list []string) string {
	if len(list) == 0 {
		return "no rule"
	}
	return strings.Join(list, ", ")
}
