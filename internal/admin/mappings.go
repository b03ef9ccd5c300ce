package admin

import (
	"context"
	"fmt"
	"slices"

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
	return iam.Mapping{}, errNotFound
}

// CreateMapping maps a claim of an issuer's tokens to roles of a tenant.
func (w *Work) CreateMapping(ctx context.Context, m iam.Mapping) (iam.Mapping, error) {
	roles, err := w.lockRoles(ctx, m.Tenant)
	if err != nil {
		return m, err
	}
	if err := iam.InvalidFields(m.Check()); err != nil {
		return m, err
	}
	_, err = w.Mapping(ctx, m.Tenant, m.ID())
	switch {
	case err == nil:
		return m, &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "a mapping of this issuer, claim and value exists: " + m.ID()}
	case iam.KindOf(err) != iam.NotFound:
		return m, err
	}
	return w.putMapping(ctx, nil, m, roles)
}

// SetMappingRoles replaces the roles of a mapping.
func (w *Work) SetMappingRoles(ctx context.Context, tenant, id string, names []string, c Condition) (iam.Mapping, error) {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return iam.Mapping{}, err
	}
	before, err := w.Mapping(ctx, tenant, id)
	if err != nil {
		return before, err
	}
	if err := c.mandatory().check(before.Version); err != nil {
		return before, err
	}
	after := before
	after.Roles = names
	if err := iam.InvalidFields(after.Check()); err != nil {
		return before, err
	}
	return w.putMapping(ctx, &before, after, roles)
}

func (w *Work) putMapping(ctx context.Context, before *iam.Mapping, m iam.Mapping, roles []iam.Role) (iam.Mapping, error) {
	graph := iam.NewGraph(roles)
	changes := []mappingChange{{before, m}}
	err := w.putMappings(ctx, m.Tenant, changes, w.holding(m.Tenant, graph), graph)
	return changes[0].after, iam.Rebase(err, "/0", "")
}

// mappingChange is a mapping before and after; nil: there was none.
type mappingChange struct {
	before *iam.Mapping
	after  iam.Mapping
}

// putMappings writes what has changed, if the caller holds what each grants before and after.
func (w *Work) putMappings(ctx context.Context, tenant string, changes []mappingChange, holding iam.Holding, graph iam.Graph) error {
	var puts []*iam.Mapping
	var places []int
	for i := range changes {
		c := &changes[i]
		if c.before != nil {
			if sameJSON(auditOfMapping(*c.before), auditOfMapping(c.after)) {
				c.after = *c.before
				continue
			}
			if err := checkHeld(holding, graph, c.before.Roles, "change", ""); err != nil {
				return err
			}
		}
		if err := checkHeld(holding, graph, c.after.Roles, "map", fmt.Sprintf("/%d/roles", i)); err != nil {
			return err
		}
		added := slices.Clone(c.after.Roles)
		if c.before != nil {
			added = slices.DeleteFunc(added, func(r string) bool { return slices.Contains(c.before.Roles, r) })
		}
		if err := w.checkLasting(tenant, graph, added, "a mapping", fmt.Sprintf("/%d/roles", i)); err != nil {
			return err
		}
		puts, places = append(puts, &c.after), append(places, i)
	}
	if len(puts) == 0 {
		return nil
	}
	if err := w.tx.PutMappings(ctx, tenant, puts); err != nil {
		return restorePositions(err, places)
	}
	for _, i := range places {
		m := changes[i].after
		var was any
		state := iam.MappingState{Tenant: tenant, Mapping: m.ID(), Claim: m.Claim, Roles: sorted(m.Roles), Version: m.Version}
		if before := changes[i].before; before != nil {
			was = auditOfMapping(*before)
			w.emit(iam.MappingUpdatedEvent{MappingState: state})
		} else {
			w.emit(iam.MappingCreatedEvent{MappingState: state})
		}
		if err := w.record(tenant, iam.KindMapping, m.ID(), was, auditOfMapping(m)); err != nil {
			return err
		}
	}
	return nil
}

// DeleteMapping deletes a mapping.
func (w *Work) DeleteMapping(ctx context.Context, tenant, id string, c Condition) error {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return err
	}
	m, err := w.Mapping(ctx, tenant, id)
	if err != nil {
		return err
	}
	if err := c.check(m.Version); err != nil {
		return err
	}
	graph := iam.NewGraph(roles)
	return w.deleteMapping(ctx, m, w.holding(tenant, graph), graph)
}

func (w *Work) deleteMapping(ctx context.Context, m iam.Mapping, holding iam.Holding, graph iam.Graph) error {
	if err := checkHeld(holding, graph, m.Roles, "delete", ""); err != nil {
		return err
	}
	if err := w.tx.DeleteMapping(ctx, m); err != nil {
		return err
	}
	w.emit(iam.MappingDeletedEvent{MappingGone: iam.MappingGone{Tenant: m.Tenant, Mapping: m.ID()}})
	return w.record(m.Tenant, iam.KindMapping, m.ID(), auditOfMapping(m), nil)
}
