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
	err = row.Scan(&r.Digest, &r.Name, &r.Source, &r.Verified, &r.Bytes, &r.AddedAt, &r.ActorKind, &r.Actor, &r.Via,
		&r.Activations, &r.LastInForce)
	if r.Activations == 0 {
		r.LastInForce = time.Time{}
	}
	return r, err
}

// PolicyRevisions lists revisions, the newest first. before and digest are of the last revision of
// the page before; a zero time is the first page.
func (tx *Tx) PolicyRevisions(ctx context.Context, before time.Time, digest string, limit int) ([]iam.PolicyRevision, error) {
	return collect(ctx, tx, statement{doing: "list policy revisions", sql: `
		SELECT ` + revisionColumns + ` FROM policy_revisions r
		 WHERE $1::timestamptz IS NULL OR (r.added_at, r.digest) < ($1, $2)
		 ORDER BY r.added_at DESC, r.digest DESC LIMIT $3`, args: []any{optional(before), digest, limit}}, scanRevision)
}

// PolicyRevision finds a revision by its digest or a prefix of it.
func (tx *Tx) PolicyRevision(ctx context.Context, ref string) (iam.PolicyRevision, bool, error) {
	list, err := collect(ctx, tx, statement{doing: "find a policy revision", sql: `
		SELECT ` + revisionColumns + ` FROM policy_revisions r WHERE starts_with(r.digest, $1) LIMIT 2`, args: []any{ref}}, scanRevision)
	switch {
	case err != nil || len(list) == 0:
		return iam.PolicyRevision{}, false, err
	case len(list) > 1:
		return iam.PolicyRevision{}, false, iam.Errorf(iam.Conflict, "more than one revision begins with %s: write more of its digits", ref)
	}
	return list[0], true, nil
}

// AddPolicyRevision stores a new revision.
func (tx *Tx) AddPolicyRevision(ctx context.Context, r iam.PolicyRevision, bundle []byte) error {
	_, err := tx.tx.Exec(ctx, `
		INSERT INTO policy_revisions (digest, name, source, verified, bundle, actor_kind, actor, via) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		r.Digest, r.Name, r.Source, r.Verified, bundle, r.ActorKind, r.Actor, r.Via)
	return wrap("store a policy revision", err)
}

// ResubmitPolicyRevision records that a stored revision was submitted again, and stores the bundle with
// its current signature.
func (tx *Tx) ResubmitPolicyRevision(ctx context.Context, digest, verified string, bundle []byte) error {
	// An unsigned bundle does not replace a bundle that is verified by a key.
	_, err := tx.tx.Exec(ctx, `
		UPDATE policy_revisions SET wanted_at = now(),
		       bundle = CASE WHEN verified = 'key' AND $2 <> 'key' AND bundle <> '' THEN bundle ELSE $3 END,
		       verified = CASE WHEN verified = 'key' AND bundle <> '' THEN verified ELSE $2 END
		 WHERE digest = $1`, digest, verified, bundle)
	return wrap("store a policy revision", err)
}

const activationColumns = `a.seq, a.digest, r.name, a.kind, a.at, a.actor_kind, a.actor, a.via, coalesce(a.preview::text, ''), a.reason`

func scanActivation(row pgx.CollectableRow) (a iam.PolicyActivation, err error) {
	err = row.Scan(&a.Seq, &a.Digest, &a.Name, &a.Kind, &a.At, &a.ActorKind, &a.Actor, &a.Via, &a.Preview, &a.Reason)
	return a, err
}

// PolicyActivations lists the activations, the last one first.
func (tx *Tx) PolicyActivations(ctx context.Context, limit int) ([]iam.PolicyActivation, error) {
	return collect(ctx, tx, statement{doing: "list activations", sql: `
		SELECT ` + activationColumns + ` FROM policy_activations a JOIN policy_revisions r USING (digest) ORDER BY a.seq DESC LIMIT $1`,
		args: []any{limit}}, scanActivation)
}

// PreviousPolicy returns the digest of the revision that the given one replaced at its first
// activation; empty: none.
func (tx *Tx) PreviousPolicy(ctx context.Context, digest string) (previous string, err error) {
	_, err = tx.look(ctx, `
		SELECT a.digest FROM policy_activations a
		 WHERE a.seq < (SELECT min(seq) FROM policy_activations WHERE digest = $1) ORDER BY a.seq DESC LIMIT 1`, []any{digest}, &previous)
	return previous, wrap("find the previous policy", err)
}

// ActivatePolicy makes a revision the active one on all replicas that follow the database.
func (tx *Tx) ActivatePolicy(ctx context.Context, a iam.PolicyActivation) (iam.PolicyActivation, error) {
	err := tx.tx.QueryRow(ctx, `
		INSERT INTO policy_activations (digest, kind, actor_kind, actor, via, preview, reason)
		VALUES ($1, $2, $3, $4, $5, nullif($6, '')::uuid, $7) RETURNING seq, at`,
		a.Digest, a.Kind, a.ActorKind, a.Actor, a.Via, a.Preview, a.Reason).Scan(&a.Seq, &a.At)
	return a, wrap("activate a policy", err)
}

// SetPolicyShadow sets the shadow: the revision that is evaluated in addition to the active one.
func (tx *Tx) SetPolicyShadow(ctx context.Context, s iam.PolicyShadow) error {
	_, err := tx.tx.Exec(ctx, `UPDATE policy_shadow SET digest = nullif($1, ''), share = $2, set_at = now()`, s.Digest, s.Share)
	return wrap("set the shadow", err)
}

// PolicyShadow returns the shadow.
func (tx *Tx) PolicyShadow(ctx context.Context) (s iam.PolicyShadow, err error) {
	_, err = tx.look(ctx, `SELECT coalesce(digest, ''), share, set_at FROM policy_shadow`, nil, &s.Digest, &s.Share, &s.SetAt)
	return s, wrap("read the shadow", err)
}

// replicaAlive is how long after its last report a replica counts as alive.
const replicaAlive = 30 * time.Second

// PolicyReplicas lists the replicas that are alive.
func (tx *Tx) PolicyReplicas(ctx context.Context) ([]iam.PolicyReplica, error) {
	return collect(ctx, tx, statement{doing: "list replicas", sql: `
		SELECT replica, version, in_force, coalesce(since, 'epoch'), source, prepared, refused, seq, seen_at,
		       CASE WHEN facts_at = seen_at THEN facts END
		  FROM policy_replicas
		 WHERE seen_at > now() - $1::interval ORDER BY replica`, args: []any{replicaAlive}}, pgx.RowToStructByPos[iam.PolicyReplica])
}

// previewRunning is true of a preview whose replica still reports progress.
const previewRunning = `state = 'running' AND seen_at >= now() - interval '30 seconds'`

const previewColumns = `
	id::text, candidate, against, CASE WHEN state = 'running' AND NOT (` + previewRunning + `) THEN 'failed' ELSE state END,
	replica, started_at, coalesce(finished_at, 'epoch'), actor_kind, actor, done, total, report`

// PolicyPreview finds a preview. One whose replica has stopped reporting progress has failed.
func (tx *Tx) PolicyPreview(ctx context.Context, id string) (p iam.PolicyPreview, found bool, err error) {
	found, err = tx.look(ctx, `SELECT `+previewColumns+` FROM policy_previews WHERE id = $1::uuid`, []any{id},
		&p.ID, &p.Candidate, &p.Against, &p.State, &p.Replica, &p.StartedAt, &p.FinishedAt, &p.ActorKind, &p.Actor, &p.Done, &p.Total, &p.Report)
	return p, found, wrap("find a preview", err)
}

// BeginPreview records a preview that begins, and returns its id.
func (tx *Tx) BeginPreview(ctx context.Context, p iam.PolicyPreview) (id string, err error) {
	err = tx.tx.QueryRow(ctx, `
		INSERT INTO policy_previews (candidate, against, replica, actor_kind, actor) VALUES ($1, $2, $3, $4, $5) RETURNING id::text`,
		p.Candidate, p.Against, p.Replica, p.ActorKind, p.Actor).Scan(&id)
	return id, wrap("begin a preview", err)
}

// CancelPreview cancels a running preview; false: it was not running.
func (tx *Tx) CancelPreview(ctx context.Context, id string) (bool, error) {
	tag, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET state = 'cancelled', finished_at = now() WHERE id = $1::uuid AND `+previewRunning, id)
	return tag.RowsAffected() == 1, wrap("cancel a preview", err)
}

// PreviewProgress records the progress of a preview, or its end with the report. False: it was cancelled
// concurrently.
func (db *DB) PreviewProgress(ctx context.Context, p iam.PolicyPreview) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	tag, err := db.admin.Exec(ctx, `
		UPDATE policy_previews
		   SET state = $2, done = $3, total = $4, report = $5, seen_at = now(), finished_at = CASE WHEN $2 <> 'running' THEN now() END
		 WHERE id = $1::uuid AND state = 'running'`, p.ID, p.State, p.Done, p.Total, p.Report)
	return err != nil || tag.RowsAffected() == 1, wrap("record the progress of a preview", err)
}

// PolicyOrders is the desired state of the replicas.
type PolicyOrders struct {
	Seq     int64    // of the last activation; 0: none yet
	InForce string   // digest of the active revision; empty: none yet
	Prepare []string // digests to load: the active, the previous, the newest and the shadow revision
	Shadow  iam.PolicyShadow
	Topdown []string // digests that this version of the program must leave to topdown
}

// PolicyOrders reads the desired state of the replicas of one version of the program.
func (db *DB) PolicyOrders(ctx context.Context, version string) (o PolicyOrders, err error) {
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
		       coalesce(s.digest, ''), s.share, s.set_at,
		       ARRAY (SELECT digest FROM policy_topdown WHERE version = $1)
		  FROM policy_shadow s`, version).Scan(&o.Seq, &o.InForce, &o.Prepare, &o.Shadow.Digest, &o.Shadow.Share, &o.Shadow.SetAt, &o.Topdown)
	return o, wrap("read the active policy", err)
}

// LeaveToTopdown records that a replica's machine disagreed with topdown about a revision. All
// replicas of its version are notified.
func (db *DB) LeaveToTopdown(ctx context.Context, digest, version, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `INSERT INTO policy_topdown (digest, version, replica) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, digest, version, replica)
	return wrap("leave a policy to topdown", err)
}

// PolicyBundle reads a revision and its bundle.
func (db *DB) PolicyBundle(ctx context.Context, digest string) (r iam.PolicyRevision, bundle []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeLimit)
	defer cancel()
	err = db.admin.QueryRow(ctx, `SELECT digest, name, source, verified, bundle FROM policy_revisions WHERE digest = $1`, digest).
		Scan(&r.Digest, &r.Name, &r.Source, &r.Verified, &bundle)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, nil, iam.Errorf(iam.NotFound, "there is no revision %s", iam.PolicyID(digest))
	}
	if err == nil && len(bundle) == 0 {
		return r, nil, &iam.Error{
			Kind: iam.Conflict, Code: "policy_bundle_deleted",
			Detail: "the bundle of revision " + iam.PolicyID(digest) + " is no longer stored: send it again",
		}
	}
	return r, bundle, wrap("read a policy", err)
}

// PurgePolicyBundles deletes the bundles of old revisions and returns how many. It retains those of the keep
// revisions that were submitted or active last, and all that may be needed at once: the active and the
// previous revision, the newest ones, the shadow, and those of running previews. The rows of the
// revisions and their activations stay; submitting a revision again restores its bundle.
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
		       UNION SELECT unnest(ARRAY [candidate, against]) FROM policy_previews WHERE `+previewRunning+`
		       UNION (SELECT r.digest FROM policy_revisions r
		               ORDER BY greatest(r.wanted_at, (SELECT max(at) FROM policy_activations a WHERE a.digest = r.digest)) DESC, r.digest LIMIT $1))`, keep)
	return tag.RowsAffected(), wrap("purge policy bundles", err)
}

// ReportPolicy records the state of a replica, and deletes replicas that have not reported for a day.
func (db *DB) ReportPolicy(ctx context.Context, r iam.PolicyReplica) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `
		INSERT INTO policy_replicas AS p (replica, version, in_force, since, source, prepared, refused, seq, facts, facts_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now())
		ON CONFLICT ON CONSTRAINT policy_replicas_pkey DO UPDATE
		   SET version = excluded.version, in_force = excluded.in_force, since = excluded.since, source = excluded.source,
		       prepared = excluded.prepared, refused = excluded.refused, seq = excluded.seq,
		       facts = excluded.facts, facts_at = now(), seen_at = now()`,
		r.Replica, r.Version, r.InForce, optional(r.Since), r.Source, r.Prepared, r.Refused, r.Seq, r.Facts)
	if err == nil {
		_, err = db.admin.Exec(ctx, `DELETE FROM policy_replicas WHERE seen_at < now() - interval '1 day'`)
	}
	return wrap("report a replica's policy", err)
}

// RemovePolicyReplica deletes a replica that stops.
func (db *DB) RemovePolicyReplica(ctx context.Context, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, adminLimit)
	defer cancel()
	_, err := db.admin.Exec(ctx, `DELETE FROM policy_replicas WHERE replica = $1`, replica)
	return wrap("remove a replica", err)
}

// expirePreviewReports deletes the reports of old previews: they name people.
func (tx *Tx) expirePreviewReports(ctx context.Context) error {
	_, err := tx.tx.Exec(ctx, `UPDATE policy_previews SET report = NULL WHERE report IS NOT NULL AND started_at < now() - interval '30 days'`)
	return wrap("expire reports of previews", err)
}
