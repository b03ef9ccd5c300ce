package clients

import (
	"context"
	"errors"
	"strconv"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Provider is the identity provider; package rauthtest is its conformance test. The kind of a
// failure is what can be done: Invalid is permanent, Unavailable is temporary, and with
// iam.ErrOutcomeUnknown in its chain the call may have been done.
type Provider interface {
	Create(ctx context.Context, r iam.Registration) (iam.Secret, error)
	Get(ctx context.Context, id string) (iam.Registration, error)
	Update(ctx context.Context, r iam.Registration) error
	Delete(ctx context.Context, id string) error
	Rotate(ctx context.Context, id string) (iam.Secret, error)
	SetSecret(ctx context.Context, r iam.Registration, secret iam.Secret) error
	Retire(ctx context.Context, id string) error
	List(ctx context.Context, each func(iam.Registration) error) error
}

// audience is whether a caller waits for the outcome of an operation, and its secret.
type audience int

const (
	inBackground audience = iota
	callerWaits
)

// step runs the pending operation in the identity provider.
func (s *Service) step(ctx context.Context, c iam.ManagedClient, l lease, by audience) (d admin.Done, err error) {
	if l.over() {
		return d, errLeaseOver // another replica may work on it before the call arrives
	}
	p := s.cfg.Provider
	switch c.Operation {
	case iam.OperationCreate:
		return s.create(ctx, c, l, by)
	case iam.OperationUpdate:
		err = s.update(ctx, c)
		if iam.KindOf(err) == iam.NotFound {
			return s.create(ctx, c, l, inBackground) // it was deleted there
		}
	case iam.OperationDelete:
		err = p.Delete(ctx, c.ClientID)
	case iam.OperationRetire:
		if err = p.Retire(ctx, c.ClientID); iam.KindOf(err) == iam.NotFound {
			err = nil // with the client, its secrets are gone
		}
	}
	return d, err
}

// create creates a client, or finds one of an earlier attempt whose response was lost. The
// secret is lost with that response; a waiting caller gets another one.
func (s *Service) create(ctx context.Context, c iam.ManagedClient, l lease, by audience) (admin.Done, error) {
	p, wanted := s.cfg.Provider, c.Marked(s.cfg.Instance)
	secret, err := p.Create(ctx, wanted)
	if iam.KindOf(err) != iam.Conflict {
		if by == inBackground {
			secret = "" // no caller waits for it
		}
		return admin.Done{Secret: secret, Made: err == nil}, err
	}
	got, err := p.Get(ctx, c.ClientID)
	switch {
	case iam.KindOf(err) == iam.NotFound:
		return admin.Done{}, &iam.Error{Kind: iam.Unavailable, Code: "idp_bad_response", Detail: "provider is inconsistent: create returned 409, get returned 404"}
	case err != nil:
		return admin.Done{}, err
	case !s.ours(got):
		return admin.Done{}, &iam.Error{Kind: iam.Conflict, Code: "client_id_taken", Detail: "the identity provider has a foreign client of that id"}
	}
	made := got.Metadata[iam.MarkVersion] == wanted.Metadata[iam.MarkVersion] // by an earlier attempt
	if !made || len(got.Drift(wanted)) > 0 {
		if err := s.update(ctx, c); err != nil {
			// Also after a permanent rejection: the client exists, and its row must stay.
			return admin.Done{}, &iam.Error{Kind: iam.Unavailable, Code: reasonOf(err), Detail: "the client was created and cannot be updated", Cause: err}
		}
	}
	found := admin.Done{Made: made}
	if by == inBackground || !c.Wanted.HasSecret() || l.over() {
		return found, nil
	}
	secret, oldWorks, err := s.newSecret(ctx, c, 0)
	if err != nil {
		return found, nil //nolint:nilerr // the client is created; a caller without a secret rotates
	}
	// The previous secret was in the lost response: it is not in use.
	return admin.Done{Made: made, Secret: secret, Late: oldWorks && p.Retire(ctx, c.ClientID) != nil}, nil
}

// ours reports whether this instance created a client of the provider.
func (s *Service) ours(r iam.Registration) bool {
	return r.Metadata[iam.MarkInstance] == s.cfg.Instance && r.Metadata[iam.MarkClient] == r.ClientID
}

// update replaces a client's metadata. Where the response was lost, it is read back.
func (s *Service) update(ctx context.Context, c iam.ManagedClient) error {
	err := s.cfg.Provider.Update(ctx, c.Marked(s.cfg.Instance))
	if err == nil || !errors.Is(err, iam.ErrOutcomeUnknown) {
		return err
	}
	got, readErr := s.cfg.Provider.Get(ctx, c.ClientID)
	if readErr == nil && got.Metadata[iam.MarkVersion] == strconv.FormatInt(c.WantedVersion, 10) && len(got.Drift(c.Wanted)) == 0 {
		return nil
	}
	return err
}

// rejected reports whether an operation failed permanently. A deletion never does: it is retried
// until it succeeds.
func rejected(c iam.ManagedClient, err error) bool {
	k := iam.KindOf(err)
	return c.Operation != iam.OperationDelete && (k == iam.Invalid || k == iam.Conflict)
}
