package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// Every change of state is an event, of the types that are promised, and in the audit.
// A change that changes nothing is neither.
func TestEveryChangeIsAnEventAndInTheAudit(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const subject = "particular-subject"
	var user, second string
	row := func(roles ...string) []admin.Row {
		return []admin.Row{{Issuer: pgtest.Issuer, Subject: subject, Membership: iam.Membership{Status: iam.MembershipActive, Roles: roles}}}
	}
	mapping := iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: "g", Roles: []string{"r"}}
	var none admin.Condition
	fresh, present := admin.Condition{Absent: true}, admin.Condition{Present: true}
	manifest := iam.Manifest{Service: "s", Roles: []iam.Role{{Name: "t", Permissions: []string{"s:x"}}}, Attributes: []iam.AttributeSchema{{Key: "n", Type: "integer"}}}
	var client iam.ManagedClient
	program := func(name string) admin.ClientEdit {
		return admin.ClientEdit{Registration: iam.Registration{ClientName: name, GrantTypes: []string{"client_credentials"}}, Roles: []string{"t"}}
	}
	finished := func(d admin.Done) func(context.Context, *admin.Work) error {
		return func(ctx context.Context, w *admin.Work) error {
			_, err := w.Finished(ctx, client, d)
			return err
		}
	}
	rotation := func(ctx context.Context, w *admin.Work) (err error) {
		client, err = w.RotateClientSecret(ctx, client.ClientID, admin.SecretRotation{})
		return err
	}
	revision := func(digit string) iam.PolicyRevision {
		return iam.PolicyRevision{Digest: strings.Repeat(digit, 64), Name: "v1", Source: "test", Verified: iam.VerifiedByNobody}
	}
	for _, c := range []struct {
		what   string
		tenant string
		do     func(context.Context, *admin.Work) error
		events string // types, in order
		audit  int
	}{
		{"a tenant", "", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "A"}, fresh)
			return err
		}, "TenantCreated.v1", 1},
		{"renamed", "acme", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "B"}, present)
			return err
		}, "TenantUpdated.v1", 1},
		{"renamed to what it is", "acme", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "B"}, present)
			return err
		}, "", 0},
		{"a manifest", "", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutManifest(ctx, manifest)
			return err
		}, "RoleCreated.v1 ServiceManifestApplied.v1", 2},
		{"the same manifest", "", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutManifest(ctx, manifest)
			return err
		}, "", 0},
		{"a role", "acme", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"}, fresh)
			return err
		}, "RoleCreated.v1", 1},
		{"another role", "acme", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r", Permissions: []string{"a:b"}}, present)
			return err
		}, "RoleUpdated.v1", 1},
		{"a member who was not known", "acme", func(ctx context.Context, w *admin.Work) error {
			got, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: row("r", "t"), Existing: admin.RejectExisting})
			if err == nil {
				user = got[0].Member.User
			}
			return err
		}, "UserCreated.v1 MemberAdded.v1 UserRolesAssigned.v1", 2},
		{"the same member", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: row("t", "r")}) // in another order
			return err
		}, "", 0},
		{"other roles", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: row("t")})
			return err
		}, "UserRolesAssigned.v1", 1},
		{"suspended", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EditMember(ctx, "acme", user, none, memberStatus(iam.MembershipSuspended))
			return err
		}, "MemberSuspended.v1", 1},
		{"resumed, with an end", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMember(ctx, iam.Membership{Tenant: "acme", User: user, Status: iam.MembershipActive, Roles: []string{"t"}, ExpiresAt: time.Now().Add(time.Hour)}, present)
			return err
		}, "MemberResumed.v1 MemberUpdated.v1", 1},
		{"a mapping", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.CreateMapping(ctx, mapping)
			return err
		}, "MappingCreated.v1", 1},
		{"another mapping", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetMappingRoles(ctx, "acme", mapping.ID(), []string{"r", "t"}, present)
			return err
		}, "MappingUpdated.v1", 1},
		{"no mapping", "acme", func(ctx context.Context, w *admin.Work) error {
			return w.DeleteMapping(ctx, "acme", mapping.ID(), none)
		}, "MappingDeleted.v1", 1},
		{"a user", "", func(ctx context.Context, w *admin.Work) error {
			u, err := w.CreateUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: "second", PlatformRoles: []string{"auditor"}})
			second = u.ID
			return err
		}, "UserCreated.v1", 1},
		{"attributes", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutUser(ctx, second, admin.UserEdit{Attributes: map[string]any{"n": json.Number("1")}, PlatformRoles: []string{"auditor"}}, present)
			return err
		}, "UserUpdated.v1", 1},
		{"platform roles", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutUser(ctx, second, admin.UserEdit{Attributes: map[string]any{"n": json.Number("1")}, PlatformRoles: []string{iam.PlatformAdmin}}, present)
			return err
		}, "UserPlatformRolesAssigned.v1", 1},
		{"blocked", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EditUser(ctx, user, none, userStatus(iam.UserBlocked))
			return err
		}, "UserBlocked.v1", 1},
		{"blocked again", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EditUser(ctx, user, none, userStatus(iam.UserBlocked))
			return err
		}, "", 0},
		{"unblocked", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EditUser(ctx, user, none, userStatus(iam.UserActive))
			return err
		}, "UserUnblocked.v1", 1},
		{"revoked", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.RevokeTokens(ctx, user, time.Time{})
			return err
		}, "UserTokensRevoked.v1", 1},
		{"revoked until earlier", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.RevokeTokens(ctx, user, time.Unix(1, 0))
			return err
		}, "", 0},
		{"no role", "acme", func(ctx context.Context, w *admin.Work) error {
			return w.DeleteRole(ctx, "acme", "r", admin.RejectHeld, none)
		}, "RoleDeleted.v1", 1},
		{"no member", "acme", func(ctx context.Context, w *admin.Work) error { return w.DeleteMember(ctx, "acme", user, none) }, "MemberRemoved.v1 UserUpdated.v1", 2}, // of the default tenant: the default goes
		{"a member again", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: row(), Existing: admin.RejectExisting})
			return err
		}, "MemberAdded.v1 UserUpdated.v1", 2}, // the first one: the tenant becomes the default
		{"a client, that is only tried", "acme", func(ctx context.Context, w *admin.Work) (err error) {
			client, err = w.CreateClient(ctx, "acme", program("r2"), 0)
			return err
		}, "", 1},
		{"blocked before its creation was published", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetClientStatus(ctx, client.ClientID, iam.ClientBlocked, none)
			return err
		}, "", 1},
		{"the client is made", "acme", finished(admin.Done{Secret: "x"}), "ClientCreated.v1", 0},
		{"its creation is published once", "acme", finished(admin.Done{Secret: "x"}), "", 0},
		{"unblocked client", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetClientStatus(ctx, client.ClientID, iam.ClientActive, none)
			return err
		}, "ClientUnblocked.v1", 1},
		{"blocked client", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetClientStatus(ctx, client.ClientID, iam.ClientBlocked, none)
			return err
		}, "ClientBlocked.v1", 1},
		{"revoked client", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.RevokeClientTokens(ctx, client.ClientID, time.Time{})
			return err
		}, "ClientTokensRevoked.v1", 1},
		{"another name is only tried", "acme", func(ctx context.Context, w *admin.Work) (err error) {
			client, err = w.PutClient(ctx, client.ClientID, program("other"), present, 0)
			return err
		}, "", 1},
		{"and done", "acme", finished(admin.Done{}), "ClientUpdated.v1", 0},
		{"the same client", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutClient(ctx, client.ClientID, program("other"), present, 0)
			return err
		}, "", 0},
		{"a rotation of unknown outcome", "acme", rotation, "", 1},
		{"is no event", "acme", func(ctx context.Context, w *admin.Work) error {
			return w.NotRotated(ctx, client, admin.FailedRotation{Unknown: true, Reason: "cut"})
		}, "", 1},
		{"rotation", "acme", rotation, "", 1},
		{"rotated", "acme", finished(admin.Done{Secret: "x", Overlap: time.Hour}), "ClientSecretRotated.v1", 1},
		{"the old secret ends soon", "acme", func(ctx context.Context, w *admin.Work) error {
			o.sql(`UPDATE registrations SET overlap_from = now() - interval '50 minutes', retire_at = now() + interval '10 minutes'`)
			op, err := w.EndOverlap(ctx, client.ClientID, 0)
			if op.Begun {
				t.Error("it is ended before its time")
			}
			return err
		}, "ClientSecretExpiring.v1", 0},
		{"the warning is published once", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EndOverlap(ctx, client.ClientID, 0)
			return err
		}, "", 0},
		{"its time is over", "acme", func(ctx context.Context, w *admin.Work) (err error) {
			o.sql(`UPDATE registrations SET retire_at = now()`)
			op, err := w.EndOverlap(ctx, client.ClientID, 0)
			client = op.Client
			return err
		}, "", 0},
		{"it is ended", "acme", finished(admin.Done{}), "ClientSecretRetired.v1", 1},
		{"a client is deleted here", "acme", func(ctx context.Context, w *admin.Work) (err error) {
			client, err = w.DeleteClient(ctx, client.ClientID, none, 0)
			return err
		}, "", 1},
		{"and there", "acme", finished(admin.Done{}), "ClientDeleted.v1", 0},
		{"erased", "", func(ctx context.Context, w *admin.Work) error { return w.EraseUser(ctx, user, none) }, "UserErased.v1 MemberRemoved.v1", 2},
		{"suspended tenant", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, none)
			return err
		}, "TenantSuspended.v1", 1},
		{"resumed tenant", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetTenantStatus(ctx, "acme", iam.TenantActive, none)
			return err
		}, "TenantResumed.v1", 1},
		{"archived tenant", "acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetTenantStatus(ctx, "acme", iam.TenantArchived, none)
			return err
		}, "TenantArchived.v1", 1},
		{"a policy", "", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.AddPolicyRevision(ctx, revision("a"), []byte("bundle"))
			return err
		}, "PolicyRevisionAdded.v1", 1},
		{"the same policy", "", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.AddPolicyRevision(ctx, revision("a"), []byte("bundle"))
			return err
		}, "", 0},
		{"a policy comes into force", "", func(ctx context.Context, w *admin.Work) error { return w.TakePolicy(ctx, revision("a").Digest) }, "PolicyActivated.v1", 1},
		{"it is active", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.ActivatePolicy(ctx, revision("a").Digest, admin.Activation{})
			return err
		}, "", 0},
		{"another policy comes into force", "", func(ctx context.Context, w *admin.Work) error {
			if _, _, err := w.AddPolicyRevision(ctx, revision("b"), []byte("bundle")); err != nil {
				return err
			}
			_, err := w.ActivatePolicy(ctx, revision("b").Digest, admin.Activation{})
			return err
		}, "PolicyRevisionAdded.v1 PolicyActivated.v1", 2},
		{"back again", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.RollBackPolicy(ctx, "", "it was wrong")
			return err
		}, "PolicyActivated.v1", 1},
		{"a shadow", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetPolicyShadow(ctx, revision("b").Digest, 0.5)
			return err
		}, "PolicyShadowSet.v1", 1},
		{"no shadow", "", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetPolicyShadow(ctx, revision("b").Digest, 0)
			return err
		}, "PolicyShadowSet.v1", 1},
		{"no tenant", "acme", func(ctx context.Context, w *admin.Work) error { return w.DeleteTenant(ctx, "acme", none) }, "TenantDeleted.v1", 1},
	} {
		before, entries := o.rows("outbox"), o.rows("audit")
		if err := o.do(c.tenant, c.do); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		var got []string
		for _, e := range o.events()[before:] {
			got = append(got, e.Type)
		}
		if strings.Join(got, " ") != c.events {
			t.Errorf("%s: announced %q, want %q", c.what, got, c.events)
		}
		if n := o.rows("audit") - entries; n != c.audit {
			t.Errorf("%s: %d entries, want %d", c.what, n, c.audit)
		}
	}
	o.ok(o.s.Chores(ctx, time.Hour))
	// What happens by the clock.
	o.tenant("timed")
	o.termed("timed", "soon", iam.RoleTerm{ExpiresAt: time.Now().Add(time.Hour), Reason: "x"})
	o.sql(`INSERT INTO role_requests (tenant, user_id, role, seconds, reason, approval, grants, decide_by)
		VALUES ('timed', $1, 'b', 60, 'x', 'required', '', now())`, o.termed("timed", "past", iam.RoleTerm{ExpiresAt: time.Now().Add(-time.Hour), Reason: "x"}))
	for _, loop := range []func(context.Context) (int, error){
		o.s.EndRoles, o.s.ExpireRequests, func(ctx context.Context) (int, error) { return o.s.AnnounceEnds(ctx, 2*time.Hour) },
	} {
		if n, err := loop(ctx); n != 1 || err != nil {
			t.Errorf("%d were done by the clock, %v", n, err)
		}
	}

	// Each type that is promised was caused, and its data are of the promised shape and
	// say nothing of whom it is about.
	seen := map[string]bool{}
	for _, e := range o.events() {
		i := slices.IndexFunc(iam.Events, func(x iam.EventDoc) bool { return x.Event.EventType() == e.Type })
		if i < 0 {
			t.Errorf("%s is promised nowhere", e.Type)
			continue
		}
		seen[e.Type] = true
		if kind := iam.Events[i].Event.EventKey().Kind; e.Kind != kind {
			t.Errorf("%s is of kind %s, promised is %s", e.Type, e.Kind, kind)
		}
		d := json.NewDecoder(bytes.NewReader(e.Data))
		d.DisallowUnknownFields()
		if err := d.Decode(reflect.New(reflect.TypeOf(iam.Events[i].Event)).Interface()); err != nil {
			t.Errorf("%s: %v", e.Type, err)
		}
		for _, no := range []string{subject, `"second"`, pgtest.Issuer, `"x"`} {
			if bytes.Contains(e.Data, []byte(no)) {
				t.Errorf("%s tells %s: %s", e.Type, no, e.Data)
			}
		}
	}
	for _, e := range iam.Events {
		// Those of groups need a provisioning client, those of requests a person: the tests of package adminapi cause them.
		elsewhere := []string{"RoleRequested.v1", "RoleRequestApproved.v1", "RoleRequestRejected.v1", "RoleRequestCancelled.v1", "BreakGlassUsed.v1"}
		if name := e.Event.EventType(); !seen[name] && !strings.HasPrefix(name, "ScimGroup") && !slices.Contains(elsewhere, name) {
			t.Errorf("%s was never emitted", name)
		}
	}
}

type event struct {
	Type, Kind, Object string
	Data               []byte
}

func (o *office) events() []event {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT type, kind, object, data FROM outbox ORDER BY seq`)
	o.ok(err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	o.ok(err)
	return list
}

func memberStatus(status string) func(iam.Membership) (iam.Membership, error) {
	return func(m iam.Membership) (iam.Membership, error) {
		m.Status = status
		return m, nil
	}
}

func userStatus(status string) func(*iam.User) error {
	return func(u *iam.User) error {
		u.Status = status
		return nil
	}
}
