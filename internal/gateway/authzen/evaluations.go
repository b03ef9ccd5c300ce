package authzen

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	"iam-service/internal/enrich/pdp"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// The semantics of section 7.1.2.1, options.evaluations_semantic.
const (
	executeAll          = "execute_all"
	denyOnFirstDeny     = "deny_on_first_deny"
	permitOnFirstPermit = "permit_on_first_permit"
)

// evaluations serves section 7. Without evaluations it is one evaluation. An evaluation that is not valid is denied,
// with the error in its context; what cannot be decided now is 503 for all of them.
func (s *Service) evaluations(w http.ResponseWriter, r *http.Request, c *pdp.Caller, body map[string]any) error {
	items, semantic, err := batchOf(body)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return s.evaluation(w, r, c, body)
	}
	ctx, cancel := context.WithTimeout(r.Context(), batchTime)
	defer cancel()
	release, err := s.Decider.Batch(ctx, c)
	if err != nil {
		return err
	}
	defer release()
	shared := sharedOf(body)
	out := struct {
		Evaluations []decisionBody `json:"evaluations"`
	}{Evaluations: make([]decisionBody, 0, len(items))}
	for _, item := range items {
		if err := ctx.Err(); err != nil { // a cached decision does not look at it
			return &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "the evaluations were not decided in time", Cause: err}
		}
		d, fault, err := s.item(ctx, c, item, shared)
		if err != nil {
			return err
		}
		more := map[string]any{}
		if fault != nil {
			more["error"] = fault
		}
		last := semantic == denyOnFirstDeny && !d.Allow || semantic == permitOnFirstPermit && d.Allow
		if last && !d.Allow {
			more["reason"] = semantic
		}
		one, err := bodyOf(d, more)
		if err != nil {
			return err
		}
		if out.Evaluations = append(out.Evaluations, one); last {
			break
		}
	}
	return problem.Encode(w, http.StatusOK, out)
}

// itemError is an error of one evaluation, as section 7.2.1 has it.
type itemError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
}

// item decides one evaluation. fault is what is wrong with it alone.
func (s *Service) item(ctx context.Context, c *pdp.Caller, item map[string]any, shared *pdp.Shared) (d pdp.Decision, fault *itemError, err error) {
	q, err := requestOf(item, need{subject: "type id", action: "name", resource: "type id"})
	if q.Shared = shared; err == nil {
		d, err = s.Decider.Evaluate(ctx, c, q)
	}
	kind := iam.KindOf(err)
	switch {
	case err == nil:
		return d, nil, nil
	case kind == iam.Malformed, kind == iam.Forbidden:
		p := problem.New(ctx, err, "")
		message := p.Detail
		for _, f := range p.Errors {
			if f.Pointer != nil {
				message += fmt.Sprintf("; %s: %s", *f.Pointer, f.Detail)
			}
		}
		return pdp.Decision{}, &itemError{Status: p.Status, Message: message, Code: p.Code}, nil
	}
	return d, nil, err
}

// sharedOf are the objects of the defaults, which all evaluations without their own have.
func sharedOf(body map[string]any) *pdp.Shared {
	context, _ := body["context"].(map[string]any) // absent: none, as below
	all := []map[string]any{context}
	for name := range required {
		entity, _ := body[name].(map[string]any)
		properties, _ := entity["properties"].(map[string]any)
		all = append(all, properties)
	}
	return pdp.Share(all...)
}

// batchOf returns the evaluations of a request with their defaults; none: the request is one evaluation.
func batchOf(body map[string]any) (items []map[string]any, semantic string, err error) {
	list, ok := body["evaluations"].([]any)
	if sent := body["evaluations"]; !ok && sent != nil {
		return nil, "", faults{{Pointer: "/evaluations", Detail: "must be a list"}}.err()
	}
	if semantic, err = semanticOf(body); err != nil || len(list) == 0 {
		return nil, semantic, err
	}
	if len(list) > maxEvaluations {
		return nil, "", faults{{Pointer: "/evaluations", Detail: fmt.Sprintf("has %d evaluations, %d are allowed", len(list), maxEvaluations)}}.err()
	}
	var wrong faults
	for _, name := range []string{"subject", "action", "resource", "context"} {
		if _, ok := body[name].(map[string]any); !ok && body[name] != nil {
			wrong = append(wrong, iam.FieldError{Pointer: "/" + name, Detail: "must be an object"})
		}
	}
	for i, sent := range list {
		item, ok := sent.(map[string]any)
		if !ok {
			wrong = append(wrong, iam.FieldError{Pointer: fmt.Sprintf("/evaluations/%d", i), Detail: "must be an object"})
			continue
		}
		items = append(items, withDefaults(item, body))
	}
	return items, semantic, wrong.err()
}

// semanticOf is options.evaluations_semantic. Further options are ignored, as unknown fields are.
func semanticOf(body map[string]any) (string, error) {
	options, ok := body["options"].(map[string]any)
	switch {
	case body["options"] == nil:
		return executeAll, nil
	case !ok:
		return "", faults{{Pointer: "/options", Detail: "must be an object"}}.err()
	case options["evaluations_semantic"] == nil:
		return executeAll, nil
	}
	switch semantic := options["evaluations_semantic"]; semantic {
	case executeAll, denyOnFirstDeny, permitOnFirstPermit:
		return semantic.(string), nil //nolint:forcetypeassert // it equals a string
	}
	return "", faults{{Pointer: "/options/evaluations_semantic", Detail: "must be execute_all, deny_on_first_deny or permit_on_first_permit"}}.err()
}

// required are the members of an entity that an evaluation takes from the defaults where its own lacks them: all others
// are replaced as a whole (certification scenario, "Batch with default value merging").
var required = map[string][]string{"subject": {"type", "id"}, "action": {"name"}, "resource": {"type", "id"}}

// withDefaults is an evaluation with what the request has for all (section 7.1.1).
func withDefaults(item, body map[string]any) map[string]any {
	all := map[string]any{}
	for _, name := range []string{"subject", "action", "resource", "context"} {
		own, there := item[name]
		if !there || own == nil {
			if body[name] != nil {
				all[name] = body[name]
			}
			continue
		}
		entity, isObject := own.(map[string]any)
		defaults, _ := body[name].(map[string]any) // none
		if isObject && len(required[name]) > 0 && len(defaults) > 0 {
			entity = maps.Clone(entity)
			for _, member := range required[name] {
				if entity[member] == nil && defaults[member] != nil {
					entity[member] = defaults[member]
				}
			}
			own = entity
		}
		all[name] = own
	}
	return all
}
