package admin

import (
	"context"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Tenants lists tenants by id.
func (w *Work) Tenants(ctx context.Context, f postgres.TenantFilter) ([]iam.Tenant, error) {
	return w.tx.Tenants(ctx, f)
}

// Tenant returns one tenant.
func (w *Work) Tenant(ctx context.Context, id string) (iam.Tenant, error) {
	if !iam.ValidTenantID(id) {
		return iam.Tenant{}, errNotFound
	}
	t, found, err := w.tx.TenantByID(ctx, id)
	if err == nil && !found {
		err = errNotFound
	}
	return t, err
}

// PutTenant creates an active tenant, or replaces its slug, name and attributes.
func (w *Work) PutTenant(ctx context.Context, t iam.Tenant, c Condition) (iam.Tenant, bool, error) {
	t.Status = iam.TenantActive
	before, exists, err := w.tx.TenantByID(ctx, t.ID)
	if err == nil && !exists {
		// There was no row to lock: of two concurrent requests, one must see the other's tenant.
		if err = w.tx.LockPlatform(ctx); err == nil {
			before, exists, err = w.tx.TenantByID(ctx, t.ID)
		}
	}
	if err != nil {
		return t, false, err
	}
	wrong := t.Check()
	more, err := w.checkAttributes(ctx, "/attributes", t.Attributes)
	if err != nil {
		return t, false, err
	}
	if err := iam.InvalidFields(append(wrong, more...)); err != nil {
		return t, false, err
	}
	if exists {
		err = c.mandatory().check(before.Version)
	} else {
		err = c.mandatory().checkNew()
	}
	if err != nil {
		return t, false, err
	}
	if exists {
		t.Status = before.Status
		t, err = w.putTenant(ctx, &before, t)
		return t, false, err
	}
	t, err = w.putTenant(ctx, nil, t)
	return t, true, err
}

// EditTenant changes a part of a tenant: edit gets the current one.
func (w *Work) EditTenant(ctx context.Context, id string, c Condition, edit func(iam.Tenant) (iam.Tenant, error)) (iam.Tenant, error) {
	before, err := w.Tenant(ctx, id)
	if err != nil {
		return before, err
	}
	if err := c.check(before.Version); err != nil {
		return before, err
	}
	after, err := edit(before)
	if err != nil {
		return before, err
	}
	wrong := after.Check()
	if !sameAttributes(after.Attributes, before.Attributes) {
		more, err := w.checkAttributes(ctx, "/attributes", after.Attributes)
		if err != nil {
			return before, err
		}
		wrong = append(wrong, more...)
	}
	if err := iam.InvalidFields(wrong); err != nil {
		return before, err
	}
	return w.putTenant(ctx, &before, after)
}

// SetTenantStatus suspends, resumes or archives a tenant.
func (w *Work) SetTenantStatus(ctx context.Context, id, status string, c Condition) (iam.Tenant, error) {
	return w.EditTenant(ctx, id, c, func(t iam.Tenant) (iam.Tenant, error) {
		t.Status = status
		return t, nil
	})
}

// putTenant writes a tenant, if it has changed.
func (w *Work) putTenant(ctx context.Context, before *iam.Tenant, t iam.Tenant) (iam.Tenant, error) {
	var was any
	if before != nil {
		was = auditOfTenant(*before)
		if sameJSON(was, auditOfTenant(t)) {
			return *before, nil
		}
	}
	var err error
	if t.Version, err = w.tx.PutTenant(ctx, t); err != nil {
		return t, err
	}
	w.tenantChanged(before, t)
	return t, w.record(t.ID, iam.KindTenant, t.ID, was, auditOfTenant(t))
}

// tenantChanged emits an event for each difference.
func (w *Work) tenantChanged(before *iam.Tenant, t iam.Tenant) {
	state := iam.TenantState{Tenant: t.ID, Slug: t.Slug, Name: t.Name, Status: t.Status, Version: t.Version}
	if before == nil {
		w.emit(iam.TenantCreatedEvent{TenantState: state})
		return
	}
	if before.Status != t.Status {
		switch t.Status {
		case iam.TenantActive:
			w.emit(iam.TenantResumedEvent{TenantState: state})
		case iam.TenantSuspended:
			w.emit(iam.TenantSuspendedEvent{TenantState: state})
		case iam.TenantArchived:
			w.emit(iam.TenantArchivedEvent{TenantState: state})
		}
	}
	if before.Slug != t.Slug || before.Name != t.Name || !sameAttributes(before.Attributes, t.Attributes) {
		w.emit(iam.TenantUpdatedEvent{TenantState: state})
	}
}

// DeleteTenant deletes a tenant that is suspended or archived and has no clients,
// with its roles, members and mappings.
func (w *Work) DeleteTenant(ctx context.Context, id string, c Condition) error {
	// The tenant is locked: no member is added meanwhile.
	if err := w.tx.LockRoles(ctx, id); err != nil {
		if iam.KindOf(err) == iam.NotFound {
			return errNotFound
		}
		return err
	}
	t, err := w.Tenant(ctx, id)
	if err != nil {
		return err
	}
	if err := c.check(t.Version); err != nil {
		return err
	}
	if t.Status == iam.TenantActive {
		return &iam.Error{Kind: iam.Conflict, Code: "tenant_active", Detail: "an active tenant cannot be deleted: suspend or archive it first"}
	}
	if err := w.tx.DetachDeletedClients(ctx, id); err != nil {
		return err
	}
	n, err := w.tx.ClientsOf(ctx, id)
	if err != nil {
		return err
	}
	if n > 0 {
		return &iam.Error{Kind: iam.Conflict, Code: "tenant_has_clients", Detail: plural(n, "client belongs", "clients belong") + " to the tenant: delete them first"}
	}
	if err := w.tx.DeleteTenant(ctx, id); err != nil {
		return err
	}
	w.emit(iam.TenantDeletedEvent{TenantGone: iam.TenantGone{Tenant: id}})
	return w.record(id, iam.KindTenant, id, auditOfTenant(t), nil)
}
