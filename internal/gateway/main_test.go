package gateway_test

import (
	"context"
	"os"
	"testing"

	"iam-service/internal/dev/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var ctx = context.Background()
