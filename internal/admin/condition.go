package admin

import (
	"slices"

	"iam-service/internal/iam"
)

// Condition is the state that a caller requires of what it changes: If-Match and If-None-Match.
type Condition struct {
	Absent   bool    // it must not exist: If-None-Match: *
	Present  bool    // it must exist, in any version: If-Match: *
	Versions []int64 // it must exist, in one of these

	required bool // an empty condition is rejected
}

// mandatory is c for a change that needs a condition.
func (c Condition) mandatory() Condition {
	c.required = true
	return c
}

func (c Condition) empty() bool { return !c.Absent && !c.Present && len(c.Versions) == 0 }

// checkNew compares the condition with an object that does not exist.
func (c Condition) checkNew() error {
	switch {
	case c.empty() && c.required:
		return errConditionRequired
	case c.Present || len(c.Versions) > 0:
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "absent", Detail: "it does not exist"}
	}
	return nil
}

// check compares the condition with the version of an object that exists.
func (c Condition) check(version int64) error {
	switch {
	case c.empty() && c.required:
		return errConditionRequired
	case c.Absent:
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "exists", Detail: "it exists already"}
	case len(c.Versions) > 0 && !slices.Contains(c.Versions, version):
		return &iam.Error{Kind: iam.PreconditionFailed, Code: "changed", Detail: "it was changed since it was read: read it again"}
	}
	return nil
}

var errConditionRequired = &iam.Error{
	Kind: iam.PreconditionRequired, Code: "if_match_required",
	Detail: "name the version that this replaces: If-Match with the ETag that was read, or If-None-Match: * for a new one",
}
