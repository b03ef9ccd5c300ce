package admin

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// chainPlace is how far the verification of a chain has come: the last entry that was right, or where retention cut the chain.
type chainPlace struct {
	seq  int64
	hash []byte
	at   time.Time // of the entry; zero: there is none before the first
}

// entry names the last entry; nil: none.
func (p *chainPlace) entry() *iam.AuditEntry {
	if p.at.IsZero() {
		return nil
	}
	return &iam.AuditEntry{Seq: p.seq, At: p.at}
}

// follow moves on to the next entry of the chain, and returns what is wrong with it; empty: nothing is.
func (p *chainPlace) follow(e *iam.AuditEntry) (fault string, err error) {
	sum, err := e.Sum()
	switch {
	case err != nil:
		return "", err
	case e.Seq <= p.seq:
		return fmt.Sprintf("entry %d is a duplicate, or should have been removed", e.Seq), nil
	case e.Seq != p.seq+1:
		return fmt.Sprintf("entry %d is missing", p.seq+1), nil
	case !bytes.Equal(e.Prev, p.hash):
		return fmt.Sprintf("entry %d does not follow entry %d: one of them was changed", e.Seq, p.seq), nil
	case !bytes.Equal(sum, e.Hash):
		return fmt.Sprintf("entry %d was changed", e.Seq), nil
	}
	*p = chainPlace{e.Seq, e.Hash, e.At}
	return "", nil
}

// end returns what is wrong with the head of the chain, after its last entry.
func (p *chainPlace) end(head postgres.ChainHead, headed bool) string {
	switch {
	case !headed:
		return "it has no head"
	case p.seq < head.Seq:
		return fmt.Sprintf("it ends at entry %d, and its head is %d", p.seq, head.Seq)
	case p.seq > head.Seq || !bytes.Equal(p.hash, head.Hash):
		return fmt.Sprintf("its head is entry %d, which is not its last entry", head.Seq)
	}
	return ""
}

// AuditPlace is where the verification of the audit goes on. A caller that sends another place than it was given
// deceives itself alone.
type AuditPlace struct {
	Chain string
	Whole bool // the chain was verified: the next one is due
	Seq   int64
	Hash  []byte
	At    time.Time
}

// AuditPiece is the verification of a part of the audit.
type AuditPiece struct {
	Entries int // that were read
	Faults  []AuditFault
	Extent  postgres.AuditExtent // of the audit, before and after the place to go on
	Next    *AuditPlace          // nil: everything was verified
}

// AuditFault is the first thing that is wrong with a chain.
type AuditFault struct {
	Chain string
	Seq   int64           // of the entry that does not follow; 0: it is about the end of the chain
	Entry *iam.AuditEntry // as it is stored; nil: it is about the end of the chain
	Fault string
	Ended bool // a migration has destroyed the chain; another one of the same name may exist since
}

// chainsOfPiece is how many chains are begun in one piece.
const chainsOfPiece = 100

// VerifyAudit verifies the next entries of the audit, chain by chain, over one snapshot: each follows the one before, and the
// last is the head. Of a chain with a fault nothing more is read. Anchors are not compared: see Verify.
func (w *Work) VerifyAudit(ctx context.Context, from *AuditPlace, entries int) (piece AuditPiece, err error) {
	if from == nil {
		destroyed, err := w.tx.DestroyedChains(ctx)
		if err != nil {
			return piece, err
		}
		for _, d := range destroyed {
			piece.Faults = append(piece.Faults, AuditFault{Chain: d.Chain, Ended: true, Fault: fmt.Sprintf(
				"it ended at entry %d: \"migrate down --destroy-audit\" destroyed it on %s, by %s", d.Seq, d.At, d.By)})
		}
	}
	place := from
	for chains := 0; chains < chainsOfPiece && piece.Entries < entries; chains++ {
		ends, found, err := w.nextChain(ctx, place)
		if err != nil {
			return piece, err
		}
		if !found {
			place = nil
			break
		}
		place, err = w.verifyChain(ctx, ends, place, entries, &piece)
		if err != nil {
			return piece, err
		}
	}
	piece.Next = place
	piece.Extent, err = w.tx.AuditExtent(ctx)
	if err == nil && place != nil {
		piece.Extent.Before, piece.Extent.ChainsBefore, err = w.tx.AuditBefore(ctx, place.Chain, place.Seq, place.Whole)
	} else if err == nil {
		piece.Extent.Before, piece.Extent.ChainsBefore = piece.Extent.Entries, piece.Extent.Chains
	}
	return piece, err
}

// nextChain is the chain of a place, or the one after it.
func (w *Work) nextChain(ctx context.Context, place *AuditPlace) (postgres.ChainEnds, bool, error) {
	switch {
	case place == nil:
		return w.tx.NextChain(ctx, postgres.ChainFrom{})
	case place.Whole:
		return w.tx.NextChain(ctx, postgres.ChainFrom{After: true, Chain: place.Chain})
	}
	return w.tx.NextChain(ctx, postgres.ChainFrom{Chain: place.Chain})
}

// verifyChain verifies a chain from a place in it, until it ends, is wrong, or as many entries were read as are asked for.
func (w *Work) verifyChain(ctx context.Context, ends postgres.ChainEnds, place *AuditPlace, entries int, piece *AuditPiece) (*AuditPlace, error) {
	at := chainPlace{seq: ends.CutSeq, hash: ends.CutHash}
	if place != nil && !place.Whole && place.Chain == ends.Chain && place.Seq >= ends.CutSeq { // else it was cut since
		at = chainPlace{place.Seq, place.Hash, place.At}
	}
	whole := &AuditPlace{Chain: ends.Chain, Whole: true}
	limit := entries - piece.Entries
	page, err := w.tx.Chain(ctx, ends.Chain, at.entry(), limit)
	if err != nil {
		return nil, err
	}
	for i := range page {
		piece.Entries++
		fault, err := at.follow(&page[i])
		if err != nil {
			return nil, err
		}
		if fault != "" {
			piece.Faults = append(piece.Faults, AuditFault{Chain: ends.Chain, Seq: page[i].Seq, Entry: &page[i], Fault: fault})
			return whole, nil
		}
	}
	if len(page) == limit {
		return &AuditPlace{Chain: ends.Chain, Seq: at.seq, Hash: at.hash, At: at.at}, nil
	}
	head, headed, err := w.tx.Head(ctx, ends.Chain)
	if err != nil {
		return nil, err
	}
	if fault := at.end(head, headed); fault != "" {
		piece.Faults = append(piece.Faults, AuditFault{Chain: ends.Chain, Fault: fault})
	}
	return whole, nil
}
