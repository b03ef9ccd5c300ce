package rollout

import (
	"context"

	"iam-service/internal/postgres"
)

// AfterRead calls f after each read of the orders, before the result is used, and fails the read with f's
// error.
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
