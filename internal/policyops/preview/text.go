package preview

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// says is what a kind means, for people.
var says = map[string]string{
	Breaks: "would have no answer", Gains: "would be let in", Loses: "would not be let in any more", Headers: "would be let in with other headers",
	Status: "would be refused with another status", Mends: "would have an answer again", Reasons: "would be answered the same, for other reasons",
}

// Text writes a report for people.
func (r Report) Text(w io.Writer) {
	fmt.Fprintf(w, "revision %s %s against %s, over the facts of %s\n", r.Candidate, r.Name, r.Against, r.At.Format(time.RFC3339))
	fmt.Fprintf(w, "asked of each user in each tenant, and of each client: %s\n", strings.Join(r.Questions, "; "))
	for _, lacking := range r.Lacking {
		fmt.Fprintf(w, "a question lacks what a policy reads, and is denied by it (request_facts_missing): %s\n", lacking)
	}
	r.Directory.text(w)
	fmt.Fprintln(w, "\nin each tenant, outsiders: an anonymous caller, an unknown user, a user and a client of other tenants:")
	r.Outsiders.text(w)
	if r.Replayed != nil {
		fmt.Fprintln(w, "\nrecorded decisions, asked once more:")
		r.Replayed.text(w)
		if n := r.Replayed.FactsChanged; n > 0 {
			fmt.Fprintf(w, "%d of them rest on facts that have changed since\n", n)
		}
		if n := r.Replayed.NotReplayable; n > 0 {
			fmt.Fprintf(w, "%d could not be asked: what a policy looks at was not recorded: %s\n", n, strings.Join(r.Replayed.Lacking, ", "))
		}
	}
}

func (s Section) text(w io.Writer) {
	fmt.Fprintf(w, "%d questions, %d answers change\n", s.Asked, s.Changed())
	for _, kind := range s.kindsFound() {
		fmt.Fprintf(w, "  %-8s %d %s\n", kind, s.Counts[kind], says[kind])
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
			name := cmp.Or(who.Subject, "nobody")
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
		fmt.Fprintf(w, "%d answers took longer than serve lets them: they may be 503 policy_timeout\n", s.Slow)
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
