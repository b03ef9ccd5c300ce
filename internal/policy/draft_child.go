package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// A draft's child compiles the files once, and then serves requests, one at a time, until its input ends:
//
//	parent ─ limits, job ─────────▶ child: compiles
//	       ◀─ draftCompiled ───────
//	       ─ draftRequest ────────▶ decide, explain, run cases, write a case, pack
//	       ◀─ draftReply{Read} ────  a document that the evaluation reads …
//	       ─ draftDocument ───────▶  … as the parent's facts have it
//	       ◀─ draftReply ──────────

// draftJob describes the draft of a child.
type draftJob struct {
	Files map[string]string `json:"files"`
}

// draftCompiled is the first document of a child's output.
type draftCompiled struct {
	Errors   []DraftError `json:"errors,omitempty"`
	Revision *wireDraft   `json:"revision,omitempty"` // nil: errors
}

// wireDraft is what the parent must know of a revision to ask it.
type wireDraft struct {
	Revision
	View struct {
		AllClaims bool     `json:"all_claims,omitempty"`
		Claims    []string `json:"claims,omitempty"`
		Fields    []Field  `json:"fields,omitempty"`
		Facts     FieldSet `json:"facts,omitempty"`
		Anonymous bool     `json:"anonymous,omitempty"`
		Settings  bool     `json:"settings,omitempty"`
		Now       bool     `json:"now,omitempty"`
	} `json:"view"`
	AnonymousPaths []string        `json:"anonymous_paths,omitempty"`
	Preflight      bool            `json:"preflight,omitempty"`
	Codes          map[string]bool `json:"codes"`
}

func wireOf(r *Revision) *wireDraft {
	w := &wireDraft{Revision: *r, AnonymousPaths: r.anonymousPaths, Preflight: r.preflight, Codes: r.codes}
	v := &w.View
	v.AllClaims, v.Claims, v.Fields, v.Facts = r.view.allClaims, r.view.claims, r.view.fields, r.view.facts
	v.Anonymous, v.Settings, v.Now = r.view.anonymous, r.view.settings, r.view.now
	return w
}

// revision is the one that the parent uses. It can evaluate nothing by itself.
func (w *wireDraft) revision() *Revision {
	r := w.Revision
	v := w.View
	r.view = view{allClaims: v.AllClaims, claims: v.Claims, fields: v.Fields, facts: v.Facts, anonymous: v.Anonymous, settings: v.Settings, now: v.Now}
	r.anonymousPaths, r.preflight, r.codes = w.AnonymousPaths, w.Preflight, w.Codes
	r.number = revisions.Add(1)
	return &r
}

// draftRequest asks a child for one thing.
type draftRequest struct {
	Decide  *draftInput `json:"decide,omitempty"`
	Explain *draftInput `json:"explain,omitempty"`
	Cases   bool        `json:"cases,omitempty"`
	Case    *Case       `json:"case,omitempty"` // without Want: what the policy returns for it
	Pack    bool        `json:"pack,omitempty"`
}

// draftInput is an Input.
type draftInput struct {
	Claims    any               `json:"claims,omitempty"`
	Token     bool              `json:"token,omitempty"`
	Fields    [NumFields]string `json:"fields"`
	Anonymous bool              `json:"anonymous,omitempty"`
	Now       time.Time         `json:"now"`
}

func (i *draftInput) input() (*Input, error) {
	q := &Input{Fields: i.Fields, Anonymous: i.Anonymous, Now: i.Now}
	if i.Token {
		claims, err := ast.InterfaceToValue(i.Claims)
		if err != nil {
			return nil, err
		}
		q.Token = &Token{Claims: ast.NewTerm(claims)}
	}
	return q, nil
}

// draftReply is a reply to a request, or the path of a document that it needs first.
type draftReply struct {
	Read     []string     `json:"read,omitempty"`
	Error    *wireError   `json:"error,omitempty"`
	Decision *Decision    `json:"decision,omitempty"`
	Input    any          `json:"input,omitempty"` // that the policy saw
	Rules    []Rule       `json:"rules,omitempty"`
	Cases    []CaseResult `json:"cases,omitempty"`
	Want     *Want        `json:"want,omitempty"`
	Packed   []byte       `json:"packed,omitempty"`
}

// draftDocument is a document of the directory.
type draftDocument struct {
	Value       any        `json:"value,omitempty"`
	Found       bool       `json:"found,omitempty"`
	Enumeration string     `json:"enumeration,omitempty"` // the path of an EnumerationError
	Error       *wireError `json:"error,omitempty"`
}

// CaseResult is an acceptance case that was run.
type CaseResult struct {
	File   string `json:"file,omitempty"`
	Title  string `json:"name"`
	Passed bool   `json:"passed"`
	Why    string `json:"why,omitempty" doc:"of a case that fails"`
	Got    string `json:"got,omitempty" doc:"the decision, in one line"`
}

// wireError is an iam.Error.
type wireError struct {
	Kind   iam.Kind `json:"kind,omitempty"`
	Code   string   `json:"code,omitempty"`
	Detail string   `json:"detail"`
	Cause  string   `json:"cause,omitempty"`
}

func wireErrorOf(err error) *wireError {
	if err == nil {
		return nil
	}
	known, ok := errors.AsType[*iam.Error](err)
	if !ok {
		return &wireError{Detail: err.Error()}
	}
	w := &wireError{Kind: known.Kind, Code: known.Code, Detail: known.Detail}
	if known.Cause != nil {
		w.Cause = known.Cause.Error()
	}
	return w
}

func (w *wireError) err() error {
	if w == nil {
		return nil
	}
	if w.Kind == "" {
		return errors.New(w.Detail)
	}
	known := &iam.Error{Kind: w.Kind, Code: w.Code, Detail: w.Detail}
	if w.Cause != "" {
		known.Cause = errors.New(w.Cause)
	}
	return known
}

// draftServer is the state of a draft's child.
type draftServer struct {
	in     *json.Decoder
	out    *json.Encoder
	engine *Engine
	c      *Candidate
	r      *Revision
}

// serveDraft compiles the job's draft, and serves requests until the input ends.
func serveDraft(in *json.Decoder, out io.Writer, j gateJob) error {
	s := &draftServer{in: in, out: json.NewEncoder(out)}
	s.out.SetEscapeHTML(false)
	var found []DraftError
	var err error
	s.engine, err = NewEngine(Config{Headers: j.Headers, Settings: j.Settings, Admin: j.Admin, Topdown: true, Limit: draftEvaluation})
	if err == nil {
		s.c, found = parseDraft(j.Draft.Files)
	}
	if err == nil && len(found) == 0 {
		s.r, err = s.engine.Check(context.Background(), s.c)
	}
	found = append(found, draftErrors(err, j.Draft.Files)...)
	if len(found) > 0 {
		return s.out.Encode(draftCompiled{Errors: found[:min(len(found), draftErrorsMost)]})
	}
	if err := s.out.Encode(draftCompiled{Revision: wireOf(s.r)}); err != nil {
		return err
	}
	for {
		var q draftRequest
		switch err := in.Decode(&q); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read a request: %w", err)
		}
		if err := s.out.Encode(s.serve(context.Background(), q)); err != nil {
			return err
		}
	}
}

func (s *draftServer) serve(ctx context.Context, q draftRequest) (a draftReply) {
	var err error
	switch {
	case q.Decide != nil:
		err = s.decide(ctx, q.Decide, &a)
	case q.Explain != nil:
		var in *Input
		if in, err = q.Explain.input(); err == nil {
			a.Rules, err = s.engine.Explain(ctx, s.r, in, s.facts())
		}
	case q.Cases:
		for _, c := range s.c.Cases {
			got, why := s.engine.RunCase(ctx, s.r, c)
			result := CaseResult{File: c.File, Title: c.Title, Passed: why == "", Why: why}
			if got != nil {
				result.Got = got.String()
			}
			a.Cases = append(a.Cases, result)
		}
	case q.Case != nil:
		a.Want, err = s.want(ctx, *q.Case)
	case q.Pack:
		a.Packed, err = s.c.Pack()
	}
	a.Error = wireErrorOf(err)
	return a
}

func (s *draftServer) decide(ctx context.Context, i *draftInput, a *draftReply) error {
	in, err := i.input()
	if err != nil {
		return err
	}
	if a.Input, err = ast.JSON(s.r.input(in, s.engine.settings)); err != nil {
		return err
	}
	d, err := s.engine.Decide(ctx, in, Basis{Revision: s.r, Facts: s.facts(), Deadline: time.Now().Add(draftWait)})
	if err == nil {
		a.Decision = &d
	}
	return err
}

// want is the decision for a case as the case would state it.
func (s *draftServer) want(ctx context.Context, c Case) (*Want, error) {
	got, err := s.engine.EvaluateCase(ctx, s.r, c)
	if err != nil {
		return nil, err
	}
	allow, _ := got["allow"].(bool) // EvaluateCase has parsed the decision
	w := &Want{Allow: &allow, Codes: slices.Compact(got.Codes())}
	w.Tenant, _ = got["tenant"].(string) // absent: none
	headers, _ := got["headers"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if text := headerText(headers[name]); text != "" && allow {
			if w.Headers == nil {
				w.Headers = map[string]string{}
			}
			w.Headers[name] = text
		}
	}
	if !allow {
		w.Status = http.StatusForbidden
		if n, ok := got["status"].(json.Number); ok && n == "401" {
			w.Status = http.StatusUnauthorized
		}
	}
	if why := w.Mismatch(got); why != "" {
		return nil, errors.New(why)
	}
	return w, nil
}

// facts are those of the parent. They hold what was read, so that an evaluation reads each document once.
func (s *draftServer) facts() Facts { return &remoteFacts{s: s, known: map[string]ast.Value{}} }

type remoteFacts struct {
	s      *draftServer
	known  map[string]ast.Value // by path; nil: absent
	waited time.Duration
}

// Waited is Facts.
func (f *remoteFacts) Waited() time.Duration { return f.waited }

// Read is Facts.
func (f *remoteFacts) Read(_ context.Context, path storage.Path) (ast.Value, error) {
	document := path
	if len(path) > 1 {
		if n := directory.Depth(path[0], path[1]); n > 0 && n < len(path) {
			document = path[:n]
		}
	}
	v, known := f.known[document.String()]
	if !known {
		began := time.Now()
		var err error
		v, err = f.load(document)
		f.waited += time.Since(began)
		if err != nil {
			return nil, err
		}
		f.known[document.String()] = v
	}
	if v != nil {
		v = directory.Find(v, path[len(document):])
	}
	if v == nil {
		return nil, errAbsent
	}
	return v, nil
}

func (f *remoteFacts) load(path storage.Path) (ast.Value, error) {
	var d draftDocument
	err := f.s.out.Encode(draftReply{Read: path})
	if err == nil {
		err = f.s.in.Decode(&d)
	}
	switch {
	case err != nil:
		return nil, err
	case d.Error != nil:
		return nil, d.Error.err()
	case d.Enumeration != "":
		return nil, &directory.EnumerationError{Path: d.Enumeration}
	case !d.Found:
		return nil, nil
	}
	return ast.InterfaceToValue(d.Value)
}

// jsonOf is a value as a child can receive it.
func jsonOf(v ast.Value) (any, error) {
	x, err := ast.JSON(v)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&x)
	return x, err
}
