package rollout

import (
	"context"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// trust reports whether a bundle's signature is checked here.
type trust int

const (
	untrusted trust = iota // it is checked
	trusted                // it is not: OPA has verified it, or unsigned policies are allowed
)

func (s *Service) trust(verified string) trust {
	if verified == iam.VerifiedByOPA && s.cfg.ByOPA || verified == iam.VerifiedByNobody && s.cfg.Unsigned {
		return trusted
	}
	return untrusted
}

func (s *Service) unpackAndPrepare(ctx context.Context, source string, packed []byte, t trust) (*policy.Revision, error) {
	unpack := s.cfg.Engine.Unpack
	if t == trusted {
		unpack = s.cfg.Engine.UnpackVerified
	}
	c, err := unpack(source, packed)
	if err != nil {
		return nil, err
	}
	return s.cfg.Engine.Prepare(ctx, c)
}
