package scim

import (
	"context"
	"net/http"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// groupView is a group with its members, if they are shown.
type groupView struct {
	Group   iam.SCIMGroup
	Members []string
}

func (s *server) listGroups(w http.ResponseWriter, r *request) error {
	q, err := r.list()
	if err != nil {
		return err
	}
	var views []groupView
	var total int
	more := false
	err = s.Service.Do(r.Context(), r.caller, r.task("read"), func(ctx context.Context, work *admin.Work) error {
		views, more = nil, false
		one := q.SCIMQuery
		if one.Limit > 0 {
			one.Limit++
		}
		list, err := work.SCIMGroups(ctx, one)
		if err != nil {
			return err
		}
		total = list.Total
		listed := 0
		for _, g := range list.Items {
			if q.shown.shows("members") {
				listed += g.Members
			}
			if len(views) == q.Limit || len(views) > 0 && listed > maxListed {
				more = true
				break
			}
			v := groupView{Group: g}
			if q.shown.shows("members") {
				if v.Members, err = work.SCIMGroupMembers(ctx, r.tenant, g.ID); err != nil {
					return err
				}
			}
			views = append(views, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	resources, last := make([]resource, len(views)), ""
	for i, v := range views {
		resources[i], last = groupResource(v.Group, v.Members, q.shown), v.Group.ID
	}
	return encode(w, http.StatusOK, q.answer(total, resources, last, more))
}

func (s *server) readGroup(w http.ResponseWriter, r *request) error {
	v, err := admin.Do(r.Context(), s.Service, r.caller, r.task("read"), func(ctx context.Context, work *admin.Work) (groupView, error) {
		g, err := work.SCIMGroup(ctx, r.tenant, r.id())
		if err != nil {
			return groupView{}, err
		}
		return r.view(ctx, work, g)
	})
	if err != nil {
		return err
	}
	return s.respondGroup(w, r, http.StatusOK, v)
}

func (r *request) projection() projection {
	return project(r.URL.Query()["attributes"], r.URL.Query()["excludedAttributes"])
}

// view reads the members of a group, if they are shown.
func (r *request) view(ctx context.Context, work *admin.Work, g iam.SCIMGroup) (v groupView, err error) {
	v.Group = g
	if r.projection().shows("members") {
		v.Members, err = work.SCIMGroupMembers(ctx, r.tenant, g.ID)
	}
	return v, err
}

func (s *server) respondGroup(w http.ResponseWriter, r *request, status int, v groupView) error {
	return r.respond(w, status, etag(v.Group.Version), groupResource(v.Group, v.Members, r.projection()))
}

// group reads the names and the members of a group; everything else is ignored.
func (o object) group() (e admin.SCIMGroupEdit, err error) {
	name, named, err := o.text("displayName")
	if err == nil && !named {
		err = malformed(invalidValue, "displayName is required")
	}
	if err != nil {
		return e, err
	}
	externalID, _, err := o.text("externalId")
	if err != nil {
		return e, err
	}
	e = admin.SCIMGroupEdit{DisplayName: &name, ExternalID: &externalID, Set: []string{}}
	if raw, given := o["members"]; given {
		e.Set, err = members(raw)
	}
	return e, err
}

func (s *server) createGroup(w http.ResponseWriter, r *request) error {
	o, err := parseObject(r.body)
	if err != nil {
		return err
	}
	e, err := o.group()
	if err != nil {
		return err
	}
	v, err := create(r.Context(), s, r, func(ctx context.Context, work *admin.Work) (groupView, error) {
		g, err := work.CreateSCIMGroup(ctx, r.tenant, e)
		if err != nil {
			return groupView{}, err
		}
		return r.view(ctx, work, g)
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", path(r.tenant, "Groups", v.Group.ID))
	return s.respondGroup(w, r, http.StatusCreated, v)
}

func (s *server) putGroup(w http.ResponseWriter, r *request) error {
	o, err := parseObject(r.body)
	if err != nil {
		return err
	}
	e, err := o.group()
	if err != nil {
		return err
	}
	v, err := s.changeGroup(r, []admin.SCIMGroupEdit{e}, true)
	if err != nil {
		return err
	}
	return s.respondGroup(w, r, http.StatusOK, v)
}

// maxNamed is how many members the operations of one PATCH name: all leave a full group, and as many join it.
const maxNamed = 2 * iam.MaxSCIMGroupMembers

// patchGroup responds without the group, which may be large, unless attributes are requested (RFC 7644, section 3.5.2).
func (s *server) patchGroup(w http.ResponseWriter, r *request) error {
	operations, err := parsePatch(r.body)
	if err != nil {
		return err
	}
	edits := make([]admin.SCIMGroupEdit, 0, len(operations))
	named := 0
	for _, o := range operations {
		e, err := o.group()
		if err != nil {
			return err
		}
		if named += len(e.Set) + len(e.Add) + len(e.Remove); named > maxNamed {
			return malformed(invalidValue, "the operations of a PATCH name 200,000 members at most: use several requests")
		}
		edits = append(edits, e)
	}
	shown := r.URL.Query().Has("attributes")
	v, err := s.changeGroup(r, edits, shown)
	if err != nil {
		return err
	}
	if shown {
		return s.respondGroup(w, r, http.StatusOK, v)
	}
	w.Header().Set("ETag", etag(v.Group.Version))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) changeGroup(r *request, edits []admin.SCIMGroupEdit, shown bool) (groupView, error) {
	return admin.Do(r.Context(), s.Service, r.caller, r.task("update"), func(ctx context.Context, work *admin.Work) (groupView, error) {
		g, err := work.EditSCIMGroup(ctx, r.tenant, r.id(), r.condition(), edits)
		if err != nil || !shown {
			return groupView{Group: g}, err
		}
		return r.view(ctx, work, g)
	})
}

// group is an operation as a step of package admin. Attributes that are not kept are ignored.
func (o operation) group() (e admin.SCIMGroupEdit, err error) {
	switch o.name {
	case "id", "meta", "schemas":
		if o.path == "" || o.name == "schemas" {
			return e, nil // Okta repeats id in the value
		}
		return e, malformed(mutability, o.name+" cannot be written")
	case "displayname", "externalid":
		return o.groupName()
	case "members":
		return o.groupMembers()
	}
	return e, nil
}

func (o operation) groupName() (e admin.SCIMGroupEdit, err error) {
	if o.sub || o.where != nil {
		return e, malformed(invalidPath, o.name+" has no parts")
	}
	s := ""
	if o.name == "displayname" {
		if o.op == "remove" {
			return e, malformed(mutability, "displayName cannot be removed")
		}
		s, err = text("displayName", o.value)
		e.DisplayName = &s
		return e, err
	}
	if o.op != "remove" && !isNull(o.value) {
		s, err = text("externalId", o.value)
	}
	e.ExternalID = &s
	return e, err
}

func (o operation) groupMembers() (e admin.SCIMGroupEdit, err error) {
	if o.sub {
		return e, nil // display and the like are not kept
	}
	if o.where != nil {
		return o.selectedMembers()
	}
	ids, err := o.values()
	if err != nil {
		return e, err
	}
	switch {
	case o.op == "add":
		e.Add = ids
	case o.op == "replace":
		e.Set = ids
	case o.value != nil && !isNull(o.value):
		e.Remove = ids // not of the RFC: Entra ID names the members to remove in the value
	default:
		e.Set = []string{}
	}
	return e, nil
}

// selectedMembers is an operation on members[…]. A member has no attribute that could be changed, so that it is removed, or
// stays.
func (o operation) selectedMembers() (e admin.SCIMGroupEdit, err error) {
	if id, ok := single(o.where); ok && o.op == "remove" {
		e.Remove = []string{id}
		return e, nil
	}
	if e.Where, err = matcher(o.where); err != nil || o.op == "remove" {
		return e, err
	}
	if e.Where = nil; o.op == "add" {
		return e, nil
	}
	return e, malformed(mutability, "a member cannot be replaced: remove it, and add another one")
}

func (s *server) deleteGroup(w http.ResponseWriter, r *request) error {
	err := s.Service.Do(r.Context(), r.caller, r.task("delete"), func(ctx context.Context, work *admin.Work) error {
		return work.DeleteSCIMGroup(ctx, r.tenant, r.id(), r.condition())
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
