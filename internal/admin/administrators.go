package admin

import (
	"context"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// requireAdministrator runs a change of members or roles, and refuses one that leaves a tenant
// without an administrator, or only with those whose membership expires. A platform
// administrator is allowed to, and a caller who accepts it. The tenant is locked: of two
// administrators who remove themselves concurrently, the second one sees the first removal.
func (w *Work) requireAdministrator(ctx context.Context, tenant string, change func() error) error {
	if tenant == "" || w.task.LeaveTenant || w.nested || w.holdsEverything() {
		return change()
	}
	w.nested = true
	defer func() { w.nested = false }()
	before, err := w.administrators(ctx, tenant)
	if err == nil {
		err = change()
	}
	if err != nil || before == postgres.NoAdministrator {
		return err
	}
	after, err := w.administrators(ctx, tenant)
	if err != nil || after >= before {
		return err
	}
	what := "leaves the tenant without an administrator"
	if after == postgres.TemporaryAdministrator {
		what = "leaves the tenant with only administrators whose membership ends"
	}
	return &iam.Error{
		Kind: iam.Conflict, Code: "last_tenant_admin",
		Detail: "this " + what + ": assign another administrator first, or repeat the request with ?leave_without_administrator=true; a platform administrator can assign another one later",
	}
}

// administrators reports whether a tenant has administrators, and whether one is permanent.
func (w *Work) administrators(ctx context.Context, tenant string) (postgres.Administration, error) {
	roles, err := w.tx.Roles(ctx, tenant)
	if err != nil {
		return postgres.NoAdministrator, err
	}
	var names []string
	for name, all := range iam.Closure(roles) {
		if slices.Contains(all, iam.RoleTenantAdmin) {
			names = append(names, name)
		}
	}
	return w.tx.Administrators(ctx, tenant, names)
}
