package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// maxLooked is how many members one page looks at for those who can differ.
const maxLooked = 20_000

// users adds the users whose access differs; full: the page ends there.
func (d *difference) users(ctx context.Context, after string, limit int, page *AccessChanges) (full bool, err error) {
	for examined, looked := 0, 0; ; {
		c, err := d.candidates(ctx, after)
		if err != nil {
			return false, err
		}
		changes, err := d.of(ctx, c.ids)
		if err != nil {
			return false, err
		}
		for _, c := range changes {
			if len(page.Items) == limit {
				break
			}
			page.Items, after = append(page.Items, c), c.User
		}
		if len(page.Items) < limit {
			if c.last {
				return false, nil
			}
			after = c.through
		}
		examined, looked = examined+len(c.ids), looked+c.looked
		if len(page.Items) == limit || examined >= maxExamined || looked >= maxLooked {
			page.Next, page.More = AccessCursor{Kind: AccessUser, Name: after}, true
			return true, nil
		}
	}
}

// candidates are users whose access can differ, by id: all of those up to one. Each is or was a member of the tenant.
type candidates struct {
	ids     []string
	through string // the last id that they are about, where they are not the last
	last    bool
	looked  int // members
}

// windowOf is how many members one query looks at.
const windowOf = 1000

// candidates are users after one whose access can differ. Where roles and status of the tenant are the same, those are members who
// changed themselves, whose user did, or who have something that starts or ends by itself.
func (d *difference) candidates(ctx context.Context, after string) (candidates, error) {
	changed := postgres.ObjectFilter{Chain: d.tenant, Kind: iam.KindMember, After: d.period.From}
	if !d.exists {
		changed.After = time.Time{}
	}
	tx, c := d.w.tx, candidates{last: true}
	until := func(id string, full bool) {
		if full && (c.last || id < c.through) {
			c.last, c.through = false, id
		}
	}
	recorded, err := tx.Objects(ctx, changed, after, holdersRead)
	if err != nil {
		return c, err
	}
	if len(recorded) > 0 {
		until(recorded[len(recorded)-1], len(recorded) == holdersRead)
	}
	var members []string
	switch {
	case d.exists && d.same:
		window, err := tx.ChangedMembers(ctx, d.tenant, d.period.From, d.period.To, after, windowOf)
		if err != nil {
			return c, err
		}
		members, c.looked = window.Users, window.Looked
		until(window.Through, window.Looked == windowOf)
	case d.exists:
		if members, err = tx.MemberIDs(ctx, d.tenant, after, holdersRead); err != nil {
			return c, err
		}
		if len(members) > 0 {
			until(members[len(members)-1], len(members) == holdersRead)
		}
	}
	all := slices.Concat(recorded, members)
	slices.Sort(all)
	for _, id := range slices.Compact(all) {
		if !c.last && id > c.through {
			break
		}
		if len(c.ids) == holdersRead {
			c.last, c.through = false, c.ids[holdersRead-1]
			break
		}
		c.ids = append(c.ids, id)
	}
	return c, nil
}
