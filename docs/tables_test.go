package docs_test

import (
	"strings"
	"testing"
)

// All rows of a table have as many cells as its head: a row that was pasted into another, or a bar that is not escaped,
// shifts what is said of one thing to another.
func TestRowsOfATableHaveTheCellsOfItsHead(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		head := 0
		for line := range strings.Lines(prose(t, page)) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "|") {
				head = 0
				continue
			}
			cells := strings.Count(line, "|") - strings.Count(line, `\|`) - 1
			if head == 0 {
				head = cells
			}
			if cells != head || !strings.HasSuffix(line, "|") {
				t.Errorf("%s: a row has %d cells, and the head of its table %d: %s", page, cells, head, line)
			}
		}
	}
}
