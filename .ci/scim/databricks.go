package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	sdk "github.com/databricks/databricks-sdk-go"
	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
)

// databricks provisions by the SCIM client of github.com/databricks/databricks-sdk-go.
func databricks(ctx context.Context, t target) error {
	w, err := sdk.NewWorkspaceClient(&sdk.Config{Host: t.url, Token: "unused", AuthType: "pat", HTTPTransport: t.transport("/api/2.0/preview/scim/v2"), RetryTimeoutSeconds: 5})
	if err != nil {
		return err
	}
	ids := map[string]string{}
	for _, name := range []string{"ada", "bob", "eve"} {
		made, err := w.Users.Create(ctx, iam.User{
			UserName: t.prefix + "-" + name, ExternalId: t.prefix + "-ext-" + name, Active: true, DisplayName: name,
			Emails:       []iam.ComplexValue{{Value: name + "@example.com", Primary: true}},
			Entitlements: []iam.ComplexValue{{Value: "allow-cluster-create"}}, Roles: []iam.ComplexValue{{Value: "admin"}},
			Schemas: []iam.UserSchema{iam.UserSchemaUrnIetfParamsScimSchemasCore20User},
		})
		if err != nil {
			return doing("create "+name, err)
		}
		if made.Id == "" || made.UserName != t.prefix+"-"+name || !made.Active {
			return fmt.Errorf("create %s: got %+v", name, made)
		}
		ids[name] = made.Id
	}
	if _, err := w.Users.Create(ctx, iam.User{UserName: t.prefix + "-ada"}); !isStatus(err, http.StatusConflict) {
		return fmt.Errorf("create ada again: got %w, want a conflict", err)
	}
	listed, err := w.Users.ListAll(ctx, iam.ListUsersRequest{Filter: `userName sw "` + t.prefix + `-"`, Count: 2, Attributes: "id,userName"})
	if err != nil || len(listed) < 2 { // its Count limits the whole list too
		return fmt.Errorf("list users: got %v, %w", listed, err)
	}
	group, err := w.Groups.Create(ctx, iam.Group{DisplayName: t.prefix + " writers", Members: []iam.ComplexValue{{Value: ids["bob"]}}})
	if err != nil || group.Id == "" {
		return fmt.Errorf("create a group: got %v, %w", group, err)
	}
	if err := w.Groups.Patch(ctx, iam.PartialUpdate{
		Id: group.Id, Schemas: []iam.PatchSchema{iam.PatchSchemaUrnIetfParamsScimApiMessages20PatchOp},
		Operations: []iam.Patch{
			{Op: iam.PatchOpAdd, Path: "members", Value: []iam.ComplexValue{{Value: ids["ada"]}, {Value: ids["eve"]}}},
			{Op: iam.PatchOpRemove, Path: `members[value eq "` + ids["bob"] + `"]`},
			{Op: iam.PatchOpReplace, Path: "displayName", Value: t.prefix + " editors"},
		},
	}); err != nil {
		return doing("change the group", err)
	}
	if err := w.Users.Patch(ctx, iam.PartialUpdate{
		Id: ids["bob"], Schemas: []iam.PatchSchema{iam.PatchSchemaUrnIetfParamsScimApiMessages20PatchOp},
		Operations: []iam.Patch{{Op: iam.PatchOpReplace, Value: map[string]any{"active": false}}},
	}); err != nil {
		return doing("suspend bob", err)
	}
	if err := w.Users.Update(ctx, iam.User{Id: ids["ada"], UserName: t.prefix + "-ada", DisplayName: "Ada", Active: true}); err != nil {
		return doing("replace ada", err)
	}
	if err := w.Users.DeleteById(ctx, ids["eve"]); err != nil {
		return doing("delete eve", err)
	}
	if _, err := w.Users.GetById(ctx, ids["eve"]); !isStatus(err, http.StatusNotFound) {
		return fmt.Errorf("read eve: got %w, want not found", err)
	}
	bob, err := w.Users.GetById(ctx, ids["bob"])
	if err != nil || bob.Active {
		return fmt.Errorf("read bob: got %v, %w", bob, err)
	}
	found, err := w.Groups.GetById(ctx, group.Id)
	if err != nil || found.DisplayName != t.prefix+" editors" || len(found.Members) != 1 || found.Members[0].Value != ids["ada"] {
		return fmt.Errorf("read the group: got %v, %w", found, err)
	}
	spare, err := w.Groups.Create(ctx, iam.Group{DisplayName: t.prefix + " spare"})
	if err == nil {
		err = w.Groups.DeleteById(ctx, spare.Id)
	}
	return doing("create and delete another group", err)
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*apierr.APIError](err)
	return ok && e.StatusCode == status
}
