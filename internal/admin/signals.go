package admin

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// ErrSignalState is the transmitter's to correct.
var ErrSignalState = &iam.Error{Kind: iam.Invalid, Detail: "state is not the one that was asked for"}

// SignalResult is what a signal has led to, for one user.
type SignalResult struct {
	Outcome iam.SignalOutcome
	User    string // our id; empty: it was about no user here
}

// signalDoc is a signal in the audit. It names no subject, and holds no text that the transmitter wrote for people.
type signalDoc struct {
	ID       string            `json:"jti"`
	IssuedAt string            `json:"iat"`
	Event    string            `json:"event"`
	At       string            `json:"event_timestamp,omitempty"`
	By       string            `json:"initiating_entity,omitempty"`
	Effect   iam.SignalEffect  `json:"effect,omitempty"`
	Outcome  iam.SignalOutcome `json:"outcome"`
	User     string            `json:"user,omitempty"`
	State    string            `json:"state,omitempty"`  // of a verification event
	Status   string            `json:"status,omitempty"` // of a stream
}

// ReceiveSignal applies a verified signal, once: a duplicate changes nothing. One transaction records its id, changes its
// users, and appends audit and events. It returns a result for each user, by id, or one where it is about no user. It
// fails with ErrSignalState where a verification event has another state than the one that was asked for.
func (s *Service) ReceiveSignal(ctx context.Context, c Caller, signal iam.Signal) ([]SignalResult, error) {
	c.Stream, c.Via = signal.Stream, "signal"
	task := Task{Action: "signal:" + signal.Event.Name, Object: signal.Stream, Writes: true}
	return Do(ctx, s, c, task, func(ctx context.Context, w *Work) ([]SignalResult, error) {
		fresh, err := w.tx.AddSignal(ctx, signal.Stream, signal.ID)
		if err != nil || !fresh {
			return outcomeOf(iam.OutcomeDuplicate), err
		}
		switch {
		case signal.Verification != nil:
			return w.verifyStream(ctx, signal)
		case signal.Update != nil:
			return w.updateStream(ctx, signal)
		}
		return w.applySignal(ctx, signal)
	})
}

// outcomeOf is the result of a signal about no user.
func outcomeOf(o iam.SignalOutcome) []SignalResult { return []SignalResult{{Outcome: o}} }

func (w *Work) verifyStream(ctx context.Context, signal iam.Signal) ([]SignalResult, error) {
	result := outcomeOf(iam.OutcomeVerified)
	expected, err := w.tx.VerifyStream(ctx, signal.Stream, signal.Verification.State)
	if err != nil {
		return result, err
	}
	if !expected {
		return result, ErrSignalState
	}
	doc := docOfSignal(signal, result[0])
	doc.State = signal.Verification.State
	return result, w.record("", iam.KindSignal, signal.Stream, nil, doc)
}

func (w *Work) updateStream(ctx context.Context, signal iam.Signal) ([]SignalResult, error) {
	result := outcomeOf(iam.OutcomeStreamUpdated)
	if _, err := w.tx.UpdateStream(ctx, signal.Stream, *signal.Update); err != nil {
		return result, err
	}
	doc := docOfSignal(signal, result[0])
	doc.Status = signal.Update.Status // its reason is free text, and the chain is not erasable
	return result, w.record("", iam.KindSignal, signal.Stream, nil, doc)
}

func docOfSignal(signal iam.Signal, r SignalResult) signalDoc {
	e := signal.Event
	return signalDoc{
		ID: signal.ID, IssuedAt: timestamp(signal.IssuedAt), Event: e.Name, At: timestamp(e.At), By: e.By, Effect: e.Effect,
		Outcome: r.Outcome, User: r.User,
	}
}

// applySignal applies an event about a user. Its subjects may be several users here, one of each issuer: each of them is
// changed. Users whom no one knows here are not audited: a transmitter may send signals about all of its accounts.
func (w *Work) applySignal(ctx context.Context, signal iam.Signal) ([]SignalResult, error) {
	e := signal.Event
	switch {
	case e.Name == "unknown":
		return outcomeOf(iam.OutcomeUnknownEvent), nil
	case e.Effect == iam.SignalNone:
		return outcomeOf(iam.OutcomeIgnored), nil
	case len(e.Subjects) == 0:
		return outcomeOf(iam.OutcomeNoUser), nil
	}
	users, err := w.usersOfSignal(ctx, e)
	if err != nil || len(users) == 0 {
		return outcomeOf(iam.OutcomeUnknownUser), err
	}
	results := make([]SignalResult, len(users))
	for i, user := range users {
		results[i].User = user
		if results[i].Outcome, err = w.signalUser(ctx, user, signal); err != nil {
			return nil, err
		}
		if err := w.record("", iam.KindSignal, signal.Stream, nil, docOfSignal(signal, results[i])); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// usersOfSignal are the ids of the users whom the subjects of an event name, in order.
func (w *Work) usersOfSignal(ctx context.Context, e iam.SignalEvent) ([]string, error) {
	var found []string
	var unknown []postgres.Identity
	for _, subject := range e.Subjects {
		id, err := w.idOfSubject(ctx, subject)
		switch {
		case err != nil:
			return nil, err
		case id != "":
			found = append(found, id)
		case subject.Certain:
			unknown = append(unknown, postgres.Identity{Issuer: subject.Issuer, Name: subject.Subject})
		}
	}
	// Unknown users get the roles that claims of their tokens map to: only a row can revoke those.
	if w.s.cfg.UnknownMapped && len(unknown) > 0 && e.Effect.Stronger(iam.SignalUnblock) && e.Effect != iam.SignalErase {
		made, created, err := w.tx.EnsureUsers(ctx, unknown, "")
		if err != nil {
			return nil, err
		}
		for _, u := range made {
			found = append(found, u.ID)
			if !created[u.ID] {
				continue
			}
			if err := w.userCreated(u); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(found) // users are locked in one order
	return slices.Compact(found), nil
}

// idOfSubject is the id of the user whom a subject names; "": none is known.
func (w *Work) idOfSubject(ctx context.Context, subject iam.SignalSubject) (string, error) {
	if subject.User == "" {
		id, _, err := w.tx.UserOf(ctx, subject.Issuer, subject.Subject)
		return id, err
	}
	if !canonical(subject.User) {
		return "", nil
	}
	u, found, err := w.tx.UserByID(ctx, subject.User)
	if err != nil || !found || !slices.Contains(w.caller.Reach, u.Issuer) {
		return "", err // of another issuer as if it did not exist
	}
	return u.ID, nil
}

// signalUser changes a user whom an event is about.
func (w *Work) signalUser(ctx context.Context, user string, signal iam.Signal) (iam.SignalOutcome, error) {
	u, err := w.User(ctx, user) // locked
	if err != nil {
		return "", err
	}
	e := signal.Event
	before := signalTime(signal, time.Now())
	effect := e.Effect
	if e.Narrowed && effect != iam.SignalUnblock {
		effect = iam.SignalRevoke // what is true of a session, a device or a tenant blocks no user everywhere
	}
	switch effect {
	case iam.SignalUnblock:
		if e.Narrowed {
			return iam.OutcomeIgnored, nil
		}
		return w.unblockBySignal(ctx, u, before)
	case iam.SignalBlock:
		return w.blockBySignal(ctx, u, before, e.Final)
	case iam.SignalErase:
		return w.withoutLastAdmin(ctx, user, before, iam.OutcomeErased, func() error { return w.EraseUser(ctx, user, Condition{}) })
	default:
		return w.revokeBySignal(ctx, user, before)
	}
}

// signalTime is the time of the event: tokens issued earlier are revoked. It is never later than a revocation of now. An
// iat has whole seconds, so that a token of this second may be older.
func signalTime(signal iam.Signal, now time.Time) time.Time {
	at := signal.Event.At
	if at.IsZero() {
		at = signal.IssuedAt
	}
	if limit := now.Truncate(time.Second).Add(time.Second); at.After(limit) {
		at = limit
	}
	return at.Truncate(time.Microsecond)
}

func (w *Work) revokeBySignal(ctx context.Context, user string, before time.Time) (iam.SignalOutcome, error) {
	outcome := iam.OutcomeUnchanged
	_, err := w.changeUser(ctx, user, Condition{}, func(u *iam.User) error {
		if before.After(u.TokensNotBefore) {
			u.TokensNotBefore, outcome = before, iam.OutcomeRevoked
		}
		return nil
	})
	return outcome, err
}

// blockBySignal blocks a user and revokes their tokens. A block by an administrator stays theirs.
func (w *Work) blockBySignal(ctx context.Context, u iam.User, at time.Time, final bool) (iam.SignalOutcome, error) {
	accounts, err := w.tx.SignalAccounts(ctx, u.ID)
	if err != nil {
		return "", err
	}
	own, others := accountOf(accounts, w.caller.Stream)
	if own.EventAt.After(at) && !own.Blocks && !final {
		return w.revokeBySignal(ctx, u.ID, at) // a later event of the stream has enabled the account
	}
	return w.withoutLastAdmin(ctx, u.ID, at, iam.OutcomeBlocked, func() error {
		blocks := !final && (u.Status == iam.UserActive || own.Blocks || others)
		if final {
			if _, err := w.tx.TakeSignalBlocks(ctx, u.ID); err != nil {
				return err
			}
		}
		account := postgres.SignalAccount{Stream: w.caller.Stream, EventAt: latest(own.EventAt, at), Blocks: blocks}
		if err := w.tx.PutSignalAccount(ctx, u.ID, account); err != nil {
			return err
		}
		_, err := w.changeUser(ctx, u.ID, Condition{}, func(u *iam.User) error {
			u.Status = iam.UserBlocked
			u.TokensNotBefore = latest(u.TokensNotBefore, at)
			return nil
		})
		return err
	})
}

// unblockBySignal lifts the block of a stream. The user stays blocked where another stream or an administrator has
// blocked them.
func (w *Work) unblockBySignal(ctx context.Context, u iam.User, at time.Time) (iam.SignalOutcome, error) {
	accounts, err := w.tx.SignalAccounts(ctx, u.ID)
	if err != nil {
		return "", err
	}
	own, others := accountOf(accounts, w.caller.Stream)
	if own.EventAt.After(at) {
		return iam.OutcomeUnchanged, nil
	}
	if err := w.tx.PutSignalAccount(ctx, u.ID, postgres.SignalAccount{Stream: w.caller.Stream, EventAt: at}); err != nil {
		return "", err
	}
	if !own.Blocks || others || u.Status != iam.UserBlocked {
		return iam.OutcomeUnchanged, nil
	}
	_, err = w.changeUser(ctx, u.ID, Condition{}, func(u *iam.User) error {
		u.Status = iam.UserActive
		return nil
	})
	return iam.OutcomeUnblocked, err
}

// withoutLastAdmin blocks or erases a user. Of the last platform administrator it revokes the tokens alone: the platform
// must stay administrable, and the holder of their tokens must not administer it.
func (w *Work) withoutLastAdmin(ctx context.Context, user string, at time.Time, done iam.SignalOutcome, do func() error) (iam.SignalOutcome, error) {
	u, err := w.User(ctx, user)
	if err != nil {
		return "", err
	}
	if administers(u) {
		err = w.checkLastAdmin(ctx, user)
	}
	if iam.CodeOf(err) == "last_platform_admin" {
		w.s.cfg.Log.WarnContext(ctx, "signal does not block the last platform administrator: their tokens are revoked",
			slog.String("user", user), slog.String("stream", w.caller.Stream))
		_, err := w.revokeBySignal(ctx, user, at)
		return iam.OutcomeLastAdmin, err
	}
	if err != nil {
		return "", err
	}
	if done == iam.OutcomeBlocked && u.Status == iam.UserBlocked && !at.After(u.TokensNotBefore) {
		done = iam.OutcomeUnchanged
	}
	return done, do()
}

// accountOf is what a stream has said of a user, and whether another one has blocked the user.
func accountOf(accounts []postgres.SignalAccount, stream string) (own postgres.SignalAccount, others bool) {
	for _, a := range accounts {
		if a.Stream == stream {
			own = a
		} else {
			others = others || a.Blocks
		}
	}
	return own, others
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// keepBlock makes a block the administrator's whose change of the user leaves it blocked: no signal lifts it any more.
func (w *Work) keepBlock(ctx context.Context, id string) error {
	was, err := w.tx.TakeSignalBlocks(ctx, id)
	if err != nil || !was {
		return err
	}
	return w.record("", iam.KindUser, id, map[string]any{"blocked_by": "signal"}, map[string]any{"blocked_by": "administrator"})
}

// ExpectVerification records that the next verification event of a stream must have a state. It is for operators.
func (w *Work) ExpectVerification(ctx context.Context, stream, state string) error {
	if err := w.tx.ExpectVerification(ctx, stream, state); err != nil {
		return err
	}
	return w.record("", iam.KindSignal, stream, nil, map[string]any{"verification": "requested"})
}

// SignalStreams returns what is known of all streams of signals.
func (w *Work) SignalStreams(ctx context.Context) ([]iam.SignalStream, error) {
	return w.tx.SignalStreams(ctx)
}
