package admin

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Audit lists entries, the newest first; of the task's tenant, if it has one.
func (w *Work) Audit(ctx context.Context, f postgres.AuditFilter) ([]iam.AuditEntry, error) {
	if w.task.Tenant != "" {
		f.Chain = &w.task.Tenant
	}
	return w.tx.Audit(ctx, f)
}

// Verdict is the result of the verification of one chain.
type Verdict struct {
	Chain    string
	Entries  int64
	Anchored int64  // the last seq that was compared with an anchor; 0: none
	Fault    string // empty: none was found
	Ended    bool   // a migration has destroyed it; another chain of the same name may exist since
}

// Anchor is a head of a chain that was stored elsewhere: an AuditCheckpoint.v1.
type Anchor = iam.Checkpoint

// Verify reads all chains of the audit over one snapshot, and compares them with anchors. It
// detects tampering by someone with write access to the database only with anchors that were
// stored where they have none.
func (s *Service) Verify(ctx context.Context, anchors []Anchor, report func(Verdict)) error {
	byChain := map[string]map[int64]string{}
	torn := map[string]int64{} // chains whose anchors contradict each other
	for _, a := range anchors {
		if byChain[a.Chain] == nil {
			byChain[a.Chain] = map[int64]string{}
		}
		if was, known := byChain[a.Chain][a.Seq]; known && was != a.Hash {
			torn[a.Chain] = a.Seq
		}
		byChain[a.Chain][a.Seq] = a.Hash
	}
	var chains []postgres.ChainEnds
	var destroyed []postgres.DestroyedChain
	err := s.cfg.DB.View(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) (err error) {
		if destroyed, err = tx.DestroyedChains(ctx); err == nil {
			chains, err = tx.Chains(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range destroyed {
		report(Verdict{Chain: d.Chain, Ended: true, Fault: fmt.Sprintf("it ended at entry %d: \"migrate down --destroy-audit\" destroyed it on %s, by %s", d.Seq, d.At, d.By)})
	}
	seen := map[string]bool{}
	for _, c := range chains {
		seen[c.Chain] = true
		if seq := torn[c.Chain]; seq > 0 {
			report(Verdict{Chain: c.Chain, Fault: fmt.Sprintf("two anchors of entry %d contradict each other: the chain was rewritten", seq)})
			continue
		}
		v, err := s.verify(ctx, c, byChain[c.Chain])
		if err != nil {
			return err
		}
		report(v)
	}
	for chain := range byChain {
		if !seen[chain] {
			report(Verdict{Chain: chain, Fault: "an anchor names it, and it does not exist"})
		}
	}
	return nil
}

// verify reads one chain, page by page. Each entry must follow the previous one, from the
// beginning or from where retention cut it, and the last one must be the head.
func (s *Service) verify(ctx context.Context, c postgres.ChainEnds, anchors map[int64]string) (Verdict, error) {
	v := Verdict{Chain: c.Chain}
	var newest int64
	for at := range anchors {
		newest = max(newest, at)
	}
	seq, hash := c.CutSeq, c.CutHash
	if want, anchored := anchors[seq]; anchored && c.CutSeq > 0 {
		if want != hex.EncodeToString(hash) {
			v.Fault = fmt.Sprintf("it was cut at entry %d, which is not the one that was anchored", seq)
			return v, nil
		}
		v.Anchored = seq
	}
	if newest > 0 && newest < c.CutSeq {
		v.Fault = fmt.Sprintf("it was cut at entry %d, and the newest anchor is of entry %d: no remaining entry can be compared", c.CutSeq, newest)
		return v, nil
	}
	at := chainPlace{seq: seq, hash: hash}
	for {
		var page []iam.AuditEntry
		var head postgres.ChainHead
		var headed bool
		err := s.cfg.DB.View(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
			if page, err = tx.Chain(ctx, c.Chain, at.entry(), 1000); err == nil {
				head, headed, err = tx.Head(ctx, c.Chain)
			}
			return err
		})
		if err != nil {
			return v, err
		}
		for i := range page {
			e := &page[i]
			if v.Fault, err = at.follow(e); err != nil || v.Fault != "" {
				return v, err
			}
			if want, anchored := anchors[e.Seq]; anchored {
				if want != hex.EncodeToString(e.Hash) {
					v.Fault = fmt.Sprintf("entry %d is not the one that was anchored: the chain was rewritten", e.Seq)
					return v, nil
				}
				v.Anchored = e.Seq
			}
			v.Entries++
		}
		if len(page) > 0 {
			continue
		}
		if v.Fault = at.end(head, headed); v.Fault == "" && at.seq < newest {
			v.Fault = fmt.Sprintf("it ends at entry %d, and an anchor is of entry %d", at.seq, newest)
		}
		return v, nil
	}
}

// Chores runs the hourly maintenance, on one replica: it creates partitions of the audit ahead of
// time, removes expired idempotency keys and events that were sent longer than keepSent ago, and
// publishes the heads of the audit's chains, as events and in the log.
func (s *Service) Chores(ctx context.Context, keepSent time.Duration) error {
	// In its own transaction: the rest must not wait for a reader of the default partition, such as a backup.
	err := s.cfg.DB.Change(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) error {
		got, err := tx.TryLoop(ctx, "chores")
		if err != nil || !got {
			return err
		}
		return tx.PartitionAudit(ctx)
	})
	switch {
	case iam.CodeOf(err) == "busy":
		s.cfg.Log.WarnContext(ctx, "audit partitions postponed", slog.Any("err", err))
	case err != nil:
		return err
	}
	var heads []iam.Checkpoint
	err = s.cfg.DB.Change(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) error {
		heads = nil
		got, err := tx.TryLoop(ctx, "chores")
		if err != nil || !got {
			return err
		}
		if heads, err = tx.Chores(ctx); err != nil {
			return err
		}
		_, err = tx.PurgePolicyBundles(ctx, s.cfg.PoliciesKept)
		return err
	})
	for _, h := range heads {
		s.cfg.Log.InfoContext(ctx, "audit checkpoint", slog.String("chain", h.Chain), slog.Int64("seq", h.Seq), slog.String("hash", h.Hash))
	}
	// In batches, in their own transactions: after a long outage there are many.
	for more := int64(1); more > 0 && err == nil; {
		err = s.cfg.DB.Change(postgres.Patient(ctx), func(ctx context.Context, tx *postgres.Tx) (err error) {
			more, err = tx.PurgeSentEvents(ctx, time.Now().Add(-keepSent))
			return err
		})
	}
	return err
}

// KeepChores runs Chores now and once an hour, until ctx ends.
func (s *Service) KeepChores(ctx context.Context, keepSent time.Duration) {
	for {
		if err := s.Chores(ctx, keepSent); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			s.cfg.Log.WarnContext(ctx, "hourly chores failed", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}

// ReadAnchors reads anchors as JSON lines: AuditCheckpoint.v1 events, their data alone,
// or lines of the service's log.
func ReadAnchors(lines [][]byte) ([]Anchor, error) {
	var anchors []Anchor
	for i, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var x struct {
			Anchor
			Data *Anchor `json:"data"`
		}
		if err := json.Unmarshal(line, &x); err != nil {
			return nil, fmt.Errorf("line %d is no JSON: %w", i+1, err)
		}
		if x.Data != nil {
			x.Anchor = *x.Data
		}
		if x.Seq > 0 && x.Hash != "" {
			anchors = append(anchors, x.Anchor)
		}
	}
	return anchors, nil
}
