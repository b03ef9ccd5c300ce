package iam

import (
	"encoding/json"
	"time"
)

// RecordedDecision is a decision as the decision log stores it.
type RecordedDecision struct {
	ID       string
	At       time.Time
	Revision string // short name
	Allow    bool
	Issuer   string // of the token; empty: none came
	Subject  string
	ClientID string
	Tenant   string   // that it is about: the active one, else the one that was requested
	Codes    []string // of the reasons
	Event    json.RawMessage
}

// DecisionFilter selects decisions. Empty fields match all.
type DecisionFilter struct {
	Issuer, Subject, ClientID, Tenant, Code string

	Allow    *bool
	From, To time.Time // of At: from inclusive, to exclusive
	Before   time.Time // page: older than this one, with
	BeforeID string    // this id
	Limit    int
}

// DecisionCount is how many decisions of one step of time had the same outcome and the same codes.
type DecisionCount struct {
	At    time.Time // beginning of the step
	Allow bool
	Codes []string
	Count int64
}
