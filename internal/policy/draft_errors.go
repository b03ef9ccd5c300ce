package policy

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/ast"
	"sigs.k8s.io/yaml"
)

// DraftError is a fault of a draft, where it is. Rows and columns count from 1; 0: the file as a whole, or none is named.
type DraftError struct {
	File    string `json:"file,omitempty"`
	Row     int    `json:"row,omitempty" doc:"from 1; absent: the file as a whole"`
	Col     int    `json:"col,omitempty" doc:"from 1, in bytes"`
	EndRow  int    `json:"end_row,omitempty"`
	EndCol  int    `json:"end_col,omitempty" doc:"exclusive"`
	Code    string `json:"code" doc:"OPA's, such as rego_parse_error and rego_type_error; case_error, data_error, and gate_error for the checks of this service"`
	Message string `json:"message"`
}

// Codes of DraftError besides OPA's.
const (
	draftCase = "case_error"
	draftData = "data_error"
	draftGate = "gate_error"
)

const draftErrorsMost = 100

// parseDraft reads files as a folder is read, and reports all that cannot be parsed.
func parseDraft(files map[string]string) (*Candidate, []DraftError) {
	var found []DraftError
	folder := fstest.MapFS{} // the loader reads a file system, and a draft must not be written to a disk
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		found = append(found, parseFile(name, text)...)
		folder[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o400}
	}
	if len(found) > 0 {
		return nil, found
	}
	c, err := FromFS("draft", folder)
	if err != nil {
		return nil, draftErrors(err, files)
	}
	c.Embedded, c.files = false, nil
	return c, nil
}

// parseFile reports what is wrong with one file by itself.
func parseFile(name, text string) []DraftError {
	if !fs.ValidPath(name) {
		return []DraftError{{File: name, Code: draftGate, Message: "is not a path within a policy: a/b.rego"}}
	}
	switch KindOfFile(name) {
	case KindRego, KindTest:
		_, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		return draftErrors(err, map[string]string{name: text})
	case KindCases:
		_, err := ParseCases(name, []byte(text))
		return draftErrors(err, map[string]string{name: text})
	case KindSchema, KindData, KindManifest:
		return parseData(name, text)
	}
	return []DraftError{{File: name, Code: draftGate, Message: "is no file of a policy: *.rego, data.json, data.yaml, schemas/*.json, cases/*.yaml and .manifest are"}}
}

func parseData(name, text string) []DraftError {
	var err error
	if strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		_, err = yaml.YAMLToJSONStrict([]byte(text))
	} else {
		var v any
		err = json.Unmarshal([]byte(text), &v)
	}
	if err == nil {
		return nil
	}
	found := DraftError{File: name, Code: draftData, Message: err.Error()}
	if at, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := text[:min(max(int(at.Offset)-1, 0), len(text))]
		found.Row = strings.Count(before, "\n") + 1
		found.Col = len(before) - strings.LastIndex(before, "\n")
		return []DraftError{found}
	}
	found.Row = lineIn(err.Error())
	return []DraftError{found}
}

// draftErrors takes an error of the loader, the compiler or the gate apart, and finds out which places it names.
func draftErrors(err error, files map[string]string) (found []DraftError) {
	if err == nil {
		return nil
	}
	if many, ok := errors.AsType[ast.Errors](err); ok {
		for _, e := range many {
			found = append(found, compilerError(e, files))
		}
		return found
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			found = append(found, draftErrors(one, files)...)
		}
		return found
	}
	if e, ok := errors.AsType[*ast.Error](err); ok {
		return []DraftError{compilerError(e, files)}
	}
	return []DraftError{placed(err.Error(), files)}
}

// compilerError is an error of OPA's parser or compiler. Its location's text is the expression, where it has one.
func compilerError(e *ast.Error, files map[string]string) DraftError {
	found := DraftError{Code: e.Code, Message: e.Message}
	if e.Details != nil {
		found.Message = strings.TrimSpace(found.Message + "\n" + strings.Join(e.Details.Lines(), "\n"))
	}
	l := e.Location
	if l == nil {
		return found
	}
	found.File, found.Row, found.Col = strings.TrimPrefix(l.File, "/"), l.Row, l.Col
	text := string(l.Text)
	if text == "" || e.Code == ast.ParseErr { // a parser's location is a point, or the rest of the file
		return found
	}
	if _, known := files[found.File]; !known || !strings.Contains(files[found.File], text) {
		return found
	}
	if last := strings.LastIndex(text, "\n"); last >= 0 {
		found.EndRow, found.EndCol = l.Row+strings.Count(text, "\n"), len(text)-last
	} else {
		found.EndRow, found.EndCol = l.Row, l.Col+len(text)
	}
	return found
}

var (
	placeFirst  = regexp.MustCompile(`^/?([^\s:"]+):(\d+)(?::(\d+))?: (.*)(?s)$`) // file:row: …
	placeWithin = regexp.MustCompile(`\(([^\s:(),]+):(\d+)[,)]`)                  // … (file:row)
	moduleNamed = regexp.MustCompile(`in module '/?([^']+)'`)                     // OPA's loader, of packages outside of the roots
	lineNumber  = regexp.MustCompile(`\bline (\d+)`)                              // YAML's
	quotedTitle = regexp.MustCompile(`^"((?:[^"\\]|\\.)*)"`)
)

// placed finds the place that the text of an error names.
func placed(text string, files map[string]string) DraftError {
	found := DraftError{Code: draftGate, Message: text}
	if m := placeFirst.FindStringSubmatch(text); m != nil {
		found.File, found.Message = m[1], m[4]
		found.Row, _ = strconv.Atoi(m[2]) // digits
		found.Col, _ = strconv.Atoi(m[3]) // digits, or none
		return found
	}
	if file, rest, ok := strings.Cut(text, ": "); ok {
		if _, known := files[file]; known {
			found.File, found.Message, found.Row = file, rest, lineIn(rest)
			switch KindOfFile(file) {
			case KindCases:
				found.Code = draftCase
				if title := quotedTitle.FindStringSubmatch(rest); title != nil && found.Row == 0 {
					found.Row = rowOf(files[file], title[1])
				}
			case KindData, KindSchema, KindManifest:
				found.Code = draftData
			}
			return found
		}
	}
	if m := moduleNamed.FindStringSubmatch(text); m != nil {
		found.File, found.Row = m[1], rowOf(files[m[1]], "package ")
		return found
	}
	if m := placeWithin.FindStringSubmatch(text); m != nil {
		found.File = m[1]
		found.Row, _ = strconv.Atoi(m[2]) // digits
		return found
	}
	if strings.Contains(text, "the root") { // the manifest claims it
		if _, there := files[manifestFile]; there {
			found.File, found.Row = manifestFile, max(rowOf(files[manifestFile], `"roots"`), 1)
		}
		return found
	}
	if rest, ok := strings.CutPrefix(text, configPath); ok {
		found.Code = draftData
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if KindOfFile(name) == KindData && (strings.HasPrefix(name, "iam/config/") || name == "data.json" || name == "iam/data.json") {
				found.File = name
				if _, what, ok := strings.Cut(rest, ": "); ok {
					rest = what
				}
				word := strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" :[]./\"", r) })
				for _, w := range word {
					if row := rowOf(files[name], `"`+w+`"`); row > 0 {
						found.Row = row
						break
					}
				}
				break
			}
		}
	}
	return found
}

// lineIn is the line that a text names; 0: none.
func lineIn(text string) int {
	if m := lineNumber.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		return n
	}
	return 0
}

// rowOf is the first row with a word; 0: none.
func rowOf(text, word string) int {
	at := strings.Index(text, word)
	if at < 0 {
		return 0
	}
	return strings.Count(text[:at], "\n") + 1
}

// String is the error in one line, as compilers write it.
func (e DraftError) String() string {
	place := e.File
	if e.Row > 0 {
		place += ":" + strconv.Itoa(e.Row)
	}
	if e.Row > 0 && e.Col > 0 {
		place += ":" + strconv.Itoa(e.Col)
	}
	if place != "" {
		place += ": "
	}
	return place + e.Code + ": " + e.Message
}
