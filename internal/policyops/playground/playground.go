// Package playground evaluates a policy that a person is writing: its errors where they are, a decision with its
// explanation, the facts that were read, and the acceptance cases.
//
// It owns how many drafts are evaluated at once, that a newer question of a caller replaces the older one, and the acceptance
// case that a decision is written as. A draft is evaluated in a child process (policy.Drafts), over the facts that requests
// are decided by, and never stored or activated. The package does not know HTTP or SQL, nor who is authorized.
package playground

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

const (
	atOnce   = 2               // drafts: each may take a processor and hundreds of MB
	queueFor = 2 * time.Second // before a question is rejected as busy
)

// Service evaluates drafts. It is safe for concurrent use.
type Service struct {
	explain *explain.Service
	drafts  *policy.Drafts
	running chan struct{} // one element for each draft

	mu     sync.Mutex
	latest map[string]*question // by caller
}

// question is one that is being answered.
type question struct{ cancel context.CancelCauseFunc }

// New returns a service that explains by x, and compiles drafts by the rules of its engine, in children whose command line is
// child (policy.Config.Child).
func New(x *explain.Service, child []string) *Service {
	return &Service{explain: x, drafts: policy.NewDrafts(x.Engine, child), running: make(chan struct{}, atOnce), latest: map[string]*question{}}
}

// Close ends the child that waits for a draft. No draft may be evaluated any more.
func (s *Service) Close() { s.drafts.Close() }

// errSuperseded is the cause of the end of an older question.
var errSuperseded = &iam.Error{Kind: iam.Conflict, Code: "superseded", Detail: "a newer question of the same caller replaces this one"}

// open compiles the files, once there is room. A caller who asks again cancels the older question; caller "" is none.
func (s *Service) open(ctx context.Context, caller string, files map[string]string) (x *policy.Draft, within context.Context, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	q := &question{cancel}
	if caller != "" {
		s.mu.Lock()
		if older := s.latest[caller]; older != nil {
			older.cancel(errSuperseded)
		}
		s.latest[caller] = q
		s.mu.Unlock()
	}
	finish := func() {
		s.mu.Lock()
		if s.latest[caller] == q {
			delete(s.latest, caller)
		}
		s.mu.Unlock()
		cancel(nil)
	}
	queued := time.NewTimer(queueFor)
	defer queued.Stop()
	select {
	case s.running <- struct{}{}:
	case <-queued.C:
		finish()
		return nil, nil, nil, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "other drafts are being evaluated: try again in a moment"}
	case <-ctx.Done():
		err := causeOf(ctx)
		finish()
		return nil, nil, nil, err
	}
	x, err = s.drafts.Open(ctx, files)
	if err != nil {
		err = later(ctx, err)
		<-s.running
		finish()
		return nil, nil, nil, err
	}
	return x, ctx, func() {
		x.Close()
		<-s.running
		finish()
	}, nil
}

func causeOf(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return ctx.Err()
}

// later is an error that says to ask again: it is not the draft's fault.
func later(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return causeOf(ctx)
	}
	if _, retry := errors.AsType[*policy.RetryError](err); retry {
		return &iam.Error{Kind: iam.Unavailable, Code: "gate_unavailable", Detail: "the draft cannot be checked now", Cause: err}
	}
	return err
}

// Ask is what to evaluate.
type Ask struct {
	Caller   string            // whose older question this one cancels; empty: none
	Files    map[string]string // of the draft
	Question *explain.Question // nil: the draft is compiled alone
	Cases    bool              // run the acceptance cases
}

// Answer is what a draft makes of a question.
type Answer struct {
	Revision  *policy.Revision    // nil: it does not compile
	Errors    []policy.DraftError // why
	Asked     bool                // the question was evaluated
	Reasons   []policy.Reason
	Explained explain.Explanation
	Facts     []FactRead
	Input     any      // that the policy saw
	Masked    []string // JSON Pointers of what Input holds and is not shown
	Cases     []policy.CaseResult
	Case      DraftCase
	Took      time.Duration
}

// FactRead is a document that the policy has read.
type FactRead struct {
	Path   string   `json:"path" doc:"below data.directory; each name is escaped as in a JSON Pointer"`
	Found  bool     `json:"found" doc:"false: there is no such document"`
	Value  any      `json:"value,omitempty" doc:"as the policy sees it"`
	Masked []string `json:"masked,omitempty" doc:"JSON Pointers of what is not shown: what a claim says that may be a secret"`
}

// Evaluate compiles the draft, and asks it. The draft's errors are part of the answer; an error is the service's: busy,
// superseded, or facts that cannot be read now.
func (s *Service) Evaluate(ctx context.Context, a Ask) (Answer, error) {
	began := time.Now()
	x, ctx, done, err := s.open(ctx, a.Caller, a.Files)
	if err != nil {
		return Answer{}, err
	}
	defer done()
	out := Answer{Errors: x.Errors, Revision: x.Revision}
	if x.Revision != nil && a.Question != nil {
		if err := s.ask(ctx, x, *a.Question, &out); err != nil {
			return Answer{}, later(ctx, err)
		}
	}
	if x.Revision != nil && a.Cases {
		out.Cases, err = x.RunCases(ctx)
		if limit, ok := errors.AsType[*iam.Error](err); ok && ctx.Err() == nil {
			out.Errors = append(out.Errors, policy.DraftError{Code: "limit_error", Message: "while its acceptance cases run: " + limit.Detail})
			err = nil
		}
	}
	if err != nil || ctx.Err() != nil {
		return Answer{}, later(ctx, err)
	}
	out.Took = time.Since(began)
	return out, nil
}

func (s *Service) ask(ctx context.Context, x *policy.Draft, q explain.Question, out *Answer) error {
	if q.Now.IsZero() {
		q.Now = time.Now()
	}
	var err error
	if out.Explained, err = s.explain.Explain(ctx, x.Revision, q); err != nil {
		return err
	}
	out.Asked = true
	var claims ast.Value
	if q.Token != nil {
		claims = q.Token.Claims
	}
	out.Input, out.Masked = policy.MaskPrivate(x.Input(), claims)
	for _, r := range x.Reads() {
		f := FactRead{Path: r.Path, Found: r.Value != nil}
		f.Value, f.Masked = policy.MaskPrivate(r.Value, claims)
		out.Facts = append(out.Facts, f)
	}
	if d := x.Decision(); d != nil {
		out.Reasons = d.Reasons
	}
	out.Case = s.writeCase(ctx, x, q, out)
	return nil
}

// Pack returns the draft as an unsigned bundle with a name, after all checks of the gate but the acceptance cases. Its errors
// are an Invalid error.
func (s *Service) Pack(ctx context.Context, files map[string]string, name string) ([]byte, error) {
	if name != "" {
		named, err := renamed(files, name)
		if err != nil {
			return nil, err
		}
		files = named
	}
	x, ctx, done, err := s.open(ctx, "", files)
	if err != nil {
		return nil, err
	}
	defer done()
	if x.Revision == nil {
		var fields []iam.FieldError
		for _, e := range x.Errors {
			fields = append(fields, iam.FieldError{Pointer: "/files/" + escape.Replace(e.File), Detail: e.String()})
		}
		return nil, &iam.Error{Kind: iam.Invalid, Code: "policy_refused", Detail: "the draft is not valid", Fields: fields}
	}
	packed, err := x.Pack(ctx)
	if err != nil {
		return nil, later(ctx, err)
	}
	return packed, nil
}

// renamed are the files with a name of the bundle in the manifest.
func renamed(files map[string]string, name string) (map[string]string, error) {
	const manifest = ".manifest"
	content := map[string]any{}
	if text, ok := files[manifest]; ok {
		if err := json.Unmarshal([]byte(text), &content); err != nil {
			return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/files/" + manifest, Detail: "is not a JSON object: " + err.Error()}})
		}
	}
	content["revision"] = name
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	files = maps.Clone(files)
	files[manifest] = string(text)
	return files, nil
}

// Merge applies changes to the files of a base: a text replaces or adds a file, nil removes it. It fails with an Invalid error.
func Merge(base map[string]string, changes map[string]*string) (map[string]string, error) {
	files := maps.Clone(base)
	if files == nil {
		files = map[string]string{}
	}
	var invalid []iam.FieldError
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		pointer := "/files/" + escape.Replace(name)
		text := changes[name]
		_, there := base[name]
		switch {
		case text == nil && !there:
			invalid = append(invalid, iam.FieldError{Pointer: pointer, Detail: "is null, and the base has no such file"})
		case text == nil:
			delete(files, name)
		case policy.KindOfFile(name) == "":
			invalid = append(invalid, iam.FieldError{Pointer: pointer, Detail: "is no file of a policy: *.rego, data.json, data.yaml, schemas/*.json, cases/*.yaml and .manifest are"})
		default:
			files[name] = *text
		}
	}
	size := 0
	for name, text := range files {
		size += len(name) + len(text)
	}
	if size > policy.MaxFiles {
		invalid = append(invalid, iam.FieldError{Pointer: "/files", Detail: "together with the base, the files are larger than 8 MB: build the bundle with iam-service policy build"})
	}
	return files, iam.InvalidFields(invalid)
}
