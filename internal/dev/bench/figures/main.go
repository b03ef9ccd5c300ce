// Command figures compares the figures of README.md and docs/performance.md with what the last
// runs of "make bench", "make propagation", "make rollout", "make preview", "make access" and "make scale" have
// printed, which those save in docs/figures. It fails where one is out of its bound, where
// nothing was measured, and where a row of a table has a number that it knows nothing about.
//
// What is compared are the tables of figures and the CPU of one request. Prose that reckons with
// them, or says what was tried once, is not. It owns the list of figures and their bounds, and measures nothing.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is one or more numbers of a document, and where a run prints them.
type figure struct {
	in     string // document
	says   string // a regexp of its line: a group for each number; those named _1, _2 are no results
	run    string // whose output it is: docs/figures/<run>.txt
	prints string // a regexp of a line of it: groups of the same names; the last match counts
	unit   float64
	within float64 // the factor that both may be apart; 1: they are the same
}

// Bounds, as docs/performance.md says how much the machine's noise is.
const (
	same     = 1
	ratio    = 1.2 // ratios hold to about 15 %
	memory   = 1.25
	absolute = 2.2 // times hold to a factor of two
)

// Units of what is printed, in those of the documents.
const (
	asItIs      = 1
	nanoseconds = 1e-6 // to milliseconds
	toSeconds   = 1e-3 // from milliseconds
)

const (
	readme      = "README.md"
	performance = "docs/performance.md"
	number      = `[+-]?[\d.,]+`
)

var figures = slices.Concat([]figure{
	{readme, `^\| cached decision vs. plain net/http .*\| (?P<x>` + number + `)× its requests a second`, "bench", `^decision cached +bare +(?P<x>` + number + `)×`, asItIs, ratio},
	{readme, `^\| cached decision vs. OPA's own server .*\| (?P<x>` + number + `)×`, "bench", `^decision cached +opa +(?P<x>` + number + `)×`, asItIs, ratio},
	{readme, `^\| evaluated decision, token cached, .*\| (?P<x>` + number + `)×`, "bench", `^token cached, policy evaluated +opa-raised +(?P<x>` + number + `)×`, asItIs, ratio},
	{readme, `^\| decision log of every evaluation, .*\| (?P<x>` + number + `) % more`, "bench", `every evaluation logged: .* (?P<x>` + number + `) % \(middle half`, asItIs, percentage},
	{readme, `^\| allocations for a cached decision \| (?P<x>` + number + `) `, "bench", `^BenchmarkAllocationsDecisionCached(-\d+)? .* (?P<x>` + number + `) allocs/op`, asItIs, same},
	{readme, `^\| a role removed, .*\| p99 (?P<p99>` + number + `) ms, at most (?P<most>` + number + `) ms`, "propagation", `p99 (?P<p99>\S+), at most (?P<most>\S+)`, asItIs, absolute},
	{readme, `^\| a policy activated or rolled back .*\| p50 (?P<p50>` + number + `) ms, at most (?P<most>` + number + `) ms`, "rollout", `^activated: .*p50 (?P<p50>\S+), at most (?P<most>\S+)`, asItIs, absolute},
	{readme, `^\| preview of another policy: .*\| (?P<_1>` + number + `) min, (?P<mb>` + number + `) MB`, "preview", `at most (?P<mb>` + number + `) MB resident`, asItIs, memory},
	{readme, `^\| preview of another policy: .*\| (?P<took>` + number + `) min, (?P<_1>` + number + `) MB`, "preview", `were asked about in (?P<took>\S+),`, 1. / 60_000, absolute},
	{readme, `^\| a client created here and in R-Auth, .*\| (?P<well>` + number + `) ms; (?P<_1>` + number + `) s at most`, "bench", `^BenchmarkAClientIsCreated/well\S*\s+\d+\s+(?P<well>` + number + `) ns/op`, nanoseconds, absolute},
	{readme, `^\| a client created here and in R-Auth, .*\| (?P<_1>` + number + `) ms; (?P<silent>` + number + `) s at most`, "bench", `^BenchmarkAClientIsCreated/silent.* (?P<silent>` + number + `) ms-longest`, toSeconds, ratio},
	{readme, `^\| events relayed from the outbox .*\| (?P<x>` + number + `) \|`, "bench", `^BenchmarkRelay.* (?P<x>` + number + `) events/s`, asItIs, absolute},
	{readme, `^\| 1,000,000 users, 10,000 tenants .*\| (?P<ready>` + number + `) ms / (?P<_1>` + number + `) MB / (?P<_2>` + number + `) MB`, "scale", `^ *1000000 +1 +(?P<ready>` + number + `)`, asItIs, absolute},
	{readme, `^\| 1,000,000 users, 10,000 tenants .*\| (?P<_1>` + number + `) ms / (?P<then>` + number + `) MB / (?P<full>` + number + `) MB`, "scale", `^ *1000000 +1 +\d+ +(?P<then>` + number + `) +(?P<full>` + number + `)`, asItIs, memory},

	{performance, `^\| the decision log .*logged: (?P<few>` + number + `) % \((?P<_1>` + number + `) to (?P<_2>` + number + `)\); all .*: (?P<_3>` + number + `) % \((?P<_4>` + number + `) to (?P<_5>` + number + `)\), in another run (?P<_6>` + number + `) %`, "bench", `, cached decisions, .* (?P<few>` + number + `) % \(middle half`, asItIs, percentage},
	{performance, `^\| the decision log .*all evaluated, all logged: (?P<all>` + number + `) %`, "bench", `every evaluation logged: .* (?P<all>` + number + `) % \(middle half`, asItIs, percentage},
	{performance, `^\| a preview over .*\| \| (?P<_1>` + number + `) min (?P<_2>` + number + `) s, (?P<mb>` + number + `) MB resident`, "preview", `at most (?P<mb>` + number + `) MB resident`, asItIs, memory},
	{performance, `^\| a preview over .*\| \| (?P<took>` + number + `) min`, "preview", `were asked about in (?P<took>\S+),`, 1. / 60_000, absolute},
	{performance, `^\| the request names it \| (?P<trips>` + number + `) \| (?P<ms>` + number + `) \|$`, "bench", `^BenchmarkFirstAnswer/the_request.* (?P<ms>` + number + `) ms-p50\s.*\s(?P<trips>` + number + `) round-trips`, asItIs, absolute},
	{performance, `^\| only the user's document does \| (?P<trips>` + number + `) \| (?P<ms>` + number + `) \|$`, "bench", `^BenchmarkFirstAnswer/only_the.* (?P<ms>` + number + `) ms-p50\s.*\s(?P<trips>` + number + `) round-trips`, asItIs, absolute},
	{performance, `^\| 1,000 requests/s on one core, p99 \| bare \| (?P<x>` + number + `)×`, "bench", `; p99 (?P<x>` + number + `)× \(wanted`, asItIs, absolute},
	{performance, `^\| a page of 50 of who holds what, .*\| \| at most (?P<_1>` + number + `) ms`, "", "", 0, 0},
	{performance, `^\| 1,000,000 users: resident memory, .*\| \| (?P<full>` + number + `) MB, (?P<_1>` + number + `) ms`, "scale", `^ *1000000 +1 +\d+ +\d+ +(?P<full>` + number + `)`, asItIs, memory},
	{performance, `^\| 1,000,000 users: resident memory, .*\| \| (?P<_1>` + number + `) MB, (?P<ready>` + number + `) ms`, "scale", `^ *1000000 +1 +(?P<ready>` + number + `)`, asItIs, absolute},
	{performance, `^\| allocations of ours, decision cached \| \| (?P<x_from>` + number + `) to (?P<x_to>` + number + `) \((?P<bytes>` + number + `) bytes`, "bench", `^BenchmarkAllocationsDecisionCached(-\d+)? .*\s(?P<bytes>` + number + `) B/op\s+(?P<x>` + number + `) allocs/op`, asItIs, absolute},
	{performance, `^\| a role that was taken away, .*\| \| p99 (?P<p99_from>` + number + `) to (?P<p99_to>` + number + `) ms, at most (?P<most_from>` + number + `) to (?P<most_to>` + number + `) ms in three runs; .* up to (?P<_1>` + number + `) ms`, "propagation", `p99 (?P<p99>\S+), at most (?P<most>\S+)`, asItIs, absolute},
	{performance, `^\| a policy that is activated .*\| \| p50 (?P<p50_from>` + number + `) to (?P<p50_to>` + number + `) ms, at most (?P<most_from>` + number + `) to (?P<most_to>` + number + `) ms`, "rollout", `: .*p50 (?P<p50>\S+), at most (?P<most>\S+)`, asItIs, absolute},
	{performance, `^\| facts not in memory \|`, "", "", 0, 0},
}, peers(), cpu(), engines(), verifications(), scale(), accessPages())

// peers are the ratios of the table of performance.md.
func peers() (list []figure) {
	for _, row := range [][2]string{
		{"decision cached", "bare"}, {"decision cached", "bare-six"}, {"decision cached", "opa"}, {"token cached, policy evaluated", "opa-raised"}, {"nothing cached but facts", "opa"},
	} {
		list = append(list, figure{
			performance, `^\| ` + row[0] + ` \| ` + row[1] + ` \| (?P<x>` + number + `)× \((?P<_1>` + number + `)–(?P<_2>` + number + `)\)(, in other runs (?P<_3>` + number + `)×)?`,
			"bench", `^` + row[0] + ` +` + row[1] + ` +(?P<x>` + number + `)×`, asItIs, ratio,
		})
	}
	return list
}

// cpu is the CPU of one request, client included.
func cpu() (list []figure) {
	for says, prints := range map[string]string{
		"bare": "bare", "bare-six": "bare-six", "decision cached": "decision", "token cached": "token", "nothing cached": "nothing", "opa": "opa", "opa-raised": "opa-raised",
	} {
		list = append(list, figure{performance, `(^|\s)` + says + ` (?P<x>\d+)( µs)?[,.]`, "bench", `^` + prints + ` +(?P<x>` + number + `) +` + number + `$`, asItIs, absolute})
	}
	return list
}

// engines is the table of performance.md of the machine and topdown.
func engines() (list []figure) {
	for _, kind := range []string{
		"member", "member, tenant requested", "program", "mapped", "denied: user blocked", "denied: user unknown", "anonymous", "10 rules, equal paths", "200 rules, equal paths",
		"2000 rules, equal paths", "10 rules, path prefixes", "190 rules, path prefixes",
	} {
		row, printed := `^\| `+kind+` \| `, `^engine: `+kind+` +machine +`
		list = append(list,
			figure{
				performance, row + `(?P<m>` + number + `) µs \| (?P<t>` + number + `) µs \| (?P<x>` + number + `)× \|`,
				"bench", printed + `(?P<m>` + number + `) µs, topdown +(?P<t>` + number + `) µs: +(?P<x>` + number + `)×`, asItIs, absolute,
			},
			figure{
				performance, row + number + ` µs \| ` + number + ` µs \| ` + number + `× \| (?P<a>` + number + `) \| (?P<b>` + number + `) \|`,
				"bench", printed + `.*, (?P<a>` + number + `) allocations, (?P<b>` + number + `) by topdown`, asItIs, ratio,
			})
	}
	return list
}

// accessPages is the table of performance.md of lists of who holds what. The slowest pages are those of a machine with other work.
func accessPages() (list []figure) {
	for _, name := range []string{
		"a role that all have", "a role that 3 have", "a role that none has", "a permission through 500 roles, all members",
		"a permission through 500 roles, no member", "a permission through a dense and 499 rare roles",
	} {
		list = append(list, figure{
			performance, `^\| ` + name + ` \| (?P<few>` + number + `) \| (?P<_1>` + number + `) \| (?P<many>` + number + `) \| (?P<_2>` + number + `) \|`,
			"access", `^` + name + ` +(?P<few>` + number + `) +` + number + ` +(?P<many>` + number + `) +` + number + `$`, asItIs, absolute,
		})
	}
	return list
}

// verifications is the table of performance.md of tokens that are not cached.
func verifications() (list []figure) {
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		row, printed := `^\| `+alg+` \| `, `^verification: `+alg+` +bare signature +`
		list = append(list,
			figure{
				performance, row + `(?P<bare>` + number + `) µs \| (?P<library>` + number + `) µs \| (?P<ours>` + number + `) µs \| (?P<above>` + number + `) µs \|`,
				"bench", printed + `(?P<bare>` + number + `) µs, JWT library +(?P<library>` + number + `) µs, ours +(?P<ours>` + number + `) µs, above the signature +(?P<above>` + number + `) µs`, asItIs, absolute,
			},
			figure{
				performance, row + `.* \| (?P<allocs>` + number + `) \|$`, "bench", printed + `.*, (?P<allocs>` + number + `) allocations$`, asItIs, ratio,
			})
	}
	return list
}

// scale is the table of performance.md.
func scale() (list []figure) {
	for _, users := range []string{"10,000", "100,000", "1,000,000"} {
		for _, replicas := range []string{"1", "4"} {
			row := `^\| ` + users + ` \| ` + replicas + ` `
			printed := `^ *` + strings.ReplaceAll(users, ",", "") + ` +` + replicas + ` +`
			list = append(list,
				figure{
					performance, row + `\| (?P<ready>` + number + `) \| (?P<_1>` + number + `) \| (?P<_2>` + number + `) \| (?P<first>` + number + `) \| (?P<cached>` + number + `) \|`,
					"scale", printed + `(?P<ready>` + number + `) +\d+ +\d+ +(?P<first>` + number + `) +(?P<cached>` + number + `)`, asItIs, absolute,
				},
				figure{
					performance, row + `\| ` + number + ` \| (?P<then>` + number + `) \| (?P<full>` + number + `) \|`,
					"scale", printed + `\d+ +(?P<then>` + number + `) +(?P<full>` + number + `)`, asItIs, memory,
				})
		}
	}
	return list
}

// percentage is the bound of differences in percent, which are small: so many percentage points.
const percentage = -5

func main() {
	faults := compare(os.DirFS("."))
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		fmt.Printf("%d of %d figures are not what the last run has printed\n", len(faults), len(figures))
		os.Exit(1)
	}
	fmt.Printf("%d figures are what the last runs have printed\n", len(figures))
}

// compare says what is wrong with the documents of a folder.
func compare(fsys fs.FS) (faults []string) {
	runs := map[string]string{}
	for _, f := range figures {
		doc, err := fs.ReadFile(fsys, f.in)
		if err != nil {
			return append(faults, err.Error())
		}
		says := find(string(doc), f.says)
		if says == nil {
			faults = append(faults, fmt.Sprintf("%s: no line is like %s", f.in, f.says))
			continue
		}
		if f.run == "" {
			continue
		}
		if _, read := runs[f.run]; !read {
			out, err := fs.ReadFile(fsys, "docs/figures/"+f.run+".txt")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return append(faults, err.Error())
			}
			if runs[f.run] = string(out); len(out) == 0 {
				faults = append(faults, fmt.Sprintf("docs/figures/%s.txt: nothing was measured: run \"make %s\"", f.run, f.run))
			}
		}
		if runs[f.run] == "" {
			continue
		}
		prints := find(runs[f.run], f.prints)
		if prints == nil {
			faults = append(faults, fmt.Sprintf("docs/figures/%s.txt: no line is like %s", f.run, f.prints))
			continue
		}
		faults = append(faults, f.compare(says, prints)...)
	}
	return append(faults, unknown(fsys)...)
}

func (f figure) compare(says, prints map[string]string) (faults []string) {
	for name, printed := range prints {
		if name == "" || says[name] == "" && says[name+"_from"] == "" {
			continue // the line itself; a number that another figure compares
		}
		from, to := says[name], says[name]
		if from == "" {
			from, to = says[name+"_from"], says[name+"_to"]
		}
		low, err1 := value(from)
		high, err2 := value(to)
		got, err3 := value(printed)
		got *= f.unit
		if err := errors.Join(err1, err2, err3); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s: %v", f.in, f.says, err))
			continue
		}
		if !near(got, low, high, f.within) {
			faults = append(faults, fmt.Sprintf("%s says %s to %s where the last run of %s printed %.4g: %s", f.in, from, to, f.run, got, says[""]))
		}
	}
	return faults
}

// near reports whether a value is between two others, or so near that the bound allows it.
func near(got, low, high, within float64) bool {
	if within == percentage {
		return got >= low+within && got <= high-within
	}
	return got >= math.Min(low/within, low) && got <= math.Max(high*within, high)
}

// value reads a number, or a duration in milliseconds.
func value(s string) (float64, error) {
	s = strings.TrimRight(strings.ReplaceAll(s, ",", ""), ".,")
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		return float64(d) / float64(time.Millisecond), nil
	}
	return strconv.ParseFloat(s, 64)
}

// find returns the named groups of the last line that matches, the line itself as "".
func find(text, pattern string) map[string]string {
	all := regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatchIndex(text, -1)
	if all == nil {
		return nil
	}
	re, last := regexp.MustCompile(pattern), all[len(all)-1]
	start := strings.LastIndexByte(text[:last[0]+1], '\n') + 1
	line, _, _ := strings.Cut(text[start:], "\n")
	groups := map[string]string{"": line}
	for i, name := range re.SubexpNames() {
		if name != "" && last[2*i] >= 0 {
			groups[name] = text[last[2*i]:last[2*i+1]]
		}
	}
	return groups
}

// unknown names the rows of tables of figures that no figure is about.
func unknown(fsys fs.FS) (faults []string) {
	for doc, headings := range map[string][]string{readme: {"## Figures"}, performance: {"## Figures", "## Scale"}} {
		text, err := fs.ReadFile(fsys, doc)
		if err != nil {
			return append(faults, err.Error())
		}
		section := ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "## ") {
				section = line
			}
			if !slices.Contains(headings, section) || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") ||
				strings.HasPrefix(line, "| what |") || strings.HasPrefix(line, "| path |") || strings.HasPrefix(line, "| users |") {
				continue
			}
			if !slices.ContainsFunc(figures, func(f figure) bool { return f.in == doc && regexp.MustCompile(f.says).MatchString(line) }) {
				faults = append(faults, fmt.Sprintf("%s: no run is compared with this row; say in internal/dev/bench/figures where it is printed: %s", doc, line))
			}
		}
	}
	return faults
}
