package setup_test

import (
	"os"
	"testing"

	"iam-service/internal/dev/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
