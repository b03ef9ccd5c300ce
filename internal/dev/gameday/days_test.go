package gameday

import (
	"strings"
	"testing"
	"time"
)

// TestGameDays plays every game day. The long form (make gameday) plays all of them behind HAProxy, evaluates the alerts, and
// writes docs/gamedays.md; the short one plays some, for seconds, and no alerts.
func TestGameDays(t *testing.T) {
	began := time.Now()
	played := days()
	lines := make([]line, len(played))
	t.Run("day", func(t *testing.T) {
		for i, d := range played {
			if !long && !d.in {
				continue
			}
			t.Run(d.name, func(t *testing.T) {
				if !long || !d.exact && !d.alone {
					t.Parallel()
				}
				lines[i] = line{day: d, after: "did not come to its end"}
				l := d.play(t)
				lines[i] = l
				t.Logf("callers: %s\nalerts: %s\nafterwards: %s", strings.ReplaceAll(l.callers, "<br>", "\n  "), l.alerts, l.after)
			})
		}
	})
	complete := true
	for _, l := range lines {
		complete = complete && l.day.name != ""
	}
	if long && complete { // -run may have chosen some
		writePage(t, lines, time.Since(began))
	}
}

func days() []day {
	var all []day
	for _, group := range [][]day{databaseDays, providerDays, busDays, replicaDays} {
		all = append(all, group...)
	}
	return all
}
