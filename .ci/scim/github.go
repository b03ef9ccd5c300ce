package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	gh "github.com/google/go-github/v81/github"
)

// github provisions by the SCIM client of github.com/google/go-github (EnterpriseService).
func github(ctx context.Context, t target) error {
	client, err := gh.NewClient(&http.Client{Transport: t.transport("/api/v3/scim/v2/enterprises/" + t.tenant)}).WithEnterpriseURLs(t.url, t.url)
	if err != nil {
		return err
	}
	s := client.Enterprise
	user := func(name string) gh.SCIMEnterpriseUserAttributes {
		return gh.SCIMEnterpriseUserAttributes{
			Schemas: []string{gh.SCIMSchemasURINamespacesUser}, UserName: t.prefix + "-" + name, ExternalID: t.prefix + "-ext-" + name, Active: true,
			DisplayName: name, Name: &gh.SCIMEnterpriseUserName{GivenName: name, FamilyName: "Test"},
			Emails: []*gh.SCIMEnterpriseUserEmail{{Value: name + "@example.com", Primary: true, Type: "work"}},
			Roles:  []*gh.SCIMEnterpriseUserRole{{Value: "enterprise_owner"}},
		}
	}
	ids := map[string]string{}
	for _, name := range []string{"ada", "bob", "eve"} {
		made, _, err := s.ProvisionSCIMUser(ctx, t.tenant, user(name))
		if err != nil {
			return doing("create "+name, err)
		}
		if made.ID == nil || made.UserName != t.prefix+"-"+name || !made.Active || made.Meta == nil || made.Meta.Created == nil {
			return fmt.Errorf("create %s: got %+v", name, made)
		}
		ids[name] = *made.ID
	}
	if _, response, err := s.ProvisionSCIMUser(ctx, t.tenant, user("ada")); err == nil || response.StatusCode != http.StatusConflict {
		return fmt.Errorf("create ada again: %w", errors.Join(err, errors.New("a conflict was expected")))
	}
	found, _, err := s.ListProvisionedSCIMUsers(ctx, t.tenant, &gh.ListProvisionedSCIMUsersEnterpriseOptions{Filter: gh.Ptr(`externalId eq "` + t.prefix + `-ext-bob"`)})
	if err != nil || len(found.Resources) != 1 || found.Resources[0].UserName != t.prefix+"-bob" {
		return fmt.Errorf("find bob: got %v, %w", found, err)
	}
	group, _, err := s.ProvisionSCIMGroup(ctx, t.tenant, gh.SCIMEnterpriseGroupAttributes{
		Schemas: []string{gh.SCIMSchemasURINamespacesGroups}, DisplayName: gh.Ptr(t.prefix + " writers"), ExternalID: gh.Ptr(t.prefix + "-group"),
		Members: []*gh.SCIMEnterpriseDisplayReference{{Value: ids["ada"]}, {Value: ids["bob"]}},
	})
	if err != nil || group.ID == nil || len(group.Members) != 2 {
		return fmt.Errorf("create a group: got %v, %w", group, err)
	}
	patch := func(op, path, value string) gh.SCIMEnterpriseAttribute {
		return gh.SCIMEnterpriseAttribute{
			Schemas:    []string{gh.SCIMSchemasURINamespacesPatchOp},
			Operations: []*gh.SCIMEnterpriseAttributeOperation{{Op: op, Path: gh.Ptr(path), Value: gh.Ptr(value)}},
		}
	}
	if _, _, err := s.UpdateSCIMGroupAttribute(ctx, t.tenant, *group.ID, patch("replace", "displayName", t.prefix+" editors")); err != nil {
		return doing("rename the group", err)
	}
	if _, _, err := s.SetProvisionedSCIMGroup(ctx, t.tenant, *group.ID, gh.SCIMEnterpriseGroupAttributes{
		Schemas: []string{gh.SCIMSchemasURINamespacesGroups}, DisplayName: gh.Ptr(t.prefix + " editors"), ExternalID: gh.Ptr(t.prefix + "-group"),
		Members: []*gh.SCIMEnterpriseDisplayReference{{Value: ids["ada"]}, {Value: ids["eve"]}},
	}); err != nil {
		return doing("replace the group", err)
	}
	if _, _, err := s.UpdateSCIMUserAttribute(ctx, t.tenant, ids["bob"], patch("replace", "active", "False")); err != nil {
		return doing("suspend bob", err)
	}
	replaced := user("ada")
	replaced.DisplayName = "Ada"
	if got, _, err := s.SetProvisionedSCIMUser(ctx, t.tenant, ids["ada"], replaced); err != nil || len(got.Groups) != 1 {
		return fmt.Errorf("replace ada: got %v, %w", got, err)
	}
	if _, err := s.DeleteSCIMUser(ctx, t.tenant, ids["eve"]); err != nil {
		return doing("delete eve", err)
	}
	groups, _, err := s.ListProvisionedSCIMGroups(ctx, t.tenant, &gh.ListProvisionedSCIMGroupsEnterpriseOptions{Filter: gh.Ptr(`displayName eq "` + t.prefix + ` Editors"`)})
	if err != nil || len(groups.Resources) != 1 || len(groups.Resources[0].Members) != 1 || groups.Resources[0].Members[0].Value != ids["ada"] {
		return fmt.Errorf("find the group: got %v, %w", groups, err)
	}
	spare, _, err := s.ProvisionSCIMGroup(ctx, t.tenant, gh.SCIMEnterpriseGroupAttributes{DisplayName: gh.Ptr(t.prefix + " spare")})
	if err != nil {
		return doing("create another group", err)
	}
	_, err = s.DeleteSCIMGroup(ctx, t.tenant, *spare.ID)
	return doing("delete a group", err)
}
