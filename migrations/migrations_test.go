package migrations_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"iam-service/migrations"
)

// reserved are numbers of steps that are added before the next release, in any order.
var reserved = map[int]bool{16: true, 17: true, 18: true, 19: true, 20: true, 21: true, 22: true, 23: true}

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
			next := 1
			for _, file := range files {
				for reserved[next] && !strings.HasPrefix(file, fmt.Sprintf("%05d_", next)) {
					next++
				}
				if want := fmt.Sprintf("%05d_", next); !strings.HasPrefix(file, want) {
					t.Errorf("%s stands where %s… is due", file, want)
				}
				next++
			}
		})
	}
}
