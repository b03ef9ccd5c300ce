package rollout

import (
	"context"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// Files returns the files of the revision with a digest: the embedded one, a stored one, or the local policy of this replica. It
// evaluates nothing, so a signature is not verified again.
func (s *Service) Files(ctx context.Context, digest string) (map[string]string, error) {
	c, err := s.candidate(ctx, digest)
	if err != nil {
		return nil, err
	}
	return c.Files()
}

func (s *Service) candidate(ctx context.Context, digest string) (*policy.Candidate, error) {
	if s.embedded(digest) {
		return s.cfg.Embedded, nil
	}
	if c := s.local.Load(); c != nil && c.Digest() == digest {
		return c, nil
	}
	stored, packed, err := s.cfg.DB.PolicyBundle(ctx, digest)
	if err != nil {
		return nil, err
	}
	c, err := s.cfg.Engine.UnpackVerified(stored.Source, packed)
	if err != nil {
		return nil, &iam.Error{Kind: iam.Conflict, Code: "policy_refused", Detail: "the stored bundle cannot be read: " + err.Error()}
	}
	return c, nil
}
