package adminapi

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// Media types of exports.
const (
	linesMedia  = "application/jsonl"
	ndjsonMedia = "application/x-ndjson" // the older name of the same
	csvMedia    = "text/csv"
)

// Bounds of responses that are written while they are read: each holds a snapshot of the database.
const (
	maxStreams       = 4
	maxTenantStreams = 2                // of one tenant, so that one cannot keep others from theirs
	streamWait       = 30 * time.Second // for a caller who does not read
)

// exportable is a response that is one page of a list, or the whole list in another format.
type exportable struct {
	Link string `header:"Link" doc:"rel=\"next\" where there is more (RFC 8288)"`
	Body func(huma.Context)
}

// format of an export; "": the request asks for a page.
type format string

// formatOf is the first format of an export that the request accepts (RFC 9110, section 12.5.1).
func formatOf(ctx context.Context) format { return formatOfRequest(exchangeOf(ctx).r) }

func formatOfRequest(r *http.Request) format {
	if r == nil || r.Method == http.MethodHead {
		return ""
	}
	for _, list := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(list, ",") {
			media, _, _ := strings.Cut(part, ";")
			switch media = strings.ToLower(strings.TrimSpace(media)); media {
			case linesMedia, ndjsonMedia, csvMedia:
				return format(media)
			case jsonMedia, "*/*", "application/*":
				return ""
			}
		}
	}
	return ""
}

// tagged adds ETags, except to what is streamed: a tag is over the whole body.
func (a *server) tagged(next http.Handler) http.Handler {
	buffered := withETag(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.routeOf(r).exports && formatOfRequest(r) != "" {
			next.ServeHTTP(w, r)
			return
		}
		buffered.ServeHTTP(w, r)
	})
}

// page responds with one page, which read reads, with the cursor of the next one.
func (a *server) page(ctx context.Context, c call, read func(context.Context, *admin.Work) (any, string, error)) (*exportable, error) {
	var body any
	next, err := admin.Do(ctx, a.Service, c.caller, c.task, func(ctx context.Context, w *admin.Work) (next string, err error) {
		body, next, err = read(ctx, w)
		return next, err
	})
	if err != nil {
		return nil, err
	}
	return &exportable{Link: linkTo(ctx, next), Body: func(h huma.Context) {
		h.SetHeader("Content-Type", jsonMedia)
		h.SetStatus(http.StatusOK)
		_ = a.api.Marshal(h.BodyWriter(), jsonMedia, body) // fails only where the caller has disconnected
	}}, nil
}

// exporting is an export: its rows are read and written in one transaction.
type exporting struct {
	format format
	check  func() error // of the request, once the caller is authorized; nil: nothing to check
	header []string     // of CSV; nil: stream writes it
	stream func(ctx context.Context, w *admin.Work, put *exportWriter) error
}

// export responds with a whole list under one snapshot. The caller is authorized before the response begins. What fails
// later closes the connection without the end of the body, so that no part is taken for the whole.
func (a *server) export(ctx context.Context, c call, e exporting) (*exportable, error) {
	task := c.readOnly()
	task.Patient = true
	if err := a.Service.Authorize(ctx, c.caller, task); err != nil {
		return nil, err
	}
	if e.check != nil {
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	done, err := a.streams.take(task.Tenant)
	if err != nil {
		return nil, err
	}
	x := exchangeOf(ctx)
	return &exportable{Body: func(huma.Context) {
		defer done()
		out := newStream(x.w)
		out.contentType = string(e.format)
		put := &exportWriter{out: out, format: e.format}
		err := a.Service.Do(ctx, c.caller, task, func(ctx context.Context, w *admin.Work) error {
			if err := put.restart(); err != nil {
				return err
			}
			if put.csv != nil && e.header != nil {
				if err := put.row(e.header); err != nil {
					return err
				}
			}
			return e.stream(ctx, w, put)
		})
		if err == nil {
			err = put.flush()
		}
		a.finish(ctx, out, err)
	}}, nil
}

// finish ends a streamed response: with a problem where nothing was sent yet, by closing the connection where a part was.
func (a *server) finish(ctx context.Context, out *stream, err error) {
	x := exchangeOf(ctx)
	switch {
	case err == nil:
		return
	case !out.started():
		a.failures.Write(x.w, x.r, err)
	default:
		if ctx.Err() == nil {
			a.Log.WarnContext(ctx, "export interrupted", "err", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// stream writes a response while it is read: each write must be accepted within streamWait.
type stream struct {
	w           http.ResponseWriter
	contentType string
	buffer      *bufio.Writer
	began       bool
}

func newStream(w http.ResponseWriter) *stream {
	s := &stream{w: w}
	s.buffer = bufio.NewWriterSize(s, 32<<10)
	return s
}

// started reports whether a part of the response was sent.
func (s *stream) started() bool { return s.began }

// Write implements io.Writer for the buffer.
func (s *stream) Write(b []byte) (int, error) {
	control := http.NewResponseController(s.w)
	if err := control.SetWriteDeadline(time.Now().Add(streamWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", s.contentType)
		s.w.WriteHeader(http.StatusOK)
	}
	return s.w.Write(b)
}

// flush sends what is buffered to the caller.
func (s *stream) flush() error {
	if err := s.buffer.Flush(); err != nil {
		return err
	}
	if !s.began { // an empty list is a response too
		if _, err := s.Write(nil); err != nil {
			return err
		}
	}
	if err := http.NewResponseController(s.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// exportWriter writes the items of an export in its format.
type exportWriter struct {
	out    *stream
	format format
	csv    *csv.Writer // nil: JSON lines
}

// restart begins the body, of each attempt of the transaction: what an earlier attempt left in the buffers would repeat rows. It fails
// where a part of that attempt was sent.
func (e *exportWriter) restart() error {
	if e.out.started() {
		return errors.New("the export was interrupted")
	}
	e.out.buffer.Reset(e.out)
	if e.format == csvMedia {
		e.csv = csv.NewWriter(e.out.buffer) // a new one: it has a buffer of its own
	}
	return nil
}

// each writes an item: its JSON, or its rows.
func (e *exportWriter) each(item any, rows [][]string) error {
	if e.csv == nil {
		return json.NewEncoder(e.out.buffer).Encode(item)
	}
	for _, r := range rows {
		if err := e.row(r); err != nil {
			return err
		}
	}
	return nil
}

func (e *exportWriter) row(cells []string) error { return e.csv.Write(admin.SafeCells(cells)) }

func (e *exportWriter) flush() error {
	if e.csv != nil {
		if e.csv.Flush(); e.csv.Error() != nil {
			return e.csv.Error()
		}
	}
	return e.out.flush()
}

var _ io.Writer = (*stream)(nil)

// streams limits responses that are written while they are read.
type streams struct {
	mu       sync.Mutex
	all      int
	byTenant map[string]int
}

// take reserves one for a tenant ("": the platform) until done is called.
func (s *streams) take(tenant string) (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.byTenant[tenant] >= maxTenantStreams {
		return nil, &iam.Error{
			Kind: iam.Unavailable, Code: "busy",
			Detail: fmt.Sprintf("other exports and searches are running on this replica, at most %d and %d of one tenant: try again", maxStreams, maxTenantStreams),
		}
	}
	if s.byTenant == nil {
		s.byTenant = map[string]int{}
	}
	s.all++
	s.byTenant[tenant]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.byTenant[tenant]--; s.byTenant[tenant] == 0 {
			delete(s.byTenant, tenant)
		}
	}), nil
}
