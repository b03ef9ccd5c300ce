package preview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kinds of changes, the most severe first.
const (
	Breaks  = "breaks"  // the candidate fails, or its decision is invalid
	Gains   = "gains"   // allowed, and was denied
	Loses   = "loses"   // denied, and was allowed
	Headers = "headers" // allowed with other headers
	Status  = "status"  // denied with another status
	Fixes   = "mends"   // the candidate decides, and the base fails
	Reasons = "reasons" // only the reasons differ: callers do not notice
)

// Kinds lists them.
var Kinds = []string{Breaks, Gains, Loses, Headers, Status, Fixes, Reasons}

// Outcome is the part of a decision that is compared.
type Outcome struct {
	Allow  bool     `json:"allow"`
	Status int      `json:"status"`
	Error  string   `json:"error,omitempty"` // code of the failure
	Codes  []string `json:"codes"`
	values []string // of the headers
	took   time.Duration
}

// Change is one request that would be decided otherwise.
type Change struct {
	Kind     string   `json:"kind"`
	Question string   `json:"question,omitempty"` // title; absent: a recorded decision
	Decision string   `json:"decision,omitempty"` // id of a recorded one
	Issuer   string   `json:"issuer,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	ClientID string   `json:"client_id,omitempty"`
	Tenant   string   `json:"tenant,omitempty"`   // of the request
	Outsider bool     `json:"outsider,omitempty"` // the caller does not belong to the tenant
	Before   Outcome  `json:"before"`
	After    Outcome  `json:"after"`
	Headers  []Header `json:"headers,omitempty"`       // those that differ
	Facts    []string `json:"facts_changed,omitempty"` // documents that have changed since it was recorded
}

// Header is a header that differs.
type Header struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Group is a group of similar changes.
type Group struct {
	Kind     string   `json:"kind"`
	Question string   `json:"question,omitempty"`
	Before   []string `json:"before" doc:"codes of the rules that decided"`
	After    []string `json:"after" doc:"codes of the rules that would decide"`
	Headers  []string `json:"headers,omitempty" doc:"those that differ"`
	Count    int64    `json:"count"`
	Sample   []Who    `json:"sample" doc:"some of the callers"`
}

// Who is a caller in a tenant.
type Who struct {
	Issuer   string `json:"issuer,omitempty"`
	Subject  string `json:"subject,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Decision string `json:"decision,omitempty"`
}

// Section counts the outcomes of many comparisons.
type Section struct {
	Asked  int64            `json:"asked"`
	Counts map[string]int64 `json:"counts" doc:"changes by kind"`
	Groups []Group          `json:"groups" doc:"the most severe first"`
	Left   int64            `json:"groups_left_out,omitempty" doc:"changes that are counted and in no group: there are too many different ones"`

	Tenants     []TenantChanges `json:"tenants" doc:"by tenant, the most changes first; those that have changes alone"`
	TenantsLeft int             `json:"tenants_left_out,omitempty" doc:"tenants that have changes and are not listed"`

	Slow          int64 `json:"slow,omitempty" doc:"evaluations of the candidate that exceeded the limit of serve: they may be 503 policy_timeout"`
	FactsChanged  int64 `json:"facts_changed,omitempty" doc:"recorded decisions that depend on documents that have changed since"`
	NotReplayable int64 `json:"not_replayable,omitempty" doc:"recorded decisions that lack input that a policy reads"`

	Lacking []string `json:"lacking,omitempty" doc:"the input that is not recorded, such as input.token.email"`
}

// TenantChanges counts the changes of one tenant by kind.
type TenantChanges struct {
	Tenant string           `json:"tenant" doc:"of the request; empty: none"`
	Counts map[string]int64 `json:"counts"`
}

const (
	tenantsMost    = 200    // of a report
	tenantsCounted = 10_000 // recorded requests may name any
)

// Report is the result of a preview.
type Report struct {
	Candidate string    `json:"candidate" doc:"revision"`
	Name      string    `json:"name,omitempty"`
	Against   string    `json:"against" doc:"revision"`
	Questions []string  `json:"questions" doc:"titles of the questions, each evaluated for each user in each tenant, and for each client"`
	Lacking   []string  `json:"lacking,omitempty" doc:"facts of the request that a policy reads and a question does not have: it is denied by that policy, request_facts_missing"`
	At        time.Time `json:"at" doc:"the time of the snapshot of the facts"`
	Took      string    `json:"took"`
	Directory Section   `json:"directory"`
	Outsiders Section   `json:"outsiders" doc:"in each tenant: an anonymous caller, an unknown user, and a user and a client who do not belong to it"`
	Replayed  *Section  `json:"replayed,omitempty" doc:"recorded decisions, over the same snapshot of the facts"`
}

type section struct {
	Section
	groups  map[string]*Group
	tenants map[string]map[string]int64 // counts by kind
}

func newSection() section {
	return section{
		Section: Section{Counts: map[string]int64{}, Groups: []Group{}, Tenants: []TenantChanges{}},
		groups:  map[string]*Group{}, tenants: map[string]map[string]int64{},
	}
}

func (s *section) add(c Change) {
	s.Counts[c.Kind]++
	if s.tenants[c.Tenant] == nil && len(s.tenants) < tenantsCounted {
		s.tenants[c.Tenant] = map[string]int64{}
	}
	if counts := s.tenants[c.Tenant]; counts != nil {
		counts[c.Kind]++
	}
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
	for tenant, counts := range s.tenants {
		s.Tenants = append(s.Tenants, TenantChanges{tenant, counts})
	}
	slices.SortFunc(s.Tenants, func(a, b TenantChanges) int {
		changed := func(t TenantChanges) int64 { return Section{Counts: t.Counts}.Changed() }
		return cmp.Or(-cmp.Compare(changed(a), changed(b)), strings.Compare(a.Tenant, b.Tenant))
	})
	if len(s.Tenants) > tenantsMost {
		s.Tenants, s.TenantsLeft = s.Tenants[:tenantsMost], len(s.Tenants)-tenantsMost
	}
	return s.Section
}

// Changed counts the changes that a caller notices.
func (s Section) Changed() int64 {
	var n int64
	for kind, count := range s.Counts {
		if kind != Reasons {
			n += count
		}
	}
	return n
}

// Of counts the changes of a kind in all sections.
func (r Report) Of(kind string) int64 {
	n := r.Directory.Counts[kind] + r.Outsiders.Counts[kind]
	if r.Replayed != nil {
		n += r.Replayed.Counts[kind]
	}
	return n
}

// kindsFound are the kinds that have changes, in order.
func (s Section) kindsFound() []string {
	return slices.DeleteFunc(slices.Clone(Kinds), func(kind string) bool { return s.Counts[kind] == 0 })
}
