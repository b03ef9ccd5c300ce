package problem

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

func TestALineASecondForEachCodeCountsEveryRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p PerSecond
		began := time.Now()
		type line struct {
			code  string
			count int64
			at    time.Duration
		}
		lines := make(chan line, 100)
		log := func(code string) { p.Log(code, func(n int64) { lines <- line{code, n, time.Since(began)} }) }
		for i := range 834 { // none in the millisecond of a line
			log("facts_stale")
			if i == 400 {
				log("keys_timeout")
			}
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		log("facts_stale") // of the next outage
		synctest.Wait()
		close(lines)
		var got []line
		for l := range lines {
			got = append(got, l)
		}
		want := []line{
			{"facts_stale", 1, 0},
			{"facts_stale", 333, 1000 * time.Millisecond},
			{"keys_timeout", 1, 1200 * time.Millisecond},
			{"facts_stale", 333, 2000 * time.Millisecond},
			{"facts_stale", 167, 3000 * time.Millisecond},
			{"facts_stale", 1, 62502 * time.Millisecond},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}
