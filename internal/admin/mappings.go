package admin

import (
	"context"

	"iam-service/internal/iam"
)

// Mappings lists the mappings of a tenant.
func (w *Work) Mappings(ctx context.Context, tenant string) ([]iam.Mapping, error) {
	if _, err := w.Tenant(ctx, tenant); err != nil {
		return nil, err
	}
	return w.tx.Mappings(ctx, tenant)
}

// Mapping returns one mapping of a tenant.
func (w *Work) Mapping(ctx context.Context, tenant, id string) (iam.Mapping, error) {
	list, err := w.Mappings(ctx, tenant)
	if err != nil {
		return iam.Mapping{}, err
	}
	for _, m := range list {
		if m.ID() == id {
			return m, nil
		}
	}
	return iam.Mapping{}, errGone
}

// CreateMapping says what a claim of an issuer's tokens means in a tenant.
func (w *Work) CreateMapping(ctx context.Context, m iam.Mapping) (iam.Mapping, error) {
	roles, err := w.rolesForMembers(ctx, m.Tenant)
	if err != nil {
		return m, err
	}
	if err := invalid(m.Check()); err != nil {
		return m, err
	}
	_, err = w.Mapping(ctx, m.Tenant, m.ID())
	switch {
	case err == nil:
		return m, &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "there is already a mapping of this issuer, claim and value: " + m.ID()}
	case iam.KindOf(err) != iam.NotFound:
		return m, err
	}
	return w.putMapping(ctx, nil, m, roles)
}

// SetMappingRoles replaces the roles that a mapping gives.
func (w *Work) SetMappingRoles(ctx context.Context, tenant, id string, names []string, c Condition) (iam.Mapping, error) {
	roles, err := w.rolesForMembers(ctx, tenant)
	if err != nil {
		return iam.Mapping{}, err
	}
	before, err := w.Mapping(ctx, tenant, id)
	if err != nil {
		return before, err
	}
	if err := c.hold(true, before.Version, true); err != nil {
		return before, err
	}
	after := before
	after.Roles = names
	if err := invalid(after.Check()); err != nil {
		return before, err
	}
	return w.putMapping(ctx, &before, after, roles)
}

func (w *Work) putMapping(ctx context.Context, before *iam.Mapping, m iam.Mapping, roles []iam.Role) (iam.Mapping, error) {
	var was any
	event := "MappingCreated.v1"
	if before != nil {
		was, event = docOfMapping(*before), "MappingUpdated.v1"
		if same(was, docOfMapping(m)) {
			return *before, nil
		}
		if err := w.mayGive(m.Tenant, roles, before.Roles, "change", ""); err != nil {
			return m, err
		}
	}
	if err := w.mayGive(m.Tenant, roles, m.Roles, "map", "/roles"); err != nil {
		return m, err
	}
	var err error
	if m.Version, err = w.tx.PutMapping(ctx, m); err != nil {
		return m, err
	}
	w.announce(iam.KindMapping, m.Tenant, m.ID(), event, iam.MappingState{Tenant: m.Tenant, Mapping: m.ID(), Claim: m.Claim, Roles: some(m.Roles), Version: m.Version})
	return m, w.record(m.Tenant, iam.KindMapping, m.ID(), was, docOfMapping(m))
}

// DeleteMapping ends what a claim means.
func (w *Work) DeleteMapping(ctx context.Context, tenant, id string, c Condition) error {
	roles, err := w.rolesForMembers(ctx, tenant)
	if err != nil {
		return err
	}
	m, err := w.Mapping(ctx, tenant, id)
	if err != nil {
		return err
	}
	if err := c.hold(true, m.Version, false); err != nil {
		return err
	}
	return w.deleteMapping(ctx, m, roles)
}

func (w *Work) deleteMapping(ctx context.Context, m iam.Mapping, roles []iam.Role) error {
	if err := w.mayGive(m.Tenant, roles, m.Roles, "delete", ""); err != nil {
		return err
	}
	if err := w.tx.DeleteMapping(ctx, m); err != nil {
		return err
	}
	w.announce(iam.KindMapping, m.Tenant, m.ID(), "MappingDeleted.v1", iam.MappingGone{Tenant: m.Tenant, Mapping: m.ID()})
	return w.record(m.Tenant, iam.KindMapping, m.ID(), docOfMapping(m), nil)
}
