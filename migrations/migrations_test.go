package migrations_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"iam-service/migrations"
)

// A step that is added below the newest one would be refused on every database that has the newest.
func TestStepsAreNumberedWithoutGaps(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string]fs.FS{"facts": migrations.FS, "decisions": migrations.Decisions()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, err := fs.Glob(steps, "*.sql")
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for i, file := range files {
				if want := fmt.Sprintf("%05d_", i+1); !strings.HasPrefix(file, want) {
					t.Errorf("%s stands where %s… is due", file, want)
				}
			}
		})
	}
}
