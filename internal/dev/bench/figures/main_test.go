package main

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// printed is what the runs would print for documents of these figures, in their formats.
var printed = map[string]string{
	"bench": `BenchmarkAllocationsDecisionCached-2     	  119276	      9876 ns/op	      58 B/op	       0 allocs/op
BenchmarkRelay-2   	   50000	     43478 ns/op	     23000 events/s
BenchmarkAClientIsCreated/well-2         	      20	   8100000 ns/op	        12.0 ms-longest
BenchmarkAClientIsCreated/silent-2       	      20	1410000000 ns/op	      1420 ms-longest

              µs, with client server alone
bare                     43.1         20.0
decision                 49.0         25.0

decision cached                  bare               0.90×       0.88–0.90     0.90× reached
decision cached                  opa               13.21×       12.9–13.4     8.00× reached
1,000 requests/s, every request evaluated, and every evaluation logged: 400 µs of CPU for each with the log, 370 without, +8 % (middle half +7 to +8; wanted: at most +10)
`,
	"propagation": "until no replica answered with the role: p50 3ms, p99 15.2ms, at most 20.1ms\n",
}

const documentOfRuns = `## Figures

| what | figure | command |
| --- | --- | --- |
`

// documents is a README with some rows; the real one of performance.md is not read.
func documents(rows ...string) fstest.MapFS {
	fsys := fstest.MapFS{readme: {Data: []byte(documentOfRuns + strings.Join(rows, "\n"))}, performance: {Data: []byte("## Figures\n")}}
	for name, out := range printed {
		fsys["docs/figures/"+name+".txt"] = &fstest.MapFile{Data: []byte(out)}
	}
	return fsys
}

// about are the faults that name a word.
func about(faults []string, word string) (found []string) {
	for _, f := range faults {
		if strings.Contains(f, word) {
			found = append(found, f)
		}
	}
	return found
}

func TestAFigureIsComparedWithWhatWasPrinted(t *testing.T) {
	t.Parallel()
	for row, wrong := range map[string]bool{
		"| cached decision vs. plain net/http with the same headers | 0.90× its requests a second | `make bench` |": false,
		"| cached decision vs. plain net/http with the same headers | 0.95× its requests a second | `make bench` |": false,
		"| cached decision vs. plain net/http with the same headers | 1.30× its requests a second | `make bench` |": true,
		"| cached decision vs. OPA's own server under | 13.2× | `make bench` |":                                     false,
		"| cached decision vs. OPA's own server under | 20× | `make bench` |":                                       true,
		"| allocations for a cached decision | 0 | `make bench` |":                                                  false,
		"| allocations for a cached decision | 1 | `make bench` |":                                                  true,
		"| a client created here and in R-Auth, over REST | 8 ms; 1.42 s at most | `make bench` |":                  false,
		"| a client created here and in R-Auth, over REST | 8 ms; 4.02 s at most | `make bench` |":                  true,
		"| a client created here and in R-Auth, over REST | 40 ms; 1.42 s at most | `make bench` |":                 true,
		"| a role removed, three replicas | p99 15 ms, at most 20 ms | `make propagation` |":                        false,
		"| a role removed, three replicas | p99 15 ms, at most 90 ms | `make propagation` |":                        true,
		"| events relayed from the outbox to NATS, a second | 23,000 | `make bench` |":                              false,
		"| events relayed from the outbox to NATS, a second | 230,000 | `make bench` |":                             true,
		"| decision log of every evaluation, at 1,000 a second: CPU for each request | 30 % more | `make bench` |":  true,
	} {
		if faults := about(compare(documents(row)), " where the last run of "); (len(faults) > 0) != wrong {
			t.Errorf("%s: %q", row, faults)
		}
	}
}

func TestARowThatNothingIsComparedWithIsAFault(t *testing.T) {
	t.Parallel()
	if faults := about(compare(documents("| something new | 5 ms | `make bench` |")), "something new"); len(faults) != 1 {
		t.Errorf("got %q", faults)
	}
	fsys := documents()
	delete(fsys, "docs/figures/propagation.txt")
	fsys[readme] = &fstest.MapFile{Data: []byte("| a role removed, x | p99 15 ms, at most 20 ms |")}
	if faults := about(compare(fsys), "nothing was measured"); len(about(faults, "propagation")) != 1 {
		t.Errorf("got %q", faults)
	}
}

// A change of a figure's words or a new row names here where it is printed.
func TestEveryFigureOfTheDocumentsIsKnown(t *testing.T) {
	t.Parallel()
	for _, f := range compare(os.DirFS("../../../..")) {
		if strings.Contains(f, "no line is like") && !strings.HasPrefix(f, "docs/figures/") || strings.Contains(f, "no run is compared") {
			t.Error(f)
		}
	}
}
