package admin_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// pieces verifies the audit in pieces of so many entries, and returns the faults by chain, and the pieces.
func (o *office) pieces(entries int) (faults map[string]string, pieces []admin.AuditPiece) {
	o.Helper()
	faults = map[string]string{}
	var from *admin.AuditPlace
	for range 1000 {
		p, err := admin.Do(ctx, o.s, operator, admin.Task{Action: "audit-chain:read"}, func(ctx context.Context, w *admin.Work) (admin.AuditPiece, error) {
			return w.VerifyAudit(ctx, from, entries)
		})
		o.ok(err)
		pieces = append(pieces, p)
		if p.Entries > entries {
			o.Errorf("a piece of %d has %d entries", entries, p.Entries)
		}
		for _, f := range p.Faults {
			faults[f.Chain] += f.Fault
		}
		if from = p.Next; from == nil {
			return faults, pieces
		}
	}
	o.Fatal("it does not end")
	return nil, nil
}

// Piece by piece, the same is found as at once, however small the pieces are.
func TestTamperingIsFoundInPiecesOfTheAudit(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"nothing":              `SELECT 1`,
		"another object":       `UPDATE audit SET object = 'x' WHERE seq = 2 AND chain = 'acme'`,
		"one is missing":       `DELETE FROM audit WHERE seq = 2 AND chain = 'acme'`,
		"the first is missing": `DELETE FROM audit WHERE seq = 1 AND chain = 'globex'`,
		"the last is missing":  `DELETE FROM audit WHERE seq = 4`,
		"all of a chain":       `DELETE FROM audit WHERE chain = 'acme'`,
		"a head":               `DELETE FROM audit_heads WHERE chain = 'acme'`,
		"two changed places":   `UPDATE audit SET seq = CASE seq WHEN 2 THEN 3 ELSE 2 END WHERE seq IN (2, 3)`,
		"the head set back":    `UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3 AND chain = 'acme') WHERE chain = 'acme'`,
		"one more of a number": `INSERT INTO audit SELECT chain, seq, at + interval '1 second', actor_kind, 'x', via, address, request_id, decision_id, action, kind, object, before, after, prev, hash FROM audit WHERE seq = 2`,
		"another hash":         `UPDATE audit SET hash = sha256(hash) WHERE seq = 4`,
		"a cut in between":     `WITH d AS (DELETE FROM audit WHERE chain = 'acme' AND seq <= 2 RETURNING seq, hash) INSERT INTO audit_cuts SELECT 'acme', seq, hash FROM d WHERE seq = 2`,
		"a rollback":           `CREATE TABLE audit_destroyed (id bigint GENERATED ALWAYS AS IDENTITY, chain text, seq bigint, hash bytea, destroyed_at timestamptz DEFAULT now(), destroyed_by text DEFAULT 'owner'); INSERT INTO audit_destroyed (chain, seq, hash) VALUES ('gone', 7, '')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			for _, tenant := range []string{"acme", "globex"} {
				o.tenant(tenant)
				for _, status := range []string{iam.TenantSuspended, iam.TenantActive, iam.TenantArchived} {
					o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
						_, err := w.SetTenantStatus(ctx, tenant, status, admin.Condition{})
						return err
					}))
				}
			}
			o.sql(sql)
			want := map[string]string{}
			for v := range o.verify(nil) {
				if v.Fault != "" {
					want[v.Chain] += v.Fault
				}
			}
			if (name == "nothing" || name == "a cut in between") != (len(want) == 0) {
				t.Fatalf("at once: %v", want)
			}
			for _, entries := range []int{1, 3, 4, 1000} {
				got, pieces := o.pieces(entries)
				if !maps.Equal(got, want) {
					t.Errorf("in pieces of %d: got %v, want %v", entries, got, want)
				}
				var before int64
				for i, p := range pieces {
					if p.Extent.Before < before || p.Extent.Before > p.Extent.Entries {
						t.Errorf("in pieces of %d, piece %d goes from %d to %d of %d", entries, i, before, p.Extent.Before, p.Extent.Entries)
					}
					before = p.Extent.Before
				}
				if last := pieces[len(pieces)-1].Extent; last.Before != last.Entries || last.ChainsBefore != last.Chains {
					t.Errorf("in pieces of %d: it ends at %+v", entries, last)
				}
			}
		})
	}
}

// What is written and what is cut while a page verifies is no fault; what is changed before it is read is one.
func TestTheAuditGrowsWhileItIsVerified(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	toggle := func(status string) {
		o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetTenantStatus(ctx, "acme", status, admin.Condition{})
			return err
		}))
	}
	toggle(iam.TenantSuspended)
	toggle(iam.TenantActive)
	piece := func(from *admin.AuditPlace) admin.AuditPiece {
		p, err := admin.Do(ctx, o.s, operator, admin.Task{Action: "audit-chain:read"}, func(ctx context.Context, w *admin.Work) (admin.AuditPiece, error) {
			return w.VerifyAudit(ctx, from, 2)
		})
		o.ok(err)
		return p
	}
	first := piece(nil)
	if first.Next == nil || first.Next.Seq != 2 || len(first.Faults) > 0 {
		t.Fatalf("%+v", first)
	}
	toggle(iam.TenantSuspended)
	o.sql(`WITH d AS (DELETE FROM audit WHERE seq <= 3 RETURNING seq, hash) INSERT INTO audit_cuts SELECT 'acme', seq, hash FROM d WHERE seq = 3`)
	if next := piece(first.Next); len(next.Faults) > 0 || next.Next == nil && next.Entries != 1 {
		t.Errorf("%+v", next)
	}
	// An entry that was right when it was read, and is changed since, no longer fits what was read.
	toggle(iam.TenantActive)
	toggle(iam.TenantSuspended)
	second := piece(&admin.AuditPlace{Chain: "acme", Seq: 3, Hash: first.Next.Hash, At: time.Now().Add(-time.Hour)})
	if len(second.Faults) != 1 || second.Faults[0].Seq != 4 || second.Faults[0].Entry == nil || second.Faults[0].Fault != fmt.Sprintf("entry %d does not follow entry %d: one of them was changed", 4, 3) {
		t.Errorf("%+v", second)
	}
}
