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

// Verdict is what became of the verification of one chain.
type Verdict struct {
	Chain    string
	Entries  int64
	Anchored int64  // up to which seq it was compared with an anchor; 0: none
	Fault    string // "" if none was found
	Ended    bool   // a migration has destroyed it; another one of the same name may have begun since
}

// Anchor is a head of a chain that was kept outside: an AuditCheckpoint.v1.
type Anchor = iam.Checkpoint

// Verify walks all chains of the audit over one snapshot, and compares them with
// anchors. Without an anchor that whoever could write here could not write, it proves
// only that nobody was careless.
func (s *Service) Verify(ctx context.Context, anchors []Anchor, tell func(Verdict)) error {
	byChain := map[string]map[int64]string{}
	torn := map[string]int64{} // chains of which two anchors say different things
	for _, a := range anchors {
		if byChain[a.Chain] == nil {
			byChain[a.Chain] = map[int64]string{}
		}
		if was, told := byChain[a.Chain][a.Seq]; told && was != a.Hash {
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
		tell(Verdict{Chain: d.Chain, Ended: true, Fault: fmt.Sprintf("it ended at entry %d: \"migrate down --destroy-audit\" destroyed it on %s, by %s", d.Seq, d.At, d.By)})
	}
	seen := map[string]bool{}
	for _, c := range chains {
		seen[c.Chain] = true
		if seq := torn[c.Chain]; seq > 0 {
			tell(Verdict{Chain: c.Chain, Fault: fmt.Sprintf("two anchors of entry %d say different things: the chain was written anew and told again", seq)})
			continue
		}
		v, err := s.verify(ctx, c, byChain[c.Chain])
		if err != nil {
			return err
		}
		tell(v)
	}
	for chain := range byChain {
		if !seen[chain] {
			tell(Verdict{Chain: chain, Fault: "an anchor speaks of it, and it is not there"})
		}
	}
	return nil
}

// verify walks one chain, some entries at a time: it only grows. Each entry must follow
// the one before, from the beginning or from where retention cut, and the last one must
// be what the head says at that moment.
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
		v.Fault = fmt.Sprintf("it was cut at entry %d, and the newest anchor is of entry %d: nothing that is left can be compared", c.CutSeq, newest)
		return v, nil
	}
	var last *iam.AuditEntry
	for {
		var page []iam.AuditEntry
		var head postgres.ChainHead
		var headed bool
		err := s.cfg.DB.View(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
			if page, err = tx.Chain(ctx, c.Chain, last, 1000); err == nil {
				head, headed, err = tx.Head(ctx, c.Chain)
			}
			return err
		})
		if err != nil {
			return v, err
		}
		for i := range page {
			e := &page[i]
			sum, err := e.Sum()
			want, anchored := anchors[e.Seq]
			switch {
			case err != nil:
				return v, err
			case e.Seq <= seq:
				v.Fault = fmt.Sprintf("entry %d stands there once more, or should be gone", e.Seq)
			case e.Seq != seq+1:
				v.Fault = fmt.Sprintf("entry %d is missing", seq+1)
			case !bytes.Equal(e.Prev, hash):
				v.Fault = fmt.Sprintf("entry %d does not follow entry %d: one of them was changed", e.Seq, seq)
			case !bytes.Equal(sum, e.Hash):
				v.Fault = fmt.Sprintf("entry %d was changed", e.Seq)
			case anchored && want != hex.EncodeToString(e.Hash):
				v.Fault = fmt.Sprintf("entry %d is not the one that was anchored: the chain was written anew", e.Seq)
			}
			if v.Fault != "" {
				return v, nil
			}
			if anchored {
				v.Anchored = e.Seq
			}
			seq, hash, last = e.Seq, e.Hash, e
			v.Entries++
		}
		if len(page) > 0 {
			continue
		}
		switch {
		case !headed:
			v.Fault = "it has no head"
		case seq < head.Seq:
			v.Fault = fmt.Sprintf("it ends at entry %d, and its head says %d", seq, head.Seq)
		case seq > head.Seq || !bytes.Equal(hash, head.Hash):
			v.Fault = fmt.Sprintf("its head says entry %d, which is not how it ends", head.Seq)
		case seq < newest:
			v.Fault = fmt.Sprintf("it ends at entry %d, and an anchor says %d", seq, newest)
		}
		return v, nil
	}
}

// Chores does what is due once an hour, on one replica: partitions of the audit ahead of
// time, keys of requests that have expired, events that were sent longer than keepSent
// ago, and telling the heads of the audit's chains, as events and in the log.
func (s *Service) Chores(ctx context.Context, keepSent time.Duration) error {
	// Apart from the rest, which does not wait for a reader of the default partition, such as a backup.
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
	// Some at a time, apart from the rest: after a long outage there are very many.
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
