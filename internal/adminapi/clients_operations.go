package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/clients"
	"iam-service/internal/iam"
)

// clientOperation is a change of a client on its way to the identity provider.
type clientOperation struct {
	Operation string          `json:"operation" enum:"create,update,delete,rotate,retire" doc:"retire: the old secret after its overlap"`
	Status    string          `json:"status" enum:"pending,confirmed,failed,replaced" doc:"failed: the identity provider rejected it, and it was reverted, or a rotation had no outcome; replaced: another operation has taken its place"`
	BegunAt   time.Time       `json:"begun_at" doc:"when it was written here"`
	EndedAt   *time.Time      `json:"ended_at,omitempty" doc:"absent: it is pending"`
	Failures  int             `json:"failures" doc:"attempts that failed and were retried"`
	Running   bool            `json:"running" doc:"a replica works on it now"`
	NextTry   *time.Time      `json:"next_try,omitempty" doc:"when a pending one is due again, unless it is running; a moment in the past: at once"`
	Error     *operationError `json:"error,omitempty" doc:"of the last attempt that failed"`
	Steps     []operationStep `json:"steps" doc:"in their order"`
}

type operationError struct {
	Code   string     `json:"code" doc:"see docs/errors.md"`
	Field  string     `json:"field,omitempty" doc:"JSON Pointer of the field that the identity provider rejects"`
	Detail string     `json:"detail" doc:"a sentence; it has no words of the identity provider's"`
	At     *time.Time `json:"at,omitempty"`
}

type operationStep struct {
	Step   string     `json:"step" enum:"written,sent,confirmed" doc:"written: stored here, where status, roles and scopes are in force; sent: to the identity provider; confirmed: by it, with the event of the change"`
	Status string     `json:"status" enum:"done,running,waiting,failed,omitted" doc:"omitted: the operation ended before it"`
	At     *time.Time `json:"at,omitempty" doc:"when it was done, or failed last"`
}

func (a *server) listClientOperations(ctx context.Context, w *admin.Work, in *OnClient) (*collection[clientOperation], error) {
	c, err := w.Client(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	list := []clientOperation{}
	if c.Operation != "" {
		list = append(list, pendingOperation(c))
	}
	if c.Last != nil {
		list = append(list, endedOperation(*c.Last))
	}
	return all(list, func(o clientOperation) clientOperation { return o }), nil
}

func pendingOperation(c iam.ManagedClient) clientOperation {
	o := clientOperation{
		Operation: c.Operation,
		Status:    "pending",
		BegunAt:   c.BegunAt.UTC(),
		Failures:  c.Tries,
		Running:   c.LeaseLeft > 0,
		Error:     wireFailure(c.Reason, c.TriedAt),
	}
	sent := operationStep{Step: "sent", Status: "waiting"}
	if o.Running {
		sent.Status = "running"
	} else {
		o.NextTry = optionalTime(c.NextTry)
	}
	if o.Error != nil {
		sent.At = o.Error.At
		if !o.Running {
			sent.Status = "failed"
		}
	}
	o.Steps = []operationStep{{Step: "written", Status: "done", At: &o.BegunAt}, sent, {Step: "confirmed", Status: "waiting"}}
	return o
}

func endedOperation(l iam.ClientOperation) clientOperation {
	o := clientOperation{
		Operation: l.Operation,
		Status:    l.Outcome,
		BegunAt:   l.BegunAt.UTC(),
		EndedAt:   optionalTime(l.EndedAt),
		Failures:  l.Tries,
		Error:     wireFailure(l.Reason, l.EndedAt),
	}
	sent, confirmed := operationStep{Step: "sent", Status: "done"}, operationStep{Step: "confirmed", Status: "done", At: o.EndedAt}
	switch l.Outcome {
	case iam.OutcomeFailed:
		sent, confirmed = operationStep{Step: "sent", Status: "failed", At: o.EndedAt}, operationStep{Step: "confirmed", Status: "omitted"}
	case iam.OutcomeReplaced:
		sent, confirmed = operationStep{Step: "sent", Status: "omitted"}, operationStep{Step: "confirmed", Status: "omitted"}
	}
	o.Steps = []operationStep{{Step: "written", Status: "done", At: &o.BegunAt}, sent, confirmed}
	return o
}

// wireFailure is the failure of a stored reason; nil: there was none.
func wireFailure(reason string, at time.Time) *operationError {
	if reason == "" {
		return nil
	}
	f := clients.FailureOf(reason)
	return &operationError{f.Reason, f.Field, f.Detail, optionalTime(at)}
}
