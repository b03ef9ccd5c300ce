package admin

import (
	"context"
	"fmt"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// checkAttributes validates values against the schemas that services declare.
func (w *Work) checkAttributes(ctx context.Context, at string, values map[string]any) ([]iam.FieldError, error) {
	if len(values) == 0 {
		return nil, nil
	}
	if w.declared == nil {
		var err error
		if w.declared, err = w.tx.AttributeSchemas(ctx); err != nil {
			return nil, err
		}
	}
	return iam.CheckAttributes(at, values, w.declared), nil
}

// checkDeclared refuses to remove an attribute that has values, or to change its type where
// values do not fit.
func (w *Work) checkDeclared(ctx context.Context, m, before iam.Manifest) error {
	var wrong []iam.FieldError
	for _, old := range before.Attributes {
		i := slices.IndexFunc(m.Attributes, func(a iam.AttributeSchema) bool { return a.Key == old.Key })
		notOfType, at := "", "/attributes"
		if i >= 0 {
			notOfType, at = m.Attributes[i].Type, fmt.Sprintf("/attributes/%d/type", i)
			if notOfType == old.Type {
				continue
			}
		}
		use, err := w.tx.AttributeUse(ctx, old.Key, notOfType)
		if err != nil {
			return err
		}
		if use == (postgres.AttributeUse{}) {
			continue
		}
		has := fmt.Sprintf("%s, %s and %s have", plural(use.Users, "user", "users"), plural(use.Tenants, "tenant", "tenants"), plural(use.Members, "membership", "memberships"))
		if i >= 0 {
			wrong = append(wrong, iam.FieldError{Pointer: at, Detail: fmt.Sprintf("%s a value of %q that is no %s", has, old.Key, notOfType)})
		} else {
			wrong = append(wrong, iam.FieldError{Pointer: at, Detail: fmt.Sprintf("%s the attribute %q, which the manifest no longer declares", has, old.Key)})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "attribute_in_use", Detail: "attributes are in use", Fields: wrong}
}
