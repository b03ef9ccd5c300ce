package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Grant is a platform role and the user who is to hold it.
type Grant struct {
	Issuer, Subject string
	Role            string
	OnlyFirst       bool // not where the platform has an administrator already
}

// Granted is the outcome of a grant.
type Granted struct {
	User    string // our id; empty: the user does not hold the role
	Changed bool
}

// GrantPlatformRole grants a platform role to a user, who is created or unblocked if need
// be. It is for operators.
func (s *Service) GrantPlatformRole(ctx context.Context, c Caller, g Grant) (Granted, error) {
	return Do(ctx, s, c, Task{Action: "user:grant-" + g.Role, Writes: true}, func(ctx context.Context, w *Work) (Granted, error) {
		var none Granted
		if g.OnlyFirst {
			n, err := w.tx.OtherPlatformAdmins(ctx, "")
			if err != nil {
				return none, err
			}
			if n > 0 {
				u, known, err := w.tx.User(ctx, g.Issuer, g.Subject)
				if err == nil && known && u.Status == iam.UserActive && slices.Contains(u.PlatformRoles, g.Role) {
					return Granted{User: u.ID}, nil
				}
				return none, err
			}
		}
		if err := iam.InvalidFields(iam.User{Issuer: g.Issuer, Subject: g.Subject, Status: iam.UserActive, PlatformRoles: []string{g.Role}}.Check()); err != nil {
			return none, err
		}
		users, created, err := w.tx.EnsureUsers(ctx, []postgres.Identity{{Issuer: g.Issuer, Name: g.Subject}}, "")
		if err != nil {
			return none, err
		}
		before := users[0]
		if created[before.ID] {
			if err := w.userCreated(before); err != nil {
				return none, err
			}
		}
		after, err := w.changeUser(ctx, before.ID, Condition{}, func(u *iam.User) error {
			u.Status = iam.UserActive
			if u.TokensNotBefore.After(time.Now().Add(time.Minute)) {
				u.TokensNotBefore = time.Time{} // else all their tokens stay revoked
			}
			if !slices.Contains(u.PlatformRoles, g.Role) {
				u.PlatformRoles = append(slices.Clone(u.PlatformRoles), g.Role)
			}
			return nil
		})
		return Granted{User: before.ID, Changed: after.Version != before.Version}, err
	})
}

// ReplayEvents requests a replay of the events since a time, and returns their number. It is for
// operators.
func (w *Work) ReplayEvents(ctx context.Context, since time.Time) (int64, error) {
	n, err := w.tx.ReplayEvents(ctx, since)
	if err != nil {
		return 0, err
	}
	return n, w.record("", iam.KindEvent, "replay", nil, map[string]any{"since": timestamp(since), "events": n})
}

// RetryParked publishes a parked event again. It is for operators.
func (w *Work) RetryParked(ctx context.Context, id string) error {
	if err := w.tx.RetryParked(ctx, id); err != nil {
		return err
	}
	return w.record("", iam.KindEvent, id, map[string]any{"parked": true}, map[string]any{"parked": false, "skipped": false})
}

// SkipParked discards a parked event permanently. It is for operators.
func (w *Work) SkipParked(ctx context.Context, id string) error {
	if err := w.tx.SkipParked(ctx, id); err != nil {
		return err
	}
	return w.record("", iam.KindEvent, id, map[string]any{"parked": true}, map[string]any{"parked": false, "skipped": true})
}

type instanceDoc struct {
	ID      string `json:"id"`
	Clients int64  `json:"clients_released,omitempty"`
}

// KeepInstance confirms that a database which was moved is still the same instance. It is
// for operators.
func (w *Work) KeepInstance(ctx context.Context) (id string, err error) {
	if id, err = w.tx.ConfirmInstance(ctx); err != nil {
		return "", err
	}
	return id, w.record("", iam.KindInstance, id, instanceDoc{ID: id}, instanceDoc{ID: id})
}

// RenewedInstance is what a copied database has become.
type RenewedInstance struct {
	ID       string
	Released int64 // clients of the previous instance, which are no longer managed
}

// RenewInstance turns a copied database into another instance. It is for operators.
func (w *Work) RenewInstance(ctx context.Context, before string) (RenewedInstance, error) {
	id, clients, err := w.tx.RenewInstance(ctx)
	if err != nil {
		return RenewedInstance{}, err
	}
	return RenewedInstance{id, clients}, w.record("", iam.KindInstance, id, instanceDoc{ID: before}, instanceDoc{ID: id, Clients: clients})
}
