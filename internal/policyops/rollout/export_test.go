package rollout

import (
	"context"

	"iam-service/internal/postgres"
)

// AfterRead calls f after each look at what is to be in force, before anything is done with
// what it has seen, and fails with what f returns.
func (s *Service) AfterRead(f func() error) {
	read := s.read
	s.read = func(ctx context.Context) (postgres.PolicyOrders, error) {
		orders, err := read(ctx)
		if err == nil {
			err = f()
		}
		return orders, err
	}
}
