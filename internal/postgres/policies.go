package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/iam"
)

const revisionColumns = `
	r.digest, r.name, r.source, r.verified, octet_length(r.bundle), r.added_at, r.actor_kind, r.actor, r.via,
	(SELECT count(*) FROM policy_activations a WHERE a.digest = r.digest),
	coalesce((SELECT max(a.at) FROM policy_activations a WHERE a.digest = r.digest), 'epoch')`

func scanRevision(row pgx.CollectableRow) (r iam.PolicyRevision, err error) {
	err = row.Scan(&r.Digest, &r.Name, &r.Source, &r.Verified, &r.Bytes, &r.AddedAt, &r.ActorKind, &r.Actor, &r.Via, &r.Activations, &r.LastInForce)
	if r.Activations == 0 {
		r.LastInForce = time.Time{}
	}
	return r, err
}

// PolicyRevisions lists revisions, the newest first; before is when the last one of the page
// before was added, zero for the first page.
func (tx *Tx) PolicyRevisions(ctx context.Context, before time.Time, digest string, limit int) ([]iam.PolicyRevision, error) {
	var from *time.Time
	if !before.IsZero() {
		from = &before
	}
	rows, err := tx.tx.Query(ctx, `
		SELECT `+revisionColumns+` FROM policy_revisions r
		 WHERE $1::timestamptz IS NULL OR (r.added_at, r.digest) < ($1, $2)
		 ORDER BY r.added_at DESC, r.digest DESC LIMIT $3`, from, digest, limit)
	if err != nil {
		return nil, wrap("list policies", err)
	}
	list, err := pgx.CollectRows(rows, scanRevision)
	return list, wrap("list policies", err)
}

// PolicyRevision finds a revision by its digest or the first digits of it.
func (tx *Tx) PolicyRevision(ctx context.Context, ref string) (iam.PolicyRevision, bool, error) {
	rows, err := tx.tx.Query(ctx, `SELECT `+revisionColumns+` FROM policy_revisions r WHERE starts_with(r.digest, $1) LIMIT 2`, ref)
	if err != nil {
		return iam.PolicyRevision{}, false, wrap("find a policy", err)
	}
	list, err := pgx.CollectRows(rows, scanRevision)
	switch {
	case err != nil || len(list) == 0:
		return iam.PolicyRevision{}, false, wrap("find a policy", err)
	case len(list) > 1:
		return iam.PolicyRevision{}, false, iam.Errorf(iam.Conflict, "more than one revision begins with %s: write more of its digits", ref)
	}
	return list[0], true, nil
}

// AddPolicyRevision keeps a revision.
func (tx *Tx) AddPolicyRevision(ctx context.Context, r iam.PolicyRevision, bundle []byte) error {
	_, err := tx.tx.Exec(ctx, `INSERT INTO policy_revisions (digest, name, source, verified, bundle, actor_kind, actor, via) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		r.Digest, r.Name, r.Source, r.Verified, bundle, r.ActorKind, r.Actor, r.Via)
	return wrap("keep a policy", err)
}

// ResubmitPolicyRevision notes that a revision that is kept was sent again, as it is signed now.
func (tx *Tx) ResubmitPolicyRevision(ctx context.Context, digest, verified string, bundle []byte) error {
	// Who takes what nobody has signed does not take a signature away.
	_, err := tx.tx.Exec(ctx, `
		UPDATE policy_revisions SET wanted_at = now(),
		       bundle = CASE WHEN verified = 'key' AND $2 <> 'key' AND bundle <> '' THEN bundle ELSE $3 END,
		       verified = CASE WHEN verified = 'key' AND bundle <> '' THEN verified ELSE $2 END
		 WHERE digest = $1`, digest, verified, bundle)
	return wrap("keep a policy", err)
}

const activationColumns = `a.seq, a.digest, r.name, a.kind, a.at, a.actor_kind, a.actor, a.via, coalesce(a.preview::text, ''), a.reason`

func scanActivation(row pgx.CollectableRow) (a iam.PolicyActivation, err error) {
	err = row.Scan(&a.Seq, &a.Digest, &a.Name, &a.Kind, &a.At, &a.ActorKind, &a.Actor, &a.Via, &a.Preview, &a.Reason)
	return a, err
}

// PolicyActivations lists what came into force, the last one first.
func (tx *Tx) PolicyActivations(ctx context.Context, limit int) ([]iam.PolicyActivation, error) {
	rows, err := tx.tx.Query(ctx, `SELECT `+activationColumns+` FROM policy_activations a JOIN policy_revisions r USING (digest) ORDER BY a.seq DESC LIMIT $1`, limit)
	if err != nil {
		return nil, wrap("list activations", err)
	}
	list, err := pgx.CollectRows(rows, scanActivation)
	return list, wrap("list activations", err)
}

// PreviousPolicy is the revision that the one with the digest has replaced when it first came
// into force; empty: none.
func (tx *Tx) PreviousPolicy(ctx context.Context, digest string) (string, error) {
	var before string
	_, err := tx.look(ctx, `
		SELECT a.digest FROM policy_activations a
		 WHERE a.seq < (SELECT min(seq) FROM policy_activations WHERE digest = $1) ORDER BY a.seq DESC LIMIT 1`, []any{digest}, &before)
	return before, wrap("find the policy before", err)
}

// ActivatePolicy puts a revision in force, on all replicas that follow.
func (tx *Tx) ActivatePolicy(ctx context.Context, a iam.PolicyActivation) (iam.PolicyActivation, error) {
	err := tx.tx.QueryRow(ctx, `
		INSERT INTO policy_activations (digest, kind, actor_kind, actor, via, preview, reason) VALUES ($1, $2, $3, $4, $5, nullif($6, '')::uuid, $7) RETURNING seq, at`,
		a.Digest, a.Kind, a.ActorKind, a.Actor, a.Via, a.Preview, a.Reason).Scan(&a.Seq, &a.At)
	return a, wrap("put a policy in force", err)
}

// SetPolicyShadow says what is evaluated beside what is in force.
func (tx *Tx) SetPolicyShadow(ctx context.Context, s iam.PolicyShadow) error {
	_, err := tx.tx.Exec(ctx, `UPDATE policy_shadow SET digest = nullif($1, ''), share = $2, set_at = now()`, s.Digest, s.Share)
	return wrap("set the shadow", err)
}

// PolicyShadow is what is evaluated beside what is in force.
func (tx *Tx) PolicyShadow(ctx context.Context) (s iam.PolicyShadow, err error) {
	_, err = tx.look(ctx, `SELECT coalesce(digest, ''), share, set_at FROM policy_shadow`, nil, &s.Digest, &s.Share, &s.SetAt)
	return s, wrap("read the shadow", err)
}

// replicaAlive is how long after its last word a replica counts.
const replicaAlive = 30 * time.Second

// PolicyReplicas lists the replicas that were heard of lately.
func (tx *Tx) PolicyReplicas(ctx context.Context) ([]iam.PolicyReplica, error) {
	rows, err := tx.tx.Query(ctx, `
		SELECT replica, version, in_force, coalesce(since, 'epoch'), source, prepared, refused, seq, seen_at FROM policy_replicas
		 WHERE seen_at > now() - $1::interval ORDER BY replica`, replicaAlive)
	if err != nil {
		return nil, wrap("list replicas", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[iam.PolicyReplica])
	return list, wrap("list replicas", err)
}

// previewWorkedOn holds for a preview that is running, and not only said to be.
const previewWorkedOn = `state = 'running' AND seen_at >= now() - interval '30 seconds'`

const previewColumns = `
	id::text, candidate, against, CASE WHEN state = 'running' AND NOT (` + previewWorkedOn + `) THEN 'failed' ELSE state END,
	replica, started_at, coalesce(finished_at, 'epoch'), actor_kind, actor, done, total, report`

// PolicyPreview finds a preview. One that nobody works on any more has failed.
func (tx *Tx) PolicyPreview(ctx context.Context, id string) (p iam.PolicyPreview, found bool, err error) {
	found, err = tx.look(ctx, `SELECT `+previewColumns+` FROM policy_previews WHERE id = $1::uuid`, []any{id},
		&p.ID, &p.Candidate, &p.Against, &p.State, &p.Replica, &p.StartedAt, &p.FinishedAt, &p.ActorKind, &p.Actor, &p.Done, &p.Total, &p.Report)
	return p, found, wrap("find a preview", err)
}

// BeginPreview notes a preview that is being begun, and returns its id.
func (tx *Tx) BeginPreview(ctx context.Context, p iam.PolicyPreview) (id string, err error) {
	err = tx.tx.QueryRow(ctx, `INSERT INTO policy_previews (candidate, against, replica, actor_kind, actor) VALUES ($1, $2, $3, $4, $5) RETURNING id::text`,
		p.Candidate, p.Against, p.Replica, p.ActorKind, p.Actor).Scan(&id)
	return id, wrap("begin a preview", err)
}

// CancelPreview ends a preview that is running, and reports whether it was.
func (tx *Tx) CancelPreview(ctx context.Context, id string) (bool, error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET state = 'cancelled', finished_at = now() WHERE id = $1::uuid AND `+previewWorkedOn, id)
	return tag.RowsAffected() == 1, wrap("cancel a preview", err)
}

// PreviewProgress notes how far a preview is, or with a report that it is over. False: it
// was cancelled meanwhile.
func (db *DB) PreviewProgress(ctx context.Context, p iam.PolicyPreview) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	tag, err := db.admin.Exec(ctx, `
		UPDATE policy_previews SET state = $2, done = $3, total = $4, report = $5, seen_at = now(), finished_at = CASE WHEN $2 <> 'running' THEN now() END
		 WHERE id = $1::uuid AND state = 'running'`, p.ID, p.State, p.Done, p.Total, p.Report)
	return err != nil || tag.RowsAffected() == 1, wrap("note how far a preview is", err)
}

// PolicyOrders is what replicas are to do.
type PolicyOrders struct {
	Seq     int64    // of the activation; 0: there was none yet
	InForce string   // digest; empty: nothing was put in force yet
	Prepare []string // digests to have ready: what is in force, what it replaced, the newest, the shadow
	Shadow  iam.PolicyShadow
}

// PolicyOrders reads what replicas are to do.
func (db *DB) PolicyOrders(ctx context.Context) (o PolicyOrders, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `
		WITH latest AS (SELECT seq, digest FROM policy_activations ORDER BY seq DESC LIMIT 1),
		     before AS (SELECT a.digest FROM policy_activations a
		                 WHERE a.seq < (SELECT min(seq) FROM policy_activations WHERE digest = (SELECT digest FROM latest)) ORDER BY a.seq DESC LIMIT 1),
		     newest AS (SELECT digest FROM policy_revisions ORDER BY wanted_at DESC, digest DESC LIMIT 3)
		SELECT coalesce((SELECT seq FROM latest), 0), coalesce((SELECT digest FROM latest), ''),
		       ARRAY (SELECT digest FROM latest UNION SELECT digest FROM before UNION SELECT digest FROM newest
		              UNION SELECT s.digest FROM policy_shadow s WHERE s.digest IS NOT NULL),
		       coalesce(s.digest, ''), s.share, s.set_at
		  FROM policy_shadow s`).Scan(&o.Seq, &o.InForce, &o.Prepare, &o.Shadow.Digest, &o.Shadow.Share, &o.Shadow.SetAt)
	return o, wrap("read which policy is to be in force", err)
}

// PolicyBundle reads a revision as it was packed.
func (db *DB) PolicyBundle(ctx context.Context, digest string) (r iam.PolicyRevision, bundle []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT digest, name, source, verified, bundle FROM policy_revisions WHERE digest = $1`, digest).
		Scan(&r.Digest, &r.Name, &r.Source, &r.Verified, &bundle)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, nil, iam.Errorf(iam.NotFound, "there is no revision %s", iam.PolicyID(digest))
	}
	if err == nil && len(bundle) == 0 {
		return r, nil, &iam.Error{Kind: iam.Conflict, Code: "policy_bundle_deleted", Detail: "the bundle of revision " + iam.PolicyID(digest) + " is not stored any more: send it again"}
	}
	return r, bundle, wrap("read a policy", err)
}

// PurgePolicyBundles deletes the bundles of revisions, but for as many as are to be kept, those
// that were sent or in force last, and those that may be needed at once: in force, what that has
// replaced, the newest, the shadow, and what is being previewed. What a revision was, and when it was
// in force, stays; sent again, it has a bundle again. It returns how many.
func (tx *Tx) PurgePolicyBundles(ctx context.Context, keep int) (int64, error) {
	tag, err := tx.tx.Exec(ctx, `
		WITH latest AS (SELECT digest FROM policy_activations ORDER BY seq DESC LIMIT 1)
		UPDATE policy_revisions SET bundle = ''
		 WHERE bundle <> '' AND digest NOT IN (
		       SELECT digest FROM latest
		       UNION (SELECT a.digest FROM policy_activations a
		               WHERE a.seq < (SELECT min(seq) FROM policy_activations WHERE digest = (SELECT digest FROM latest)) ORDER BY a.seq DESC LIMIT 1)
		       UNION (SELECT digest FROM policy_revisions ORDER BY wanted_at DESC, digest DESC LIMIT 3)
		       UNION SELECT digest FROM policy_shadow WHERE digest IS NOT NULL
		       UNION SELECT unnest(ARRAY [candidate, against]) FROM policy_previews WHERE `+previewWorkedOn+`
		       UNION (SELECT r.digest FROM policy_revisions r
		               ORDER BY greatest(r.wanted_at, (SELECT max(at) FROM policy_activations a WHERE a.digest = r.digest)) DESC, r.digest LIMIT $1))`, keep)
	return tag.RowsAffected(), wrap("delete bundles of policies", err)
}

// ReportPolicy notes what a replica has in force, and forgets those that were not heard of
// for a day.
func (db *DB) ReportPolicy(ctx context.Context, r iam.PolicyReplica) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	var since *time.Time
	if !r.Since.IsZero() {
		since = &r.Since
	}
	_, err := db.admin.Exec(ctx, `
		INSERT INTO policy_replicas AS p (replica, version, in_force, since, source, prepared, refused, seq) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT ON CONSTRAINT policy_replicas_pkey DO UPDATE SET version = excluded.version, in_force = excluded.in_force, since = excluded.since,
		   source = excluded.source, prepared = excluded.prepared, refused = excluded.refused, seq = excluded.seq, seen_at = now()`,
		r.Replica, r.Version, r.InForce, since, r.Source, r.Prepared, r.Refused, r.Seq)
	if err == nil {
		_, err = db.admin.Exec(ctx, `DELETE FROM policy_replicas WHERE seen_at < now() - interval '1 day'`)
	}
	return wrap("report the policy in force", err)
}

// RemovePolicyReplica forgets a replica that ends.
func (db *DB) RemovePolicyReplica(ctx context.Context, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `DELETE FROM policy_replicas WHERE replica = $1`, replica)
	return wrap("forget a replica", err)
}

// expirePreviewReports deletes the reports of old previews: they name people.
func (tx *Tx) expirePreviewReports(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET report = NULL WHERE report IS NOT NULL AND started_at < now() - interval '30 days'`)
	return wrap("expire reports of previews", err)
}
