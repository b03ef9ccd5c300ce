package gateway_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"iam-service/internal/dev/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

var ctx = context.Background()
