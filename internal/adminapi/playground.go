package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/policyops/playground"
)

// gzipMedia is the media type of a bundle.
const gzipMedia = "application/gzip"

// activeRevision names the active revision where a revision is named.
const activeRevision = "active"

func (a *server) playgroundRoutes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{
			method: get, path: "/v1/policy/revisions/{revision}/files", action: "policy:source", tag: "policy",
			summary: "Read the files of a revision",
			description: "Of a stored one, of the policy that is part of the program, or of the active one: active. A bundle has no tests, and " +
				"its cases and schemas are files again.",
			errors:  []int{http.StatusConflict},
			handler: withoutTx(a.readFiles),
		},
		{
			method: post, path: "/v1/policy/evaluate", action: "policy:evaluate", tag: "policy",
			summary: "Evaluate a draft of the policy",
			description: "Applies changes to the files of a revision, compiles them as the gate does, and decides the question by them, with current " +
				"facts: nothing is stored or activated. Errors of the draft are the result. Without files, the base is evaluated. A newer " +
				"request of the same caller ends the older one (409 superseded); 503 busy while others are evaluated. A draft that exceeds " +
				"its time or memory is stopped.",
			maxBody: policy.MaxFiles,
			handler: withoutTx(a.evaluateDraft),
		},
		{
			method: post, path: "/v1/policy/drafts", action: "policy:draft", tag: "policy",
			summary: "Build a bundle of a draft",
			description: "The unsigned bundle (.tar.gz) of a revision's files with changes, to upload it, or to sign it. Nothing is stored. It is " +
				"compiled as the gate does; the acceptance cases run when it is uploaded. Equal requests are equal bytes.",
			maxBody: policy.MaxFiles,
			bundle:  true,
			handler: withoutTx(a.buildDraft),
		},
	}
}

type policyFile struct {
	Path string `json:"path"`
	Kind string `json:"kind" enum:"rego,test,cases,data,schema,manifest"`
	Text string `json:"text"`
}

type filesBody struct {
	Revision string       `json:"revision" doc:"short name, as in X-Policy-Revision"`
	Digest   string       `json:"digest" doc:"SHA-256 of what is evaluated, in hex"`
	Files    []policyFile `json:"files" doc:"by path"`
}

func (a *server) readFiles(ctx context.Context, c call, in *struct {
	OnPlatform
	Revision string `path:"revision" maxLength:"64" doc:"digest, or 12 or more of its first digits; active"`
},
) (*resource[filesBody], error) {
	c.task.Object = in.Revision
	digest, files, err := a.baseFiles(ctx, c, in.Revision)
	if err != nil {
		return nil, err
	}
	b := filesBody{Revision: iam.PolicyID(digest), Digest: digest, Files: []policyFile{}}
	for name, text := range files {
		b.Files = append(b.Files, policyFile{Path: name, Kind: policy.KindOfFile(name), Text: text})
	}
	slices.SortFunc(b.Files, func(x, y policyFile) int { return strings.Compare(x.Path, y.Path) })
	return &resource[filesBody]{Status: 200, Body: b}, nil
}

// baseFiles authorizes the caller, and returns the digest and the files of a revision: one that is stored, or active here.
func (a *server) baseFiles(ctx context.Context, c call, ref string) (digest string, files map[string]string, err error) {
	if err := a.Service.Authorize(ctx, c.caller, c.readOnly()); err != nil {
		return "", nil, err
	}
	now := a.Policies.InForce()
	switch {
	case (ref == "" || ref == activeRevision) && now == nil:
		return "", nil, policy.ErrNoPolicy
	case ref == "" || ref == activeRevision:
		digest = now.Digest
	case a.isActive(ref):
		digest = now.Digest
	default:
		stored, err := admin.Do(ctx, a.Service, c.caller, c.readOnly(), func(ctx context.Context, w *admin.Work) (iam.PolicyRevision, error) {
			return w.PolicyRevision(ctx, ref)
		})
		if err != nil {
			return "", nil, err
		}
		digest = stored.Digest
	}
	files, err = a.Policies.Files(ctx, digest)
	return digest, files, err
}

// isActive reports whether ref names the active revision of this replica, which may not be stored: it is local, or part of
// the program.
func (a *server) isActive(ref string) bool {
	now := a.Policies.InForce()
	return now != nil && iam.ValidPolicyRef(ref) && strings.HasPrefix(now.Digest, ref)
}

// draftFiles are the files of a draft: those of the base, with the changes.
func (a *server) draftFiles(ctx context.Context, c call, d DraftOf) (base string, files map[string]string, err error) {
	digest, files, err := a.baseFiles(ctx, c, d.Base)
	if iam.KindOf(err) == iam.NotFound {
		err = iam.InvalidFields([]iam.FieldError{{Pointer: "/base", Detail: "is no stored revision: see GET /v1/policy/revisions, or active"}})
	}
	if err != nil {
		return "", nil, err
	}
	files, err = playground.Merge(files, d.Files)
	return iam.PolicyID(digest), files, err
}

// DraftOf describes a draft.
type DraftOf struct {
	Base  string             `json:"base,omitempty" maxLength:"64" doc:"a stored revision; absent, or active: the active one"`
	Files map[string]*string `json:"files,omitempty" doc:"texts by path, which replace the base's files or are added to them; null removes one"`
}

type evaluateBody struct {
	DraftOf
	Question *explainBody `json:"question,omitempty" doc:"as for POST /v1/policy/explain, without revision; absent: the draft is compiled alone"`
	Cases    bool         `json:"cases,omitempty" doc:"run the acceptance cases too"`
}

type draftDecision struct {
	Allow   bool              `json:"allow"`
	Status  int               `json:"status" doc:"of the response to the gateway"`
	Code    string            `json:"code,omitempty"`
	Tenant  string            `json:"tenant,omitempty"`
	Headers map[string]string `json:"headers,omitempty" doc:"as the gateway would receive them, without X-Decision-ID"`
	Reasons []policy.Reason   `json:"reasons"`
}

type evaluatedBody struct {
	Base        string                `json:"base" doc:"revision"`
	Revision    string                `json:"revision,omitempty" doc:"that the draft would be; absent: it does not compile"`
	Compiled    bool                  `json:"compiled"`
	Errors      []policy.DraftError   `json:"errors"`
	Warnings    []string              `json:"warnings" doc:"what the gate accepts with a warning"`
	Decision    *draftDecision        `json:"decision,omitempty" doc:"absent: nothing was asked, or the draft does not compile"`
	Explanation *explanationBody      `json:"explanation,omitempty"`
	Facts       []playground.FactRead `json:"facts" doc:"documents that the policy has read"`
	Input       json.RawMessage       `json:"input,omitempty" doc:"that the policy saw"`
	Masked      []string              `json:"masked,omitempty" doc:"JSON Pointers of what input holds and is not shown"`
	Case        *playground.DraftCase `json:"case,omitempty" doc:"the acceptance case that would pin the decision"`

	Cases []policy.CaseResult `json:"cases,omitempty" doc:"absent: they were not run"`

	Took int64 `json:"took_microseconds"`
}

// evaluateDraft evaluates a draft. It holds no transaction, and writes nothing.
func (a *server) evaluateDraft(ctx context.Context, c call, in *struct {
	OnPlatform
	Body evaluateBody
},
) (*resource[evaluatedBody], error) {
	base, files, err := a.draftFiles(ctx, c, in.Body.DraftOf)
	if err != nil {
		return nil, err
	}
	ask := playground.Ask{Caller: asker(c.caller), Files: files, Cases: in.Body.Cases}
	if in.Body.Question != nil {
		q, err := a.draftQuestion(ctx, *in.Body.Question)
		if err != nil {
			return nil, err
		}
		ask.Question = &q
	}
	got, err := a.Playground.Evaluate(ctx, ask)
	if err != nil {
		return nil, err
	}
	body, err := wireEvaluated(base, in.Body.Cases, got)
	return &resource[evaluatedBody]{Status: 200, Body: body}, err
}

// asker names the caller whose newer question replaces an older one.
func asker(c admin.Caller) string {
	if t := c.Token; t != nil {
		return fmt.Sprintf("%q %q %q", t.Issuer, t.Subject, t.ClientID)
	}
	return ""
}

func (a *server) draftQuestion(ctx context.Context, b explainBody) (explain.Question, error) {
	if b.Revision != "" {
		return explain.Question{}, iam.InvalidFields([]iam.FieldError{{Pointer: "/question/revision", Detail: "is not allowed: the draft is evaluated; name a revision as base"}})
	}
	q, err := a.explainQuestion(ctx, b)
	if err == nil && !b.At.IsZero() {
		q.Now = b.At
	}
	return q, belowQuestion(err)
}

// belowQuestion moves the pointers of an error into the member question.
func belowQuestion(err error) error {
	known, ok := errors.AsType[*iam.Error](err)
	if !ok || known.Kind != iam.Invalid {
		return err
	}
	moved := *known
	moved.Fields = slices.Clone(known.Fields)
	for i, f := range moved.Fields {
		moved.Fields[i].Pointer = path.Clean("/question/" + strings.TrimPrefix(f.Pointer, "/"))
	}
	return &moved
}

func wireEvaluated(base string, cases bool, got playground.Answer) (evaluatedBody, error) {
	b := evaluatedBody{Base: base, Errors: got.Errors, Facts: got.Facts, Masked: got.Masked, Warnings: []string{}, Took: got.Took.Microseconds()}
	if b.Errors == nil {
		b.Errors = []policy.DraftError{}
	}
	if b.Facts == nil {
		b.Facts = []playground.FactRead{}
	}
	if got.Revision == nil {
		return b, nil
	}
	b.Revision, b.Compiled = got.Revision.ID, true
	b.Warnings = append(append(b.Warnings, got.Revision.Warnings...), got.Revision.Unvalidated...)
	if b.Cases = got.Cases; cases && b.Cases == nil {
		b.Cases = []policy.CaseResult{}
	}
	if !got.Asked {
		return b, nil
	}
	x := got.Explained
	var text strings.Builder
	x.Text(&text)
	b.Explanation = &explanationBody{x, text.String()}
	b.Decision = &draftDecision{Allow: x.Allow, Status: x.Status, Code: x.Code, Tenant: x.Tenant, Headers: x.Headers, Reasons: got.Reasons}
	if b.Decision.Reasons == nil {
		b.Decision.Reasons = []policy.Reason{}
	}
	b.Case = &got.Case
	if got.Input == nil {
		return b, nil
	}
	var err error
	b.Input, err = json.Marshal(got.Input)
	return b, err
}

// bundleFile is a response that is a bundle.
type bundleFile struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}

func (a *server) buildDraft(ctx context.Context, c call, in *struct {
	OnPlatform
	Body struct {
		DraftOf
		Name string `json:"name,omitempty" maxLength:"100" doc:"of the bundle, the revision in its .manifest; absent: that of the base"`
	}
},
) (*bundleFile, error) {
	_, files, err := a.draftFiles(ctx, c, in.Body.DraftOf)
	if err != nil {
		return nil, err
	}
	packed, err := a.Playground.Pack(ctx, files, in.Body.Name)
	if err != nil {
		return nil, err
	}
	return &bundleFile{ContentType: gzipMedia, Disposition: `attachment; filename="policy.tar.gz"`, Body: packed}, nil
}
