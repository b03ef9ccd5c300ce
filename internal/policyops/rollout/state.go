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

// stored describes the policy in STATE_DIR.
type stored struct {
	activation
	Verified string `json:"verified,omitempty"` // as of iam.PolicyRevision; empty: unknown, so it must be signed
}

// saveState writes the active revision to STATE_DIR, as the database stores it.
func (s *Service) saveState(ctx context.Context) {
	s.mu.Lock()
	now := activation{s.orders.Seq, s.orders.InForce}
	done := s.saved == now
	s.mu.Unlock()
	r := s.cfg.Engine.Revision()
	if s.cfg.StateDir == "" || done || r == nil || r.Digest != now.Digest { // another revision is active than the database names
		return
	}
	err := s.replaceState(ctx, now)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "policy not saved in STATE_DIR", slog.Any("err", err))
		return
	}
	s.mu.Lock()
	s.saved = now
	s.mu.Unlock()
}

func (s *Service) replaceState(ctx context.Context, now activation) error {
	name := filepath.Join(s.cfg.StateDir, bundleName)
	if s.storedActivation().Seq > now.Seq { // the database has lost it: see Lost
		return nil
	}
	about := stored{activation: now}
	if s.embedded(now.Digest) { // a start has it anyway, and must not find the revision that it replaced
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else {
		revision, packed, err := s.cfg.DB.PolicyBundle(ctx, now.Digest)
		if err == nil {
			err = writeAtomically(name, packed)
		}
		if err != nil {
			return err
		}
		about.Verified = revision.Verified
	}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	return writeAtomically(filepath.Join(s.cfg.StateDir, activationName), text)
}

// storedActivation describes the policy in STATE_DIR; zero: there is none, or it is unknown.
func (s *Service) storedActivation() (about stored) {
	text, err := os.ReadFile(filepath.Join(s.cfg.StateDir, activationName))
	if err != nil || json.Unmarshal(text, &about) != nil {
		return stored{}
	}
	return about
}

// writeAtomically replaces a file as a whole, and syncs it to the disk.
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

// FromState activates the policy in STATE_DIR, if there is one and no revision is active. The gate checks it
// like any other. It is not used where the database names the active revision: the one in STATE_DIR may
// have been rolled back since.
func (s *Service) FromState(ctx context.Context) error {
	if s.cfg.StateDir == "" || !s.cfg.Follows || s.cfg.Engine.Revision() != nil {
		return nil
	}
	s.mu.Lock()
	wanted := s.orders.InForce
	s.mu.Unlock()
	name := filepath.Join(s.cfg.StateDir, bundleName)
	if wanted != "" {
		s.cfg.Log.WarnContext(ctx, "policy in STATE_DIR not used: the database names the active revision", slog.String("revision", iam.PolicyID(wanted)))
		return nil
	}
	packed, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var r *policy.Revision
	about := s.storedActivation()
	if err == nil {
		t := s.trust(about.Verified)
		r, err = s.unpackAndPrepare(ctx, name, packed, t)
		if err == nil && t == trusted && r.Digest != about.Digest { // another bundle was verified
			r, err = s.unpackAndPrepare(ctx, name, packed, untrusted)
		}
	}
	if err != nil {
		s.cfg.Engine.Reject(ctx, name, "", err)
		return err
	}
	if about.Digest != r.Digest {
		about.Seq = 0 // unknown
	}
	s.cfg.Log.WarnContext(ctx, "policy activated from STATE_DIR: the database names none", slog.String("revision", r.ID), slog.Int64("seq", about.Seq))
	s.cfg.Engine.Activate(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared[r.Digest] = r
	if s.orders.Seq == 0 && about.Seq > 0 {
		s.orders.Seq, s.orders.InForce = about.Seq, r.Digest
	}
	return nil
}
