package preview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kinds of changes, the weightiest first.
const (
	Breaks  = "breaks"  // the candidate gives no answer, or one that is no good
	Gains   = "gains"   // is let in, and was not
	Loses   = "loses"   // is not let in, and was
	Headers = "headers" // is let in with other headers
	Status  = "status"  // is refused with another status
	Mends   = "mends"   // there is an answer, and there was none
	Reasons = "reasons" // only the reasons differ; no response changes
)

// Kinds lists them.
var Kinds = []string{Breaks, Gains, Loses, Headers, Status, Mends, Reasons}

// Outcome is one answer, as far as it is compared.
type Outcome struct {
	Allow  bool     `json:"allow"`
	Status int      `json:"status"`
	Error  string   `json:"error,omitempty"` // code of what is no answer
	Codes  []string `json:"codes"`
	values []string // of the headers
	took   time.Duration
}

// Change is one question that would be answered otherwise.
type Change struct {
	Kind     string   `json:"kind"`
	Question string   `json:"question,omitempty"` // title; absent: a recorded decision
	Decision string   `json:"decision,omitempty"` // id of a recorded one
	Issuer   string   `json:"issuer,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	ClientID string   `json:"client_id,omitempty"`
	Tenant   string   `json:"tenant,omitempty"`   // that is asked for
	Outsider bool     `json:"outsider,omitempty"` // does not belong there
	Before   Outcome  `json:"before"`
	After    Outcome  `json:"after"`
	Headers  []Header `json:"headers,omitempty"`       // that differ
	Facts    []string `json:"facts_changed,omitempty"` // documents that have changed since it was recorded
}

// Header is one that differs.
type Header struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Group is changes that are alike.
type Group struct {
	Kind     string   `json:"kind"`
	Question string   `json:"question,omitempty"`
	Before   []string `json:"before" doc:"codes of the rules that decided"`
	After    []string `json:"after" doc:"codes of the rules that would: they are responsible"`
	Headers  []string `json:"headers,omitempty" doc:"that differ"`
	Count    int64    `json:"count"`
	Sample   []Who    `json:"sample" doc:"some of them"`
}

// Who is a subject in a tenant.
type Who struct {
	Issuer   string `json:"issuer,omitempty"`
	Subject  string `json:"subject,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Decision string `json:"decision,omitempty"`
}

// Section is what became of many questions.
type Section struct {
	Asked  int64            `json:"asked"`
	Counts map[string]int64 `json:"counts" doc:"changes by kind"`
	Groups []Group          `json:"groups" doc:"the weightiest first"`
	Left   int64            `json:"groups_left_out,omitempty" doc:"changes that are in counts and in no group: there are too many different ones"`

	Slow          int64 `json:"slow,omitempty" doc:"answers of the candidate that took longer than serve lets them: they may be 503 policy_timeout"`
	FactsChanged  int64 `json:"facts_changed,omitempty" doc:"recorded decisions that rest on documents that have changed since"`
	NotReplayable int64 `json:"not_replayable,omitempty" doc:"recorded decisions that lack what a policy looks at"`

	Lacking []string `json:"lacking,omitempty" doc:"what that is, such as input.token.email"`
}

// Report is what is said in the end.
type Report struct {
	Candidate string    `json:"candidate" doc:"revision"`
	Name      string    `json:"name,omitempty"`
	Against   string    `json:"against" doc:"revision"`
	Questions []string  `json:"questions" doc:"titles of what was asked of each user in each tenant, and of each client"`
	Lacking   []string  `json:"lacking,omitempty" doc:"facts of the request that a policy reads and a question does not have: it is denied by that policy, request_facts_missing"`
	At        time.Time `json:"at" doc:"the moment of the facts"`
	Took      string    `json:"took"`
	Directory Section   `json:"directory"`
	Outsiders Section   `json:"outsiders" doc:"in each tenant: an anonymous caller, an unknown user, and a user and a client that do not belong there"`
	Replayed  *Section  `json:"replayed,omitempty" doc:"recorded decisions, over the facts of that moment"`
}

type section struct {
	Section
	groups map[string]*Group
}

func (s *section) add(c Change) {
	s.Counts[c.Kind]++
	var headers []string
	for _, h := range c.Headers {
		headers = append(headers, h.Name)
	}
	key := fmt.Sprintf("%q", []any{c.Kind, c.Question, c.Before.Codes, c.After.Codes, headers})
	g := s.groups[key]
	if g == nil {
		if len(s.groups) >= groupsMost {
			s.Left++
			return
		}
		g = &Group{Kind: c.Kind, Question: c.Question, Before: c.Before.Codes, After: c.After.Codes, Headers: headers, Sample: []Who{}}
		s.groups[key] = g
	}
	g.Count++
	if len(g.Sample) < sampleSize {
		g.Sample = append(g.Sample, Who{c.Issuer, c.Subject, c.ClientID, c.Tenant, c.Decision})
	}
}

func (s *section) sorted() Section {
	for _, g := range s.groups {
		slices.SortFunc(g.Sample, func(a, b Who) int {
			return cmp.Or(strings.Compare(a.Subject, b.Subject), strings.Compare(a.Tenant, b.Tenant))
		})
		s.Groups = append(s.Groups, *g)
	}
	slices.SortFunc(s.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)), -cmp.Compare(a.Count, b.Count),
			strings.Compare(a.Question, b.Question), slices.Compare(a.After, b.After), slices.Compare(a.Before, b.Before), slices.Compare(a.Headers, b.Headers))
	})
	return s.Section
}

// Changed is how many questions would be answered otherwise, as a caller notices.
func (s Section) Changed() int64 {
	var n int64
	for kind, count := range s.Counts {
		if kind != Reasons {
			n += count
		}
	}
	return n
}

// Of is how many changes of a kind there are, in all sections.
func (r Report) Of(kind string) int64 {
	n := r.Directory.Counts[kind] + r.Outsiders.Counts[kind]
	if r.Replayed != nil {
		n += r.Replayed.Counts[kind]
	}
	return n
}

// kindsFound are those of which there are changes, in order.
func (s Section) kindsFound() []string {
	return slices.DeleteFunc(slices.Clone(Kinds), func(kind string) bool { return s.Counts[kind] == 0 })
}
