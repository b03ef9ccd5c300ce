package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// activation is one row of policy_activations.
type activation struct {
	Seq    int64  `json:"seq"`
	Digest string `json:"digest"`
}

// stored is what is written about the policy in STATE_DIR.
type stored struct {
	activation
	Verified string `json:"verified,omitempty"` // as of iam.PolicyRevision; empty: not known, so it must be signed
}

// saveState writes what is in force to STATE_DIR, as it is kept in the database: after the gate.
func (s *Service) saveState(ctx context.Context) {
	s.mu.Lock()
	now := activation{s.orders.Seq, s.orders.InForce}
	done := s.kept == now
	s.mu.Unlock()
	r := s.cfg.Engine.Revision()
	if s.cfg.StateDir == "" || done || r == nil || r.Digest != now.Digest { // what is in force is not what should be, or came from STATE_DIR
		return
	}
	err := s.replaceState(ctx, now)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the policy in force could not be kept in STATE_DIR", slog.Any("err", err))
		return
	}
	s.mu.Lock()
	s.kept = now
	s.mu.Unlock()
}

func (s *Service) replaceState(ctx context.Context, now activation) error {
	name := filepath.Join(s.cfg.StateDir, keptName)
	if s.storedActivation().Seq > now.Seq { // the database has lost it: Lost says so
		return nil
	}
	about := stored{activation: now}
	if s.embedded(now.Digest) { // a start has it anyway, and what it has replaced must not come back
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else {
		kept, packed, err := s.cfg.DB.PolicyBundle(ctx, now.Digest)
		if err == nil {
			err = writeAtomically(name, packed)
		}
		if err != nil {
			return err
		}
		about.Verified = kept.Verified
	}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	return writeAtomically(filepath.Join(s.cfg.StateDir, activationName), text)
}

// storedActivation is the one that what is in STATE_DIR is of; zero: none, or it is not known.
func (s *Service) storedActivation() (about stored) {
	text, err := os.ReadFile(filepath.Join(s.cfg.StateDir, activationName))
	if err != nil || json.Unmarshal(text, &about) != nil {
		return stored{}
	}
	return about
}

// writeAtomically replaces a file as a whole, and has it on the disk when it returns.
func writeAtomically(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // moved away already, unless something failed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// FromState puts the policy that was kept in STATE_DIR in force, if nothing is and there is
// one. It goes through the gate like any other. Where the database says what is to be in force,
// nothing else comes from here: it may be what was rolled back since.
func (s *Service) FromState(ctx context.Context) error {
	if s.cfg.StateDir == "" || !s.cfg.Follows || s.cfg.Engine.Revision() != nil {
		return nil
	}
	s.mu.Lock()
	wanted := s.orders.InForce
	s.mu.Unlock()
	name := filepath.Join(s.cfg.StateDir, keptName)
	if wanted != "" {
		s.cfg.Log.WarnContext(ctx, "the policy in STATE_DIR is not used: the database says what is in force", slog.String("revision", iam.PolicyID(wanted)))
		return nil
	}
	packed, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var r *policy.Revision
	kept := s.storedActivation()
	if err == nil {
		needsNone := s.trusted(kept.Verified)
		r, err = s.unpackAndPrepare(ctx, name, packed, needsNone)
		if err == nil && needsNone && r.Digest != kept.Digest { // it was verified of another one
			r, err = s.unpackAndPrepare(ctx, name, packed, false)
		}
	}
	if err != nil {
		s.cfg.Engine.Reject(ctx, name, "", err)
		return err
	}
	if kept.Digest != r.Digest {
		kept.Seq = 0 // not known
	}
	s.cfg.Log.WarnContext(ctx, "the policy comes from STATE_DIR: the database says nothing", slog.String("revision", r.ID), slog.Int64("seq", kept.Seq))
	s.cfg.Engine.Activate(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared[r.Digest] = r
	if s.orders.Seq == 0 && kept.Seq > 0 {
		s.orders.Seq, s.orders.InForce = kept.Seq, r.Digest
	}
	return nil
}
