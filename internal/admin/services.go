package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"iam-service/internal/iam"
)

// Services lists services with a manifest, by name.
func (w *Work) Services(ctx context.Context, after string, limit int) ([]iam.Service, error) {
	return w.tx.Services(ctx, after, limit)
}

// manifestDoc is a manifest as it is stored and audited.
type manifestDoc struct {
	Roles      []manifestRole      `json:"roles"`
	Attributes []manifestAttribute `json:"attributes"`
}

type manifestRole struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Permissions []string `json:"permissions"`
	Inherits    []string `json:"inherits"`
}

type manifestAttribute struct {
	Key         string `json:"key"`
	Type        string `json:"type"`
	Description string `json:"description,omitempty"`
}

func auditOfManifest(m iam.Manifest) manifestDoc {
	d := manifestDoc{Roles: []manifestRole{}, Attributes: []manifestAttribute{}}
	for _, r := range m.Roles {
		d.Roles = append(d.Roles, manifestRole{r.Name, r.Description, sorted(r.Permissions), sorted(r.Inherits)})
	}
	for _, a := range m.Attributes {
		d.Attributes = append(d.Attributes, manifestAttribute{a.Key, a.Type, a.Description})
	}
	return d
}

func (d manifestDoc) manifest(service string) iam.Manifest {
	m := iam.Manifest{Service: service}
	for _, r := range d.Roles {
		m.Roles = append(m.Roles, iam.Role{Name: r.Name, Description: r.Description, Permissions: r.Permissions, Inherits: r.Inherits, Service: service})
	}
	for _, a := range d.Attributes {
		m.Attributes = append(m.Attributes, iam.AttributeSchema{Key: a.Key, Service: service, Type: a.Type, Description: a.Description})
	}
	return m
}

// Manifest returns a service and its manifest, of an earlier version too; 0 is the current one.
func (w *Work) Manifest(ctx context.Context, name string, version int64) (iam.Service, iam.Manifest, error) {
	s, found, err := w.tx.ServiceByName(ctx, name)
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return s, iam.Manifest{}, err
	}
	if version != 0 {
		s.Version = version
	}
	body, found, err := w.tx.ManifestOf(ctx, name, s.Version)
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return s, iam.Manifest{}, err
	}
	var d manifestDoc
	if err := json.Unmarshal(body, &d); err != nil {
		return s, iam.Manifest{}, fmt.Errorf("read the manifest of %s: %w", name, err)
	}
	return s, d.manifest(name), nil
}

// PutManifest applies a manifest to all tenants: its roles are global, its attributes are the
// schema of values. Roles and attributes in use are not removed.
//
// The first program that syncs a service owns it, and no other program is authorized. A manifest
// that a person puts is owned by no program until the next one syncs it.
func (w *Work) PutManifest(ctx context.Context, m iam.Manifest) (iam.Service, iam.Manifest, error) {
	if err := w.tx.LockRoles(ctx, ""); err != nil {
		return iam.Service{}, m, err
	}
	if err := iam.InvalidFields(m.Check()); err != nil {
		return iam.Service{}, m, err
	}
	m = auditOfManifest(m).manifest(m.Service)
	s, exists, err := w.tx.ServiceByName(ctx, m.Service)
	if err != nil {
		return s, m, err
	}
	owner := iam.Service{Name: m.Service}
	if t := w.caller.Token; t != nil && t.Program() && !w.holdsEverything() {
		owner.Issuer, owner.ClientID = t.Issuer, t.ClientID
		if s.ClientID != "" && (s.ClientID != owner.ClientID || s.Issuer != owner.Issuer) {
			return s, m, &iam.Error{Kind: iam.Forbidden, Code: "service_of_another", Detail: fmt.Sprintf("another program syncs the service %q; a platform administrator who puts its manifest ends that", m.Service)}
		}
	}
	var was any
	var before iam.Manifest
	if exists {
		if _, before, err = w.Manifest(ctx, m.Service, 0); err != nil {
			return s, m, err
		}
		was = auditOfManifest(before)
		if sameJSON(was, auditOfManifest(m)) && s.Issuer == owner.Issuer && s.ClientID == owner.ClientID {
			return s, m, nil
		}
	}
	if err := w.checkDeclared(ctx, m, before); err != nil {
		return s, m, err
	}
	body, err := json.Marshal(auditOfManifest(m))
	if err != nil {
		return s, m, err
	}
	if owner.Version, err = w.tx.PutService(ctx, owner, body, m.Attributes); err != nil {
		return s, m, err
	}
	if err := w.putTemplates(ctx, m); err != nil {
		return s, m, err
	}
	if err := w.deleteTemplates(ctx, m, before); err != nil {
		return s, m, err
	}
	state := iam.ManifestState{Service: m.Service, Version: owner.Version, Roles: []string{}, Attributes: []string{}}
	for _, r := range m.Roles {
		state.Roles = append(state.Roles, r.Name)
	}
	for _, a := range m.Attributes {
		state.Attributes = append(state.Attributes, a.Key)
	}
	w.emit(iam.ServiceManifestAppliedEvent{ManifestState: state})
	return owner, m, w.record("", iam.KindService, m.Service, was, auditOfManifest(m))
}

// putTemplates writes the roles, each after those that it inherits.
func (w *Work) putTemplates(ctx context.Context, m iam.Manifest) error {
	global, err := w.tx.Roles(ctx, "")
	if err != nil {
		return err
	}
	place := map[string]int{}
	for i, r := range m.Roles {
		place[r.Name] = i
	}
	const underWay, done = 1, 2
	state := map[string]int{}
	var put func(name string) error
	put = func(name string) error {
		i := place[name]
		at := fmt.Sprintf("/roles/%d", i)
		switch state[name] {
		case done:
			return nil
		case underWay:
			return iam.InvalidFields([]iam.FieldError{{Pointer: at + "/inherits", Detail: "would make a cycle"}})
		}
		state[name] = underWay
		for _, parent := range m.Roles[i].Inherits {
			if err := put(parent); err != nil {
				return err
			}
		}
		state[name] = done
		before := findRole(global, name)
		if before != nil && before.Service != m.Service {
			whose := "an administrator created it"
			if before.Service != "" {
				whose = fmt.Sprintf("the service %q declares it", before.Service)
			}
			return &iam.Error{
				Kind: iam.Conflict, Code: "role_of_another", Detail: "a role has another owner",
				Fields: []iam.FieldError{{Pointer: at + "/name", Detail: fmt.Sprintf("a global role %q exists: %s", name, whose)}},
			}
		}
		_, err := w.putRole(ctx, before, m.Roles[i])
		if e, ok := errors.AsType[*iam.Error](err); ok && e.Kind == iam.Conflict && len(e.Fields) == 0 {
			return &iam.Error{Kind: iam.Conflict, Code: "role_of_another", Detail: e.Detail, Fields: []iam.FieldError{{Pointer: at + "/name", Detail: e.Detail}}}
		}
		return iam.Rebase(err, "/", at+"/")
	}
	for _, r := range m.Roles {
		if err := put(r.Name); err != nil {
			return err
		}
	}
	return nil
}

// deleteTemplates deletes the roles that are no longer declared, unless they have holders.
func (w *Work) deleteTemplates(ctx context.Context, m, before iam.Manifest) error {
	declared := func(in iam.Manifest, name string) bool {
		return slices.ContainsFunc(in.Roles, func(r iam.Role) bool { return r.Name == name })
	}
	var wrong []iam.FieldError
	for _, old := range before.Roles {
		if declared(m, old.Name) {
			continue
		}
		// Roles of the manifest that inherit it do not count: they were deleted or replaced.
		var own []string
		for _, r := range before.Roles {
			own = append(own, r.Name)
		}
		h, err := w.tx.HoldersOf(ctx, "", old.Name, own)
		if err != nil {
			return err
		}
		if who := holders(h); who != "" {
			wrong = append(wrong, iam.FieldError{Pointer: "/roles", Detail: fmt.Sprintf("the role %q is held by %s", old.Name, who)})
			continue
		}
		if err := w.tx.DeleteRole(ctx, "", old.Name); err != nil {
			return err
		}
		w.emit(iam.RoleDeletedEvent{RoleGone: iam.RoleGone{Role: old.Name}})
		if err := w.record("", iam.KindRole, old.Name, auditOfRole(old), nil); err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return &iam.Error{Kind: iam.Conflict, Code: "role_held", Detail: "roles that the manifest no longer declares are in use", Fields: wrong}
	}
	return nil
}
