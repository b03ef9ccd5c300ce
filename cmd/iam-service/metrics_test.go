package main

import (
	"regexp"
	"strings"
)

// series is a metric with the label values that a query names.
type series struct {
	name   string
	labels []string // label="value" each
}

func (s series) String() string { return s.name + "{" + strings.Join(s.labels, ",") + "}" }

var (
	// Names that we, or the client library's collectors, serve. Recorded series have a colon.
	seriesPattern = regexp.MustCompile(`\b((?:iam|http|idp_adapter|database|outbox|event_bus|process|go)_[a-z_]+)\b(?:\{([^}]*)\})?`)
	equalPattern  = regexp.MustCompile(`\b([a-z_]+)=\\?"([^"\\]*)\\?"`)
)

// seriesIn finds the metrics in a file of queries. Negative and regular-expression matchers are left out.
func seriesIn(text string) []series {
	var found []series
	for _, m := range seriesPattern.FindAllStringSubmatch(text, -1) {
		s := series{name: m[1]}
		for _, l := range equalPattern.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" { // formatted by the exposition
				s.labels = append(s.labels, l[1]+`="`+l[2]+`"`)
			}
		}
		found = append(found, s)
	}
	return found
}

// served reports whether a scrape has a series with this name and these labels.
func (s series) served(scrape string) bool {
	for line := range strings.SplitSeq(scrape, "\n") {
		rest, ok := strings.CutPrefix(line, s.name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		all := true
		for _, l := range s.labels {
			all = all && strings.Contains(rest, l)
		}
		if all {
			return true
		}
	}
	return false
}
