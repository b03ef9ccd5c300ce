package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

// appendAudit adds entries to the ends of their chains.
func (tx *Tx) appendAudit(ctx context.Context, entries []iam.AuditEntry) error {
	heads := map[string]*ChainHead{}
	rows := make([][]any, 0, len(entries))
	var at time.Time
	for i := range entries {
		e := &entries[i]
		h := heads[e.Chain]
		if h == nil {
			h = &ChainHead{}
			heads[e.Chain] = h
			// One statement creates the head if there is none, and locks it. The time is read under the
			// lock, so that it never decreases along a chain.
			err := tx.tx.QueryRow(ctx, `
				INSERT INTO audit_heads AS h (chain, seq, hash) VALUES ($1, 0, '')
				ON CONFLICT ON CONSTRAINT audit_heads_pkey DO UPDATE SET seq = h.seq
				RETURNING seq, hash, clock_timestamp()`, e.Chain).Scan(&h.Seq, &h.Hash, &at)
			if err != nil {
				return err
			}
		}
		h.Seq++
		e.Seq, e.Prev, e.At = h.Seq, h.Hash, at.UTC().Truncate(time.Microsecond)
		sum, err := e.Sum()
		if err != nil {
			return err
		}
		e.Hash, h.Hash = sum, sum
		rows = append(rows, []any{
			e.Chain, e.Seq, e.At, e.ActorKind, e.Actor, e.Via, e.Address, e.RequestID, e.DecisionID, e.Action, e.Kind, e.Object,
			absent(e.Before), absent(e.After), e.Prev, e.Hash,
		})
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.tx.CopyFrom(ctx, pgx.Identifier{"audit"}, auditColumns, pgx.CopyFromRows(rows))
	if err != nil {
		return err
	}
	for chain, h := range heads {
		if _, err := tx.tx.Exec(ctx, `UPDATE audit_heads SET seq = $2, hash = $3 WHERE chain = $1`, chain, h.Seq, h.Hash); err != nil {
			return err
		}
	}
	return nil
}

var auditColumns = []string{
	"chain", "seq", "at", "actor_kind", "actor", "via", "address", "request_id", "decision_id",
	"action", "kind", "object", "before", "after", "prev", "hash",
}

// AuditFilter selects entries; an empty field matches all.
type AuditFilter struct {
	Chain                       *string // nil: all
	Actor, Action, Kind, Object string
	From, Until                 time.Time
	BeforeAt                    time.Time // these three: the last entry of the page before
	BeforeChain                 string
	BeforeSeq                   int64
	Limit                       int
}

// Audit lists entries, the newest first.
func (tx *Tx) Audit(ctx context.Context, f AuditFilter) ([]iam.AuditEntry, error) {
	var w where
	if f.Chain != nil {
		w.and("chain = $%d", *f.Chain)
	}
	w.only("actor = $%d", f.Actor)
	w.only("action = $%d", f.Action)
	w.only("kind = $%d", f.Kind)
	w.only("object = $%d", f.Object)
	if !f.From.IsZero() {
		w.and("at >= $%d", f.From)
	}
	if !f.Until.IsZero() {
		w.and("at < $%d", f.Until)
	}
	if !f.BeforeAt.IsZero() {
		n := len(w.args)
		w.args = append(w.args, f.BeforeAt, f.BeforeChain, f.BeforeSeq)
		w.conditions = append(w.conditions, fmt.Sprintf("(at, chain, seq) < ($%d, $%d, $%d)", n+1, n+2, n+3))
	}
	return tx.audit(ctx, w.sql("at DESC, chain DESC, seq DESC", f.Limit), w.args...)
}

// Chain lists a chain from its beginning, or after an entry. The time of the entry is compared too:
// in a manipulated chain a number may occur twice.
func (tx *Tx) Chain(ctx context.Context, chain string, after *iam.AuditEntry, limit int) ([]iam.AuditEntry, error) {
	if after == nil {
		return tx.audit(ctx, ` WHERE chain = $1 ORDER BY seq, at LIMIT $2`, chain, limit)
	}
	return tx.audit(ctx, ` WHERE chain = $1 AND (seq, at) > ($2, $3) ORDER BY seq, at LIMIT $4`, chain, after.Seq, after.At, limit)
}

// ChainHead is the recorded end of a chain.
type ChainHead struct {
	Seq  int64
	Hash []byte
}

// Head returns the recorded end of a chain, and whether there is one.
func (tx *Tx) Head(ctx context.Context, chain string) (h ChainHead, found bool, err error) {
	found, err = tx.look(ctx, `SELECT seq, hash FROM audit_heads WHERE chain = $1`, []any{chain}, &h.Seq, &h.Hash)
	return h, found, wrap("read the head of a chain", err)
}

func (tx *Tx) audit(ctx context.Context, tail string, args ...any) ([]iam.AuditEntry, error) {
	return collect(ctx, tx, statement{doing: "read the audit", sql: `
		SELECT chain, seq, at, actor_kind, actor, via, address, request_id, decision_id, action, kind, object, before, after, prev, hash
		  FROM audit` + tail, args: args},
		pgx.RowToStructByPos[iam.AuditEntry])
}

// ChainEnds is where the remaining part of a chain begins.
type ChainEnds struct {
	Chain   string
	CutSeq  int64 // last entry that retention has removed; 0: none
	CutHash []byte
}

// Chains lists all chains of the audit.
func (tx *Tx) Chains(ctx context.Context) ([]ChainEnds, error) {
	return collect(ctx, tx, statement{doing: "read the chains of the audit", sql: `
		SELECT coalesce(h.chain, a.chain), coalesce(c.seq, 0), coalesce(c.hash, '')
		  FROM audit_heads h FULL JOIN (SELECT DISTINCT chain FROM audit) a ON a.chain = h.chain
		  LEFT JOIN audit_cuts c ON c.chain = coalesce(h.chain, a.chain)
		 ORDER BY 1`}, pgx.RowToStructByPos[ChainEnds])
}

// ChainFrom says which chain is next.
type ChainFrom struct {
	After bool // the one after Chain, else Chain itself or the first after it
	Chain string
}

// NextChain returns a chain of the audit, in the order of their names, and whether there is one.
func (tx *Tx) NextChain(ctx context.Context, from ChainFrom) (c ChainEnds, found bool, err error) {
	than := ">="
	if from.After {
		than = ">"
	}
	found, err = tx.look(ctx, `
		SELECT x.chain, coalesce(c.seq, 0), coalesce(c.hash, '')
		  FROM ((SELECT chain FROM audit_heads WHERE chain `+than+` $1 ORDER BY chain LIMIT 1)
		        UNION (SELECT chain FROM audit WHERE chain `+than+` $1 ORDER BY chain LIMIT 1)) x
		  LEFT JOIN audit_cuts c ON c.chain = x.chain
		 ORDER BY 1 LIMIT 1`, []any{from.Chain}, &c.Chain, &c.CutSeq, &c.CutHash)
	return c, found, wrap("find a chain of the audit", err)
}

// AuditExtent is how much of the audit there is, by its heads.
type AuditExtent struct {
	Entries, Before      int64 // of all chains, and before a place in their order
	Chains, ChainsBefore int64
}

// AuditExtent counts the entries and chains of the audit, without those that retention has removed.
func (tx *Tx) AuditExtent(ctx context.Context) (x AuditExtent, err error) {
	_, err = tx.look(ctx, `
		SELECT coalesce(sum(h.seq - coalesce(c.seq, 0)), 0)::bigint, count(*) FROM audit_heads h LEFT JOIN audit_cuts c ON c.chain = h.chain`,
		nil, &x.Entries, &x.Chains)
	return x, wrap("count the entries of the audit", err)
}

// AuditBefore counts the entries and the whole chains before an entry of a chain, or with the whole chain.
func (tx *Tx) AuditBefore(ctx context.Context, chain string, seq int64, whole bool) (entries, chains int64, err error) {
	_, err = tx.look(ctx, `
		SELECT coalesce(sum(CASE WHEN h.chain < $1 OR $3 THEN h.seq ELSE greatest($2, coalesce(c.seq, 0)) END - coalesce(c.seq, 0)), 0)::bigint,
		       count(*) FILTER (WHERE h.chain < $1 OR $3)
		  FROM audit_heads h LEFT JOIN audit_cuts c ON c.chain = h.chain WHERE h.chain <= $1`, []any{chain, seq, whole}, &entries, &chains)
	return entries, chains, wrap("count the entries of the audit", err)
}

// takeCheckpoints returns the heads of the chains that have grown since their last checkpoint, and
// records that they are published.
func (tx *Tx) takeCheckpoints(ctx context.Context) ([]iam.Checkpoint, error) {
	return collect(ctx, tx, statement{doing: "read the heads of the audit", sql: `
		UPDATE audit_heads SET published = seq WHERE published < seq RETURNING chain, seq, encode(hash, 'hex')`},
		pgx.RowToStructByPos[iam.Checkpoint])
}

// PartitionAudit creates partitions of the audit ahead of time. It fails with code "busy" if it cannot
// lock the default partition within a second.
func (tx *Tx) PartitionAudit(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT iam_audit_partitions()`)
	return wrap("create partitions of the audit", err)
}

// CountUnpartitionedAudit counts the entries in the default partition of the audit, MaxCounted at most.
// The hourly chores move them into the partitions of their months.
func (db *DB) CountUnpartitionedAudit(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM audit_default LIMIT $1) x`, MaxCounted).Scan(&n)
	return n, wrap("count entries in the default partition", err)
}

// PruneAudit drops the months of the audit that ended before a time, and records where each chain was
// cut. A month with entries that no checkpoint covers yet is an error. It needs the tables' owner.
func (tx *Tx) PruneAudit(ctx context.Context, before time.Time) (dropped []string, err error) {
	names, err := collect(ctx, tx, statement{doing: "read the partitions of the audit", sql: `
		SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		 WHERE i.inhparent = 'audit'::regclass AND c.relname ~ '^audit_[0-9]{4}_[0-9]{2}$' ORDER BY 1`}, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		month, err := time.Parse("audit_2006_01", name)
		if err != nil || month.AddDate(0, 1, 0).After(before) {
			continue
		}
		table := pgx.Identifier{name}.Sanitize()
		var uncovered int
		_, err = tx.look(ctx, `
			SELECT count(*) FROM `+table+` a LEFT JOIN audit_heads h USING (chain) WHERE h.chain IS NULL OR a.seq > h.published`, nil, &uncovered)
		if err != nil {
			return nil, wrap("find entries without a checkpoint", err)
		}
		if uncovered > 0 {
			return nil, fmt.Errorf("%s holds %d entries that no checkpoint covers yet: the service publishes checkpoints hourly", name, uncovered)
		}
		_, err = tx.tx.Exec(ctx, `
			INSERT INTO audit_cuts AS c (chain, seq, hash, until) SELECT DISTINCT ON (chain) chain, seq, hash, $1::timestamptz FROM `+table+` ORDER BY chain, seq DESC
			ON CONFLICT ON CONSTRAINT audit_cuts_pkey DO UPDATE
			   SET seq = excluded.seq, hash = excluded.hash, until = greatest(c.until, excluded.until), cut_at = now() WHERE c.seq < excluded.seq`,
			month.AddDate(0, 1, 0))
		if err == nil {
			_, err = tx.tx.Exec(ctx, `DROP TABLE `+table)
		}
		if err != nil {
			return nil, wrap("drop "+name, err)
		}
		dropped = append(dropped, name)
	}
	return dropped, nil
}

// DestroyedChain is a chain of the audit that a rollback of migrations has destroyed.
type DestroyedChain struct {
	Chain string
	Seq   int64 // of its last entry
	At    string
	By    string
}

// DestroyedChains lists chains that a rollback has destroyed, the last one first. A rollback that was killed after
// recording the heads has destroyed nothing: it is not listed, since the last entry still exists.
func (tx *Tx) DestroyedChains(ctx context.Context) ([]DestroyedChain, error) {
	var known bool
	if _, err := tx.look(ctx, `SELECT to_regclass('audit_destroyed') IS NOT NULL`, nil, &known); err != nil || !known {
		return nil, wrap("find destroyed chains", err)
	}
	return collect(ctx, tx, statement{doing: "read destroyed chains", sql: `
		SELECT chain, seq, to_char(destroyed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), destroyed_by FROM audit_destroyed AS d
		WHERE NOT EXISTS (SELECT FROM audit AS a WHERE a.chain = d.chain AND a.seq = d.seq AND a.hash = d.hash) ORDER BY id DESC`},
		pgx.RowToStructByPos[DestroyedChain])
}
