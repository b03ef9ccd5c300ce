package clients

import (
	"errors"
	"testing"

	"iam-service/internal/iam"
)

// A worker whose lease has expired calls no provider: another may have taken the operation over.
func TestAnExpiredLeaseDoesNothing(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	for _, operation := range []string{iam.OperationCreate, iam.OperationUpdate, iam.OperationDelete, iam.OperationRetire} {
		_, err := s.step(t.Context(), iam.ManagedClient{Operation: operation}, leaseFor(leaseRest), callerWaits)
		if !errors.Is(err, errLeaseOver) || iam.KindOf(err) != iam.Unavailable {
			t.Errorf("%s: %v", operation, err)
		}
	}
	if l := leaseFor(callerLease); l.over() {
		t.Error("a fresh lease is over")
	}
}
