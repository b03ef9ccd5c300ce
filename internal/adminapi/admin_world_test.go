package adminapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// reply is what the admin API answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// field is one value of the answer, by the names that lead to it.
func (r reply) field(names ...string) any {
	var v any
	_ = json.Unmarshal(r.body, &v) // not JSON: nil
	for _, n := range names {
		m, _ := v.(map[string]any) // no object: nil
		v = m[n]
	}
	return v
}

func (r reply) items() []map[string]any {
	list, _ := r.field("items").([]any) // none: nil
	out := make([]map[string]any, len(list))
	for i, x := range list {
		out[i], _ = x.(map[string]any) // as above
	}
	return out
}

// pointers are those of a problem's errors.
func (r reply) pointers() []string {
	var p struct {
		Errors []struct{ Pointer, Parameter string }
	}
	_ = json.Unmarshal(r.body, &p) // no problem: none
	var out []string
	for _, e := range p.Errors {
		out = append(out, e.Pointer+e.Parameter)
	}
	return out
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.status, r.body) }

// call sends a request to the admin API as a user: a name of the sample data, a token if it has
// dots, anonymous if it is empty. Each response must fit the OpenAPI document.
func (w *adminWorld) call(who, method, path string, body any, headers ...string) reply {
	w.Helper()
	req := w.request(method, path, "application/json", body)
	if who != "" && !strings.Contains(who, ".") {
		who = w.Mint(who, map[string]any{"aud": devstack.AdminAudience})
	}
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	r := w.do(req, headers)
	w.fits(method, req.URL.Path, r)
	return r
}

// request is a request to the admin API's listener with a body: a text, or a value for JSON.
func (w *adminWorld) request(method, path, mediaType string, body any) *http.Request {
	w.Helper()
	var b []byte
	switch x := body.(type) {
	case nil:
	case string:
		b = []byte(x)
	default:
		var err error
		b, err = json.Marshal(body)
		w.OK(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.admin+path, bytes.NewReader(b))
	w.OK(err)
	if len(b) > 0 {
		req.Header.Set("Content-Type", mediaType)
	}
	return req
}

// do sends a request with further headers.
func (w *adminWorld) do(req *http.Request, headers []string) reply {
	w.Helper()
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Set(name, strings.TrimSpace(value))
	}
	resp, err := http.DefaultClient.Do(req)
	w.OK(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.OK(err)
	return reply{resp.StatusCode, resp.Header, body}
}

// want is call that must be answered with the status.
func (w *adminWorld) want(status int, who, method, path string, body any, headers ...string) reply {
	w.Helper()
	r := w.call(who, method, path, body, headers...)
	if r.status != status {
		w.Fatalf("%s: %s %s %v: got %s, want %d", who, method, path, body, r, status)
	}
	return r
}

// document is the OpenAPI document, and what its answers are checked by.
var document struct {
	sync.Once
	doc      map[string]any
	compiler *jsonschema.Compiler
	schemas  sync.Map // place in the document → *jsonschema.Schema
}

func (w *adminWorld) document() map[string]any {
	w.Helper()
	document.Do(func() {
		resp, err := http.Get(w.admin + "/openapi.json") //nolint:noctx // a test
		w.OK(err)
		defer resp.Body.Close()
		doc, err := jsonschema.UnmarshalJSON(resp.Body)
		w.OK(err)
		document.doc, _ = doc.(map[string]any)
		document.compiler = jsonschema.NewCompiler()
		w.OK(document.compiler.AddResource("openapi.json", doc))
	})
	return document.doc
}

// fits checks an answer against the document: status, media type and body.
func (w *adminWorld) fits(method, path string, r reply) {
	w.Helper()
	op, template := w.operation(method, path)
	if op == nil {
		return // no such path: there is nothing to fit
	}
	responses, _ := op["responses"].(map[string]any) // there are some
	response, _ := responses[fmt.Sprint(r.status)].(map[string]any)
	key := fmt.Sprint(r.status)
	if response == nil {
		key = "default"
		response, _ = responses[key].(map[string]any)
	}
	if response == nil {
		w.Errorf("%s %s answered %d, which the document does not know: %s", method, template, r.status, r.body)
		return
	}
	content, _ := response["content"].(map[string]any)
	if len(content) == 0 {
		if len(r.body) > 0 {
			w.Errorf("%s %s answered %d with a body, the document has none: %s", method, template, r.status, r.body)
		}
		return
	}
	media := r.header.Get("Content-Type")
	if content[media] == nil {
		w.Errorf("%s %s answered %d as %q, which the document does not know", method, template, r.status, media)
		return
	}
	if !strings.Contains(media, "json") || strings.Contains(media, "jsonl") || strings.Contains(media, "ndjson") {
		return // no JSON document
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	at := "openapi.json#/paths/" + escape.Replace(template) + "/" + strings.ToLower(method) + "/responses/" + key + "/content/" + escape.Replace(media) + "/schema"
	schema, ok := document.schemas.Load(at)
	if !ok {
		compiling.Lock()
		s, err := document.compiler.Compile(at)
		compiling.Unlock()
		if err != nil {
			w.Fatalf("%s: %v", at, err)
		}
		schema = s
		document.schemas.Store(at, s)
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(r.body))
	if err == nil {
		err = schema.(*jsonschema.Schema).Validate(body)
	}
	if err != nil {
		w.Errorf("%s %s answered %d with what does not fit the document: %v\n%s", method, template, r.status, err, r.body)
	}
}

var compiling sync.Mutex

// operation finds the operation of a request in the document.
func (w *adminWorld) operation(method, path string) (op map[string]any, template string) {
	w.Helper()
	paths, _ := w.document()["paths"].(map[string]any)
	best := -1
	for t, item := range paths {
		fixed, ok := matches(t, path)
		methods, _ := item.(map[string]any)
		if o, has := methods[strings.ToLower(method)].(map[string]any); ok && has && fixed > best {
			op, template, best = o, t, fixed
		}
	}
	return op, template
}

// matches reports whether a path is one of a template, and how many of its parts are
// fixed.
func matches(template, path string) (fixed int, ok bool) {
	a, b := strings.Split(template, "/"), strings.Split(path, "/")
	if len(a) != len(b) {
		return 0, false
	}
	for i := range a {
		open, end := strings.IndexByte(a[i], '{'), strings.IndexByte(a[i], '}')
		switch {
		case open < 0 && a[i] != b[i]:
			return 0, false
		case open < 0:
			fixed++
		case !strings.HasPrefix(b[i], a[i][:open]) || !strings.HasSuffix(b[i], a[i][end+1:]):
			return 0, false
		case end+1 < len(a[i]):
			fixed++
		}
	}
	return fixed, true
}

// user is our id of a subject of the main issuer.
func (w *adminWorld) user(subject string) string {
	w.Helper()
	r := w.want(200, "root", "GET", "/v1/users?subject="+subject+"&issuer="+w.RAuth.Issuer, nil)
	if len(r.items()) != 1 {
		w.Fatalf("user %s: %s", subject, r)
	}
	id, _ := r.items()[0]["id"].(string)
	return id
}

// member makes a user a member of a tenant, and creates the user where needed.
func (w *adminWorld) member(tenant, subject string, roles ...string) string {
	w.Helper()
	id, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: subject, Status: iam.UserActive})
	w.OK(err)
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: tenant, User: id, Status: iam.MembershipActive, Roles: roles}))
	return id
}

// program is a token of a program for the admin API.
func (w *adminWorld) program(id, scope string) string {
	w.Helper()
	t, err := w.RAuth.Mint("ES256", map[string]any{"sub": id, "client_id": id, "aud": devstack.AdminAudience, "scope": scope})
	w.OK(err)
	return t
}

// sql is a connection to the database itself.
func (w *adminWorld) sql() *pgxpool.Pool {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pool == nil {
		pool, err := pgxpool.New(ctx, w.DatabaseURL)
		w.OK(err)
		w.Cleanup(pool.Close)
		w.pool = pool
	}
	return w.pool
}
