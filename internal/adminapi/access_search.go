package adminapi

import (
	"context"
	"encoding/json"
	"runtime"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/preview"
)

// searchLimit is how long a search may take: its snapshot keeps PostgreSQL from vacuuming.
const searchLimit = 10 * time.Minute

// evaluations are those that all searches of the process may run at once: a gateway's requests come first.
var evaluations = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// What a search can claim of its answer.
const (
	searchExact  = "members and clients of the tenant, their roles and statuses, as of as_of, and the active policy"
	searchAsked  = "the request and the token's claims: they are the same for every subject, and not those of a token that exists"
	searchNotFor = "users who are no members of the tenant, whatever a policy grants them"
)

type searchAsk struct {
	Tenant  string         `json:"tenant" maxLength:"64" doc:"id of the tenant"`
	Token   map[string]any `json:"token,omitempty" doc:"claims of each subject's token besides iss, sub and client_id"`
	Of      []string       `json:"of,omitempty" enum:"users,clients" maxItems:"2" doc:"absent: both"`
	Limit   int            `json:"limit,omitempty" minimum:"1" maximum:"1000000" default:"10000" doc:"most subjects that are listed"`
	After   string         `json:"after,omitempty" maxLength:"64" doc:"next of an earlier search that ended at its limit"`
	Request struct {
		Method string `json:"method,omitempty" maxLength:"32"`
		Scheme string `json:"scheme,omitempty" maxLength:"8"`
		Host   string `json:"host,omitempty" maxLength:"255"`
		Path   string `json:"path,omitempty" maxLength:"4096"`
	} `json:"request,omitempty" doc:"as a gateway would send it"`
}

// searchIn is a search. Its tenant is in the body.
type searchIn struct{ Body searchAsk }

func (i searchIn) target() target { return target{tenant: i.Body.Tenant} }

// Lines of a search.
type (
	searchBegins struct {
		Type     string    `json:"type"` // search
		Tenant   string    `json:"tenant"`
		Revision string    `json:"revision"`
		AsOf     time.Time `json:"as_of"`
		Exact    string    `json:"exact"`
		Asked    string    `json:"as_asked"`
		Without  string    `json:"not_included"`
		Lacks    string    `json:"request_lacks,omitempty"`
	}
	searchFound struct {
		Type     string   `json:"type"` // allowed or failed
		Kind     string   `json:"kind"`
		User     string   `json:"user,omitempty"`
		Issuer   string   `json:"issuer"`
		Subject  string   `json:"subject,omitempty"`
		ClientID string   `json:"client_id,omitempty"`
		Codes    []string `json:"codes,omitempty"`
		Error    string   `json:"error,omitempty"` // of a failed one
	}
	searchEnds struct {
		Type     string `json:"type"` // end
		Asked    int64  `json:"asked"`
		Allowed  int    `json:"allowed"`
		Failed   int    `json:"failed"`
		Complete bool   `json:"complete"`
		Next     string `json:"next,omitempty"`
	}
)

func (a *server) search(ctx context.Context, c call, in *searchIn) (*exportable, error) {
	b := in.Body
	if err := a.Service.Authorize(ctx, c.caller, c.readOnly()); err != nil {
		return nil, err
	}
	if b.Tenant == "" {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/tenant", Detail: "is required"}})
	}
	if b.After != "" && (uuid.Validate(b.After) != nil || len(b.After) != 36) {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/after", Detail: "is not the next of an earlier search"}})
	}
	if _, err := admin.Do(ctx, a.Service, c.caller, c.readOnly(), func(ctx context.Context, w *admin.Work) (iam.Tenant, error) { return w.Tenant(ctx, b.Tenant) }); err != nil {
		return nil, err
	}
	q := preview.Question{Title: "search", Token: b.Token, Of: b.Of}
	q.Request.Method, q.Request.Scheme, q.Request.Host, q.Request.Path = b.Request.Method, b.Request.Scheme, b.Request.Host, b.Request.Path
	if err := preview.CheckQuestions("the question", []preview.Question{q}); err != nil {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "", Detail: err.Error()}})
	}
	revision := a.Policies.InForce()
	if revision == nil {
		return nil, policy.ErrNoPolicy
	}
	done, err := a.streams.take(b.Tenant)
	if err != nil {
		return nil, err
	}
	return &exportable{Body: func(huma.Context) {
		defer done()
		out := newStream(exchangeOf(ctx).w)
		out.contentType = linesMedia
		a.finish(ctx, out, a.runSearch(ctx, out, preview.Search{
			Engine: a.PreviewEngine, Issuers: a.Issuers, HeaderMax: a.HeaderMax, Revision: revision, Tenant: b.Tenant, Question: q,
			After: b.After, Limit: b.Limit, Workers: cap(evaluations), Evaluations: evaluations,
		}))
	}}, nil
}

// runSearch writes a search while it runs: it ends with the request.
func (a *server) runSearch(ctx context.Context, out *stream, s preview.Search) error {
	ctx, cancel := context.WithTimeout(ctx, searchLimit)
	defer cancel()
	moment, err := a.Searches(ctx)
	if err != nil {
		return err
	}
	defer moment.Close()
	s.Facts = moment
	lines := json.NewEncoder(out.buffer)
	sent := time.Now()
	sum, err := s.Run(ctx, func(b preview.Begin) error {
		begins := searchBegins{
			Type: "search", Tenant: s.Tenant, Revision: b.Revision, AsOf: b.AsOf.UTC(), Lacks: b.Lacks,
			Exact: searchExact, Asked: searchAsked, Without: searchNotFor,
		}
		if err := lines.Encode(begins); err != nil {
			return err
		}
		return out.flush()
	}, func(f preview.Found) error {
		kind := "allowed"
		if f.Failed != "" {
			kind = "failed"
		}
		if err := lines.Encode(searchFound{kind, f.Kind, f.User, f.Issuer, f.Subject, f.ClientID, f.Codes, f.Failed}); err != nil {
			return err
		}
		if time.Since(sent) < time.Second {
			return nil
		}
		sent = time.Now()
		return out.flush()
	})
	if err != nil {
		return err
	}
	if err := lines.Encode(searchEnds{"end", sum.Asked, sum.Found, sum.Failed, sum.Complete, sum.Next}); err != nil {
		return err
	}
	return out.flush()
}
