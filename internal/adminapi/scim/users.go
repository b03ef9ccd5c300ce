package scim

import (
	"context"
	"net/http"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

func (s *server) listUsers(w http.ResponseWriter, r *request) error {
	q, err := r.list()
	if err != nil {
		return err
	}
	type found = admin.SCIMPage[iam.SCIMUser]
	list, err := admin.Do(r.Context(), s.Service, r.caller, r.task("read"), func(ctx context.Context, work *admin.Work) (found, error) {
		one := q.SCIMQuery
		if q.byCursor && one.Limit > 0 {
			one.Limit++
		}
		return work.SCIMUsers(ctx, one)
	})
	if err != nil {
		return err
	}
	more := q.byCursor && len(list.Items) > q.Limit
	if more {
		list.Items = list.Items[:q.Limit]
	}
	resources, last := make([]resource, len(list.Items)), ""
	for i, u := range list.Items {
		resources[i], last = userResource(u, q.shown), u.User
	}
	return encode(w, http.StatusOK, q.answer(list.Total, resources, last, more))
}

func (s *server) readUser(w http.ResponseWriter, r *request) error {
	u, err := admin.Do(r.Context(), s.Service, r.caller, r.task("read"), func(ctx context.Context, work *admin.Work) (iam.SCIMUser, error) {
		return work.SCIMUser(ctx, r.tenant, r.id())
	})
	if err != nil {
		return err
	}
	return s.respondUser(w, r, http.StatusOK, u)
}

func (s *server) respondUser(w http.ResponseWriter, r *request, status int, u iam.SCIMUser) error {
	shown := project(r.URL.Query()["attributes"], r.URL.Query()["excludedAttributes"])
	return r.respond(w, status, userTag(u), userResource(u, shown))
}

func (s *server) createUser(w http.ResponseWriter, r *request) error {
	o, err := parseObject(r.body)
	if err != nil {
		return err
	}
	var e admin.SCIMUserEdit
	if err := o.user(&e); err != nil {
		return err
	}
	u, err := create(r.Context(), s, r, func(ctx context.Context, work *admin.Work) (iam.SCIMUser, error) {
		return work.CreateSCIMUser(ctx, r.tenant, e)
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", path(r.tenant, "Users", u.User))
	return s.respondUser(w, r, http.StatusCreated, u)
}

// user reads what is kept of a user: everything else is ignored. An active that is missing stays as it is.
func (o object) user(e *admin.SCIMUserEdit) (err error) {
	var named bool
	if e.UserName, named, err = o.text("userName"); err == nil && !named {
		err = malformed(invalidValue, "userName is required")
	}
	if err == nil {
		e.ExternalID, _, err = o.text("externalId")
	}
	if raw, given := o["active"]; err == nil && given && !isNull(raw) {
		e.Active, err = boolean("active", raw)
	}
	return err
}

func (s *server) putUser(w http.ResponseWriter, r *request) error {
	o, err := parseObject(r.body)
	if err != nil {
		return err
	}
	return s.changeUser(w, r, o.user)
}

func (s *server) patchUser(w http.ResponseWriter, r *request) error {
	operations, err := parsePatch(r.body)
	if err != nil {
		return err
	}
	return s.changeUser(w, r, func(e *admin.SCIMUserEdit) error {
		for _, o := range operations {
			if err := o.user(e); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *server) changeUser(w http.ResponseWriter, r *request, edit func(*admin.SCIMUserEdit) error) error {
	activates := false
	u, err := admin.Do(r.Context(), s.Service, r.caller, r.task("update"), func(ctx context.Context, work *admin.Work) (iam.SCIMUser, error) {
		return work.EditSCIMUser(ctx, r.tenant, r.id(), r.condition(), func(e *admin.SCIMUserEdit) error {
			err := edit(e)
			activates = e.Active != nil && *e.Active
			return err
		})
	})
	if err == nil && activates && !u.InForce() {
		err = admin.ErrSuspendedByAdministrator
	}
	if err != nil {
		return err
	}
	return s.respondUser(w, r, http.StatusOK, u)
}

// user applies an operation to a user. Attributes that are not kept are ignored.
func (o operation) user(e *admin.SCIMUserEdit) (err error) {
	switch o.name {
	case "id", "meta", "schemas", "groups":
		if o.path == "" || o.name == "schemas" {
			return nil // Okta repeats id in the value
		}
		return malformed(mutability, o.name+" cannot be written: groups are changed at /Groups")
	case "username", "active", "externalid":
	default:
		return nil
	}
	if o.sub || o.where != nil {
		return malformed(invalidPath, o.name+" has no parts")
	}
	if o.op == "remove" {
		if o.name == "externalid" {
			e.ExternalID = ""
			return nil
		}
		return malformed(mutability, map[string]string{"username": "userName", "active": "active"}[o.name]+" cannot be removed")
	}
	switch o.name {
	case "username":
		e.UserName, err = text("userName", o.value)
	case "externalid":
		if isNull(o.value) {
			e.ExternalID = ""
			return nil
		}
		e.ExternalID, err = text("externalId", o.value)
	default:
		e.Active, err = boolean("active", o.value)
	}
	return err
}

func (s *server) deleteUser(w http.ResponseWriter, r *request) error {
	err := s.Service.Do(r.Context(), r.caller, r.task("delete"), func(ctx context.Context, work *admin.Work) error {
		return work.DeleteSCIMUser(ctx, r.tenant, r.id(), r.condition())
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
