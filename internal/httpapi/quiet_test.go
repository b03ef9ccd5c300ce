package httpapi

import (
	"testing"
	"time"
)

func TestALineASecondForEachCodeSaysHowManyThereWere(t *testing.T) {
	t.Parallel()
	var p perSecond
	now := time.Now()
	var lines []int64
	for i := range 2500 { // one each millisecond
		if n := p.count("facts_stale", now.Add(time.Duration(i)*time.Millisecond)); n > 0 {
			lines = append(lines, n)
		}
		if i == 1200 && p.count("keys_timeout", now) != 1 {
			t.Error("another code had to wait")
		}
	}
	if len(lines) != 3 || lines[0] != 1 || lines[1] != 1000 || lines[2] != 1000 {
		t.Errorf("lines say %v", lines)
	}
}
