package clients

import (
	"errors"
	"testing"

	"iam-service/internal/iam"
)

// Whoever was held up until somebody else may have taken an operation up asks the
// provider for nothing: there is none here to be asked.
func TestWhoIsTooLateDoesNothing(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	for _, operation := range []string{iam.OperationCreate, iam.OperationUpdate, iam.OperationDelete, iam.OperationRetire} {
		_, err := s.step(t.Context(), iam.ManagedClient{Operation: operation}, leaseFor(leaseRest), true)
		if !errors.Is(err, errLeaseOver) || iam.KindOf(err) != iam.Unavailable {
			t.Errorf("%s: %v", operation, err)
		}
	}
	if l := leaseFor(callerLease); l.over() {
		t.Error("a fresh lease is over")
	}
}
