package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var (
	ctx      = context.Background()
	operator = admin.Caller{Operator: "test", Via: "command"}
)

// office is a service without a policy: operators only.
type office struct {
	testing.TB
	s   *admin.Service
	db  *postgres.DB
	url string
}

func newOffice(t testing.TB) *office {
	t.Helper()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	return &office{t, admin.New(admin.Config{DB: db, Issuers: pgtest.Issuers, Issuer: pgtest.Issuer, Log: slog.New(slog.DiscardHandler)}), db, url}
}

// do runs one change as the operator.
func (o *office) do(tenant string, do func(context.Context, *admin.Work) error) error {
	return o.s.Do(ctx, operator, admin.Task{Action: "test:change", Tenant: tenant, Writes: true}, do)
}

func (o *office) ok(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

func (o *office) sql(statement string, args ...any) {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement, args...)
	o.ok(err)
}

func (o *office) tenant(id string) {
	o.Helper()
	o.ok(o.do(id, func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: id, Slug: id, Name: id}, admin.Condition{Absent: true})
		return err
	}))
}

func (o *office) rows(table string) (n int) {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	o.ok(conn.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n))
	return n
}

// The first administrator is made while there is none, and only then.
func TestTheFirstAdministratorIsCreatedOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for i, c := range []struct {
		subject string
		unless  bool
		done    bool
		is      bool // an administrator, as far as is known
	}{{"first", true, true, true}, {"first", true, false, true}, {"second", true, false, false}, {"second", false, true, true}, {"second", false, false, true}, {"second", true, false, true}} {
		got, err := o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.Issuer, Subject: c.subject, Role: iam.PlatformAdmin, OnlyFirst: c.unless})
		o.ok(err)
		if got.Changed != c.done || (got.User != "") != c.is {
			t.Errorf("%d: %+v: got %+v", i, c, got)
		}
	}
	_, err := o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.LimitedIssuer, Subject: "x", Role: iam.PlatformAdmin})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("of an issuer that is not trusted with it: %v", err)
	}
	_, err = o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.Issuer, Subject: "x", Role: "emperor"})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("an unknown role: %v", err)
	}
}

// What fails leaves nothing, whatever was written before it failed.
func TestAFailedChangeLeavesNothing(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	before := o.rows("audit") + o.rows("outbox") + o.rows("roles")
	boom := errors.New("boom")
	err := o.do("acme", func(ctx context.Context, w *admin.Work) error {
		if _, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"}, admin.Condition{Absent: true}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) || o.rows("audit")+o.rows("outbox")+o.rows("roles") != before {
		t.Errorf("%v, and something is left", err)
	}
}

// A global role can make a tenant's chain longer than is allowed there. That is no reason
// to refuse another edit of the tenant's role.
func TestWhatIsTooLongAlreadyCanStillBeEdited(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	put := func(tenant, name, inherits, description string) error {
		r := iam.Role{Tenant: tenant, Name: name, Description: description}
		if inherits != "" {
			r.Inherits = []string{inherits}
		}
		return o.db.PutRole(ctx, r)
	}
	o.ok(put("", "g0", "", ""))
	o.ok(put("acme", "own", "g0", ""))
	for i := 1; i <= 16; i++ {
		o.ok(put("", fmt.Sprint("g", i), "", ""))
	}
	for i := 15; i >= 0; i-- {
		o.ok(put("", fmt.Sprint("g", i), fmt.Sprint("g", i+1), ""))
	}
	o.ok(put("acme", "own", "g0", "another description"))
	if err := put("acme", "longer", "own", ""); iam.KindOf(err) != iam.Invalid {
		t.Errorf("longer still: %v", err)
	}
}

// Numbers that are short to write and long to store are refused, not a fault of ours.
func TestAttributesThatSwellAreInvalid(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	manifest := iam.Manifest{Service: "s"}
	values := map[string]any{}
	for i := range 60 {
		key := fmt.Sprint("n", i)
		manifest.Attributes = append(manifest.Attributes, iam.AttributeSchema{Key: key, Type: "number"})
		values[key] = json.Number("1e308")
	}
	o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutManifest(ctx, manifest)
		return err
	}))
	err := o.do("", func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "A", Attributes: values}, admin.Condition{Absent: true})
		return err
	})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("got %v", err)
	}
}

// A change is answered after this replica has invalidated what it changed.
func TestAChangeReturnsAfterThisReplicaHasInvalidated(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	settled := 0
	s := admin.New(admin.Config{DB: o.db, Issuers: pgtest.Issuers, Invalidate: func(c []directory.Change) { settled += len(c) }, Log: slog.New(slog.DiscardHandler)})
	create := func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "A"}, admin.Condition{Absent: true})
		return err
	}
	o.ok(s.Do(ctx, operator, admin.Task{Writes: true}, create))
	if settled != 1 {
		t.Errorf("settled %d times after a change", settled)
	}
	if err := s.Do(ctx, operator, admin.Task{Writes: true}, create); err == nil || settled != 1 {
		t.Errorf("settled %d times after a failure: %v", settled, err)
	}
	o.ok(s.Do(ctx, operator, admin.Task{}, func(ctx context.Context, w *admin.Work) error {
		_, err := w.Tenant(ctx, "acme")
		return err
	}))
	if settled != 1 {
		t.Errorf("settled %d times after reading", settled)
	}
}
