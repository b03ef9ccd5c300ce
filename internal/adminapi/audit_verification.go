package adminapi

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"iam-service/internal/admin"
)

// verificationBody is the verification of a part of the audit.
type verificationBody struct {
	Entries        int          `json:"entries" doc:"that were read for this response"`
	Verified       int64        `json:"verified" doc:"entries before the place where the next piece begins, of total; those of a broken chain count as well"`
	Total          int64        `json:"total" doc:"entries of all chains; it grows while entries are written"`
	ChainsVerified int64        `json:"chains_verified" doc:"chains that were read to their end or to their fault, of chains"`
	Chains         int64        `json:"chains"`
	Chain          *string      `json:"chain,omitempty" doc:"in which the next piece begins or which it follows: id of a tenant; empty: the platform; absent: everything was verified"`
	Faults         []auditFault `json:"faults" doc:"that this piece has found: the first of each broken chain"`
	Next           string       `json:"next,omitempty" doc:"value of after for the next piece; absent: everything was verified"`
}

type auditFault struct {
	Chain string     `json:"chain" doc:"id of a tenant; empty: the platform"`
	Seq   int64      `json:"seq,omitempty" doc:"of the entry that does not follow; absent: it is about the end of the chain"`
	Fault string     `json:"fault" doc:"what is wrong"`
	Ended bool       `json:"ended" doc:"a rollback of migrations has destroyed the chain; another one of the same name may exist since"`
	Entry *auditBody `json:"entry,omitempty" doc:"that does not follow, as it is stored"`
}

type verificationIn struct {
	OnPlatform
	Limit int    `query:"limit" minimum:"1" maximum:"5000" default:"1000" doc:"entries of a piece"`
	After string `query:"after" maxLength:"500" doc:"next of the previous piece"`
}

func (a *server) verifyAudit(ctx context.Context, w *admin.Work, in *verificationIn) (*resource[verificationBody], error) {
	var from *admin.AuditPlace
	if in.After != "" {
		from = &admin.AuditPlace{}
		var hash string
		var at time.Time
		err := Paged{After: in.After}.cursor(&from.Chain, &from.Whole, &from.Seq, &hash, &at)
		if err == nil {
			from.Hash, err = hex.DecodeString(hash)
		}
		if err != nil || !isText(from.Chain) || from.Seq < 0 {
			return nil, invalidCursor()
		}
		from.At = at
	}
	piece, err := w.VerifyAudit(ctx, from, in.Limit)
	if err != nil {
		return nil, err
	}
	b := verificationBody{
		Entries: piece.Entries, Verified: piece.Extent.Before, Total: piece.Extent.Entries,
		ChainsVerified: piece.Extent.ChainsBefore, Chains: piece.Extent.Chains, Faults: []auditFault{},
	}
	for _, f := range piece.Faults {
		fault := auditFault{Chain: f.Chain, Seq: f.Seq, Fault: f.Fault, Ended: f.Ended}
		if f.Entry != nil {
			entry := wireEntry(*f.Entry)
			fault.Entry = &entry
		}
		b.Faults = append(b.Faults, fault)
	}
	if next := piece.Next; next != nil {
		b.Chain = &next.Chain
		b.Next = Paged{}.encoded([]any{next.Chain, next.Whole, next.Seq, hex.EncodeToString(next.Hash), next.At})
	}
	return &resource[verificationBody]{Status: http.StatusOK, Body: b}, nil
}
