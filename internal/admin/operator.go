package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// GrantPlatformRole gives a platform role to a user, whom it makes known and unblocks
// if need be. Where unlessAdmin is set it does nothing if somebody administers the
// platform already. It is for operators, and reports whether anything was done; the id is
// empty where the user does not hold the role.
func (s *Service) GrantPlatformRole(ctx context.Context, c Caller, issuer, subject, role string, unlessAdmin bool) (id string, done bool, err error) {
	err = s.Do(ctx, c, Task{Action: "user:grant-" + role, Writes: true}, func(ctx context.Context, w *Work) error {
		id, done = "", false
		if unlessAdmin {
			n, err := w.tx.OtherPlatformAdmins(ctx, "")
			if err != nil {
				return err
			}
			if n > 0 {
				u, known, err := w.tx.User(ctx, issuer, subject)
				if err == nil && known && u.Status == iam.UserActive && slices.Contains(u.PlatformRoles, role) {
					id = u.ID
				}
				return err
			}
		}
		if err := iam.Refuse(iam.User{Issuer: issuer, Subject: subject, Status: iam.UserActive, PlatformRoles: []string{role}}.Check()); err != nil {
			return err
		}
		users, created, err := w.tx.EnsureUsers(ctx, [][2]string{{issuer, subject}}, "")
		if err != nil {
			return err
		}
		u := users[0]
		id = u.ID
		if created[id] {
			if err := w.userCreated(u); err != nil {
				return err
			}
		}
		version := u.Version
		u, err = w.changeUser(ctx, id, Condition{}, false, func(u *iam.User) error {
			u.Status = iam.UserActive
			if u.TokensNotBefore.After(time.Now().Add(time.Minute)) {
				u.TokensNotBefore = time.Time{} // they could not get in
			}
			if !slices.Contains(u.PlatformRoles, role) {
				u.PlatformRoles = append(slices.Clone(u.PlatformRoles), role)
			}
			return nil
		})
		done = u.Version != version
		return err
	})
	return id, done, err
}

// ReplayEvents asks the relay to send again what occurred since a time. It is for
// operators, and returns how many events that are.
func (w *Work) ReplayEvents(ctx context.Context, since time.Time) (int64, error) {
	n, err := w.tx.ReplayEvents(ctx, since)
	if err != nil {
		return 0, err
	}
	return n, w.record("", iam.KindEvent, "replay", nil, map[string]any{"since": stamp(since), "events": n})
}

// Unpark lets a parked event be tried again, or gives it up. It is for operators.
func (w *Work) Unpark(ctx context.Context, id string, skip bool) error {
	if err := w.tx.Unpark(ctx, id, skip); err != nil {
		return err
	}
	return w.record("", iam.KindEvent, id, map[string]any{"parked": true}, map[string]any{"parked": false, "skipped": skip})
}

type instanceDoc struct {
	ID      string `json:"id"`
	Clients int64  `json:"clients_released,omitempty"`
}

// KeepInstance confirms that a database which was moved is still the same instance. It is
// for operators.
func (w *Work) KeepInstance(ctx context.Context) (id string, err error) {
	if id, err = w.tx.KeepInstance(ctx); err != nil {
		return "", err
	}
	return id, w.record("", iam.KindInstance, id, instanceDoc{ID: id}, instanceDoc{ID: id})
}

// RenewInstance makes a copied database another instance. It is for operators, and returns
// how many clients of the one before were released.
func (w *Work) RenewInstance(ctx context.Context, before string) (id string, clients int64, err error) {
	if id, clients, err = w.tx.RenewInstance(ctx); err != nil {
		return "", 0, err
	}
	return id, clients, w.record("", iam.KindInstance, id, instanceDoc{ID: before}, instanceDoc{ID: id, Clients: clients})
}
