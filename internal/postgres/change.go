package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// DeleteTenant deletes a tenant with its roles, members and mappings, and keeps its
// id from being used again.
func (tx *Tx) DeleteTenant(ctx context.Context, id string) error {
	// By the foreign key it would go too, and the version would not tell.
	_, err := tx.tx.Exec(ctx, `UPDATE users SET default_tenant = NULL, version = nextval('iam_versions'), updated_at = now() WHERE default_tenant = $1`, id)
	if err == nil {
		_, err = tx.tx.Exec(ctx, `DELETE FROM tenants WHERE id = $1`, id)
	}
	if err == nil {
		_, err = tx.tx.Exec(ctx, `DELETE FROM tenant_usage WHERE tenant = $1`, id)
	}
	if violates(err, "clients_tenant_fkey") {
		return &iam.Error{Kind: iam.Conflict, Detail: "the tenant has clients", Cause: err}
	}
	if err == nil {
		_, err = tx.tx.Exec(ctx, `INSERT INTO retired_tenants (id) VALUES ($1)`, id)
	}
	return wrap("delete a tenant", err)
}

// DeleteRole deletes a role; who still holds it is not looked at. LockRoles before.
func (tx *Tx) DeleteRole(ctx context.Context, tenant, name string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM roles WHERE tenant IS NOT DISTINCT FROM nullif($1, '') AND name = $2`, tenant, name)
	return wrap("delete a role", err)
}

// DeleteUser forgets a user, memberships and answers about them included.
func (tx *Tx) DeleteUser(ctx context.Context, id string) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM users WHERE id = $1::uuid`, id)
	if err == nil {
		// That it was asked stays, so that it is not done once more; the answer goes.
		_, err = tx.tx.Exec(ctx, `UPDATE idempotency SET answer = NULL, users = '{}' WHERE users @> ARRAY[$1::uuid]`, id)
	}
	return wrap("delete a user", err)
}

// DeleteMember ends a membership, and with it the default tenant of a user where it is this one:
// cleared is the user as they are then, empty where the default stays.
func (tx *Tx) DeleteMember(ctx context.Context, tenant, user string) (cleared []iam.User, err error) {
	tag, err := tx.tx.Exec(ctx, `DELETE FROM memberships WHERE tenant = $1 AND user_id = $2::uuid`, tenant, user)
	if err == nil && tag.RowsAffected() == 0 {
		err = errLostRace // the user was erased meanwhile
	}
	if err != nil {
		return nil, wrap("delete a membership", err)
	}
	tag, err = tx.tx.Exec(ctx, `UPDATE users SET default_tenant = NULL, version = nextval('iam_versions'), updated_at = now() WHERE id = $1::uuid AND default_tenant = $2`, user, tenant)
	if err != nil || tag.RowsAffected() == 0 {
		return nil, wrap("clear a default tenant", err)
	}
	return tx.users(ctx, `WHERE u.id = $1::uuid`, user)
}

// DeleteMapping deletes a mapping.
func (tx *Tx) DeleteMapping(ctx context.Context, m iam.Mapping) error {
	_, err := tx.tx.Exec(ctx, `DELETE FROM mappings WHERE tenant = $1 AND issuer = $2 AND claim = $3 AND value = $4`, m.Tenant, m.Issuer, m.Claim, m.Value)
	return wrap("delete a mapping", err)
}

// PutService makes or replaces a service, what it declares included, and returns the
// new version. The global roles must be locked.
func (tx *Tx) PutService(ctx context.Context, s iam.Service, manifest json.RawMessage, attributes []iam.AttributeSchema) (version int64, err error) {
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO services AS s (name, issuer, client_id) VALUES ($1, nullif($2, ''), nullif($3, ''))
		ON CONFLICT ON CONSTRAINT services_pkey DO UPDATE
		   SET issuer = excluded.issuer, client_id = excluded.client_id, version = s.version + 1, updated_at = now()
		RETURNING version`, s.Name, s.Issuer, s.ClientID).Scan(&version)
	if err != nil {
		return 0, wrap("put a service", err)
	}
	if _, err = tx.tx.Exec(ctx, `INSERT INTO manifests (service, version, manifest) VALUES ($1, $2, $3)`, s.Name, version, manifest); err != nil {
		return 0, wrap("keep a manifest", err)
	}
	keys := make([]string, 0, len(attributes))
	for _, a := range attributes {
		keys = append(keys, a.Key)
		var owner string
		err := tx.tx.QueryRow(ctx, `
			INSERT INTO attribute_schemas AS a (key, service, type, description) VALUES ($1, $2, $3, $4)
			ON CONFLICT ON CONSTRAINT attribute_schemas_pkey DO UPDATE
			   SET type = CASE WHEN a.service = excluded.service THEN excluded.type ELSE a.type END,
			       description = CASE WHEN a.service = excluded.service THEN excluded.description ELSE a.description END
			RETURNING service`, a.Key, s.Name, a.Type, a.Description).Scan(&owner)
		if err != nil {
			return 0, wrap("put an attribute schema", err)
		}
		if owner != s.Name {
			return 0, iam.Errorf(iam.Conflict, "the attribute %q is declared by the service %q", a.Key, owner)
		}
	}
	_, err = tx.tx.Exec(ctx, `DELETE FROM attribute_schemas WHERE service = $1 AND key <> ALL ($2)`, s.Name, keys)
	return version, wrap("drop attribute schemas", err)
}

// Changed returns what this transaction has notified so far: the keys of the facts that it
// changed, as the triggers of migrations/00008_bounds.sql record them.
func (tx *Tx) Changed(ctx context.Context) ([]directory.Change, error) {
	var keys string
	if err := tx.tx.QueryRow(ctx, `SELECT coalesce(current_setting('iam.changed', true), '')`).Scan(&keys); err != nil || keys == "" {
		return nil, wrap("read what was changed", err)
	}
	var changes []directory.Change
	for key := range strings.SplitSeq(keys, ",") {
		m, err := parseKey(strings.Fields(key))
		if err != nil {
			return nil, wrap("read what was changed", err)
		}
		changes = append(changes, directory.Change{Everything: m.All, Kind: m.Kind, Key: m.Key})
	}
	return changes, nil
}

// Append writes audit entries and events. It locks the heads of their chains, so it
// comes last in a transaction.
func (tx *Tx) Append(ctx context.Context, entries []iam.AuditEntry, events []iam.Event) error {
	if err := tx.appendAudit(ctx, entries); err != nil {
		return wrap("append to the audit", err)
	}
	rows := make([][]any, len(events))
	for i, e := range events {
		data, err := json.Marshal(e)
		if err != nil {
			return wrap("encode "+e.EventType(), err)
		}
		key := e.EventKey()
		var tenant any
		if key.Tenant != "" {
			tenant = key.Tenant
		}
		rows[i] = []any{e.EventType(), tenant, key.Kind, key.Object, data}
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.tx.CopyFrom(ctx, pgx.Identifier{"outbox"}, []string{"type", "tenant", "kind", "object", "data"}, pgx.CopyFromRows(rows))
	return wrap("append events", err)
}

// appendAudit links entries to the ends of their chains.
func (tx *Tx) appendAudit(ctx context.Context, entries []iam.AuditEntry) error {
	type head struct {
		seq  int64
		hash []byte
	}
	heads := map[string]*head{}
	rows := make([][]any, 0, len(entries))
	var at time.Time
	for i := range entries {
		e := &entries[i]
		h := heads[e.Chain]
		if h == nil {
			h = &head{}
			heads[e.Chain] = h
			// One statement makes the head where there is none, and locks it. The time is
			// taken once it is locked, so that along a chain it never goes back.
			err := tx.tx.QueryRow(ctx, `
				INSERT INTO audit_heads AS h (chain, seq, hash) VALUES ($1, 0, '')
				ON CONFLICT ON CONSTRAINT audit_heads_pkey DO UPDATE SET seq = h.seq
				RETURNING seq, hash, clock_timestamp()`, e.Chain).Scan(&h.seq, &h.hash, &at)
			if err != nil {
				return err
			}
		}
		h.seq++
		e.Seq, e.Prev, e.At = h.seq, h.hash, at.UTC().Truncate(time.Microsecond)
		sum, err := e.Sum()
		if err != nil {
			return err
		}
		e.Hash, h.hash = sum, sum
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
		if _, err := tx.tx.Exec(ctx, `UPDATE audit_heads SET seq = $2, hash = $3 WHERE chain = $1`, chain, h.seq, h.hash); err != nil {
			return err
		}
	}
	return nil
}

var auditColumns = []string{
	"chain", "seq", "at", "actor_kind", "actor", "via", "address", "request_id", "decision_id", "action", "kind", "object", "before", "after", "prev", "hash",
}

func absent(j json.RawMessage) any {
	if len(j) == 0 {
		return nil
	}
	return []byte(j)
}

// Answered is what became of a request with an Idempotency-Key.
type Answered struct {
	Request []byte          // SHA-256 of what was asked
	Answer  json.RawMessage // nil: not known yet
}

// Begin notes that a caller asks something under a key, or returns what became of it
// when it was asked before. Where that is being asked at this moment, it waits for its
// end. Call it before anything else of a transaction.
func (tx *Tx) Begin(ctx context.Context, caller []byte, key string, request []byte) (before *Answered, err error) {
	tag, err := tx.tx.Exec(ctx, `
		INSERT INTO idempotency AS i (caller, key, request) VALUES ($1, $2, $3)
		ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE
		   SET request = excluded.request, answer = NULL, created_at = now() WHERE i.created_at < now() - interval '24 hours'`,
		caller, key, request)
	if err != nil || tag.RowsAffected() > 0 {
		return nil, wrap("begin under a key", err)
	}
	before = &Answered{}
	_, err = tx.look(ctx, `SELECT request, answer FROM idempotency WHERE caller = $1 AND key = $2`, []any{caller, key}, &before.Request, &before.Answer)
	return before, wrap("read what became of a key", err)
}

// Finish notes the answer that Begin will return, and whom it is about.
func (tx *Tx) Finish(ctx context.Context, caller []byte, key string, answer json.RawMessage, users []string) error {
	_, err := tx.tx.Exec(ctx, `UPDATE idempotency SET answer = $3, users = $4 WHERE caller = $1 AND key = $2`, caller, key, []byte(answer), list(users))
	return wrap("finish under a key", err)
}

// PartitionAudit creates partitions of the audit ahead of time. Where it does not get a lock on
// the default partition within a second, it fails with an error of code "busy".
func (tx *Tx) PartitionAudit(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `SELECT iam_audit_partitions()`)
	return wrap("make partitions of the audit", err)
}

// Chores does what is due once an hour: keys that have expired, and the heads of chains that
// have grown since they were last told. It returns those heads; an event of each is in the outbox.
func (tx *Tx) Chores(ctx context.Context) (heads []iam.Checkpoint, err error) {
	if _, err := tx.tx.Exec(ctx, `DELETE FROM idempotency WHERE created_at < now() - interval '24 hours'`); err != nil {
		return nil, wrap("forget keys of requests", err)
	}
	// They name people: they are kept for a month.
	if _, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET report = NULL WHERE report IS NOT NULL AND started_at < now() - interval '30 days'`); err != nil {
		return nil, wrap("forget reports of previews", err)
	}
	heads, err = collect(ctx, tx, "read the heads of the audit", `
		UPDATE audit_heads SET published = seq WHERE published < seq RETURNING chain, seq, encode(hash, 'hex')`, nil, pgx.RowToStructByPos[iam.Checkpoint])
	if err != nil {
		return nil, err
	}
	events := make([]iam.Event, len(heads))
	for i, h := range heads {
		events[i] = iam.AuditCheckpointEvent{Checkpoint: h}
	}
	return heads, tx.Append(ctx, nil, events)
}

// AuditFilter says which entries; what is empty does not matter.
type AuditFilter struct {
	Chain                       *string // nil: all
	Actor, Action, Kind, Object string
	From, Until                 time.Time
	BeforeAt                    time.Time // the last entry that was seen: entries go back in time
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

// Chain lists a chain from its beginning, or after an entry, whose number alone does not
// say which it is if somebody has added one.
func (tx *Tx) Chain(ctx context.Context, chain string, after *iam.AuditEntry, limit int) ([]iam.AuditEntry, error) {
	if after == nil {
		return tx.audit(ctx, ` WHERE chain = $1 ORDER BY seq, at LIMIT $2`, chain, limit)
	}
	return tx.audit(ctx, ` WHERE chain = $1 AND (seq, at) > ($2, $3) ORDER BY seq, at LIMIT $4`, chain, after.Seq, after.At, limit)
}

// Head returns the end of a chain, as its head says.
func (tx *Tx) Head(ctx context.Context, chain string) (seq int64, hash []byte, found bool, err error) {
	found, err = tx.look(ctx, `SELECT seq, hash FROM audit_heads WHERE chain = $1`, []any{chain}, &seq, &hash)
	return seq, hash, found, wrap("read the head of a chain", err)
}

func (tx *Tx) audit(ctx context.Context, tail string, args ...any) ([]iam.AuditEntry, error) {
	return collect(ctx, tx, "read the audit", `
		SELECT chain, seq, at, actor_kind, actor, via, address, request_id, decision_id, action, kind, object, before, after, prev, hash FROM audit`+tail, args,
		pgx.RowToStructByPos[iam.AuditEntry])
}

// ChainEnds is where a chain begins.
type ChainEnds struct {
	Chain   string
	CutSeq  int64 // up to where retention has cut it; 0: it was not
	CutHash []byte
}

// Chains lists all chains of the audit.
func (tx *Tx) Chains(ctx context.Context) ([]ChainEnds, error) {
	return collect(ctx, tx, "read the chains of the audit", `
		SELECT coalesce(h.chain, a.chain), coalesce(c.seq, 0), coalesce(c.hash, '')
		  FROM audit_heads h FULL JOIN (SELECT DISTINCT chain FROM audit) a ON a.chain = h.chain
		  LEFT JOIN audit_cuts c ON c.chain = coalesce(h.chain, a.chain)
		 ORDER BY 1`, nil, pgx.RowToStructByPos[ChainEnds])
}

// PruneAudit drops the months of the audit that ended before a time, and notes where
// that cut each chain. An entry that no checkpoint was told of yet is not dropped. It
// needs the tables' owner.
func (tx *Tx) PruneAudit(ctx context.Context, before time.Time) (dropped []string, err error) {
	names, err := collect(ctx, tx, "read the partitions of the audit", `
		SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		 WHERE i.inhparent = 'audit'::regclass AND c.relname ~ '^audit_[0-9]{4}_[0-9]{2}$' ORDER BY 1`, nil, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		month, err := time.Parse("audit_2006_01", name)
		if err != nil || month.AddDate(0, 1, 0).After(before) {
			continue
		}
		table := pgx.Identifier{name}.Sanitize()
		var untold int
		if _, err := tx.look(ctx, `SELECT count(*) FROM `+table+` a LEFT JOIN audit_heads h USING (chain) WHERE h.chain IS NULL OR a.seq > h.published`, nil, &untold); err != nil {
			return nil, wrap("look for entries without a checkpoint", err)
		}
		if untold > 0 {
			return nil, fmt.Errorf("%s holds %d entries that no checkpoint was told of yet: that happens hourly while the service runs", name, untold)
		}
		_, err = tx.tx.Exec(ctx, `
			INSERT INTO audit_cuts AS c (chain, seq, hash) SELECT DISTINCT ON (chain) chain, seq, hash FROM `+table+` ORDER BY chain, seq DESC
			ON CONFLICT ON CONSTRAINT audit_cuts_pkey DO UPDATE SET seq = excluded.seq, hash = excluded.hash, cut_at = now() WHERE c.seq < excluded.seq`)
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

// ExpireEvents deletes events that occurred before a time and were never sent, unless a replica
// relays: then they wait for the bus. It returns how many.
func (db *DB) ExpireEvents(ctx context.Context, before time.Time) (n int64, err error) {
	h, nobodyRelays, err := db.TryHold(ctx, "relay")
	if err != nil || !nobodyRelays {
		return 0, wrap("look for a relay", err)
	}
	defer h.Close()
	for {
		tag, err := h.conn.Exec(ctx, `
			WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at IS NULL AND occurred_at < $1 ORDER BY seq LIMIT 20000)
			DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
		n += tag.RowsAffected()
		if err != nil || tag.RowsAffected() == 0 {
			return n, wrap("delete events that nobody relays", err)
		}
	}
}

// AuditDefault counts the entries in the default partition of the audit, where they are until the
// next hour's chores move them into partitions of their months; MostCounted at most.
func (db *DB) AuditDefault(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM audit_default LIMIT $1) x`, MostCounted).Scan(&n)
	return n, wrap("count entries in the default partition", err)
}

// ForgetSent forgets some events that were sent before a time. It returns how many.
func (tx *Tx) ForgetSent(ctx context.Context, before time.Time) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `WITH old AS MATERIALIZED (SELECT seq FROM outbox WHERE sent_at < $1 ORDER BY sent_at LIMIT 20000) DELETE FROM outbox WHERE seq IN (SELECT seq FROM old)`, before)
	return tag.RowsAffected(), wrap("forget events that were sent", err)
}
