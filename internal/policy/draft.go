package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// A draft is a policy that a person is writing. It is compiled and evaluated, never submitted: nothing stores it, and
// nothing can activate it.
//
// Each draft has a child process of its own, as a candidate has at the gate, and for the same reason: Go bounds neither the
// memory nor the time of one goroutine, and a comprehension over a product of sets takes gigabytes within the 50 ms that an
// evaluation may last. A child is never used for a second draft, so no draft depends on an earlier one. What an evaluation per
// pause in typing cannot afford is the start of a process: the next child is started when the last one ends, waits for
// its draft, and ends after a minute without one. So a replica whose playground no one uses has no child, and one in use has
// one idle child, of some 30 MB.
const (
	draftEvaluation = time.Second      // of one evaluation
	draftCPU        = 5 * time.Second  // of a child: it compiles, decides, explains, and runs all cases
	draftWait       = 15 * time.Second // wall-clock time of a child, once it has its draft
	draftIdle       = time.Minute      // for a child without a draft
	draftOutput     = 8 << 20          // bytes of one reply
	draftPacked     = 2 * MaxBundle    // of a reply with a bundle, in base64
)

// Drafts compiles drafts by the rules of an engine: its headers, settings and checks. It is safe for concurrent use, and does
// not touch the engine's revisions.
type Drafts struct {
	cfg Config

	mu     sync.Mutex
	next   *draftProcess // waits for a draft; nil: none
	ends   *time.Timer   // next
	closed bool
}

// NewDrafts returns the drafts of an engine. child is as Config.Child, and must be set.
func NewDrafts(e *Engine, child []string) *Drafts {
	d := &Drafts{cfg: e.cfg}
	d.cfg.Child = child
	return d
}

// Close ends the idle child. No draft may be open.
func (d *Drafts) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.dropNext()
}

// dropNext ends the idle child. d.mu is held.
func (d *Drafts) dropNext() {
	if d.next != nil {
		d.ends.Stop()
		d.next.end()
		d.next = nil
	}
}

// process is the idle child, or a new one.
func (d *Drafts) process() (*draftProcess, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.next; p != nil {
		d.ends.Stop()
		d.next = nil
		return p, nil
	}
	return d.start()
}

func (d *Drafts) start() (*draftProcess, error) {
	if len(d.cfg.Child) == 0 {
		return nil, errors.New("no command is configured that runs a child")
	}
	return startDraft(d.cfg.Child)
}

// startNext starts a child ahead.
func (d *Drafts) startNext() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next != nil || d.closed {
		return
	}
	p, err := d.start()
	if err != nil {
		return // Open reports it
	}
	d.next = p
	d.ends = time.AfterFunc(draftIdle, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.next == p {
			d.dropNext()
		}
	})
}

// Draft is a draft that is compiled, in a child. It is used by one goroutine at a time.
type Draft struct {
	Revision *Revision    // evaluated and explained like any other, until Close; nil: it does not compile
	Errors   []DraftError // why

	of      *Drafts
	p       *draftProcess
	release func()
	stop    func() bool
	cancel  context.CancelFunc
	ctx     context.Context //nolint:containedctx // it lives as long as the draft
	memory  int64
	reads   []DraftRead
	input   any
	decided *Decision
	failed  error // of the child: it is gone
}

// DraftRead is a document that the last decision has read. Without a Value, there is no such document.
type DraftRead struct {
	Path  string // as in directory.Fact
	Value any
}

// Open compiles the files of a draft. Its errors are the draft's; an error of Open is that it cannot be checked now
// (RetryError). The caller closes the draft.
func (d *Drafts) Open(ctx context.Context, files map[string]string) (*Draft, error) {
	memory, release, err := container.reserve()
	if err != nil {
		return nil, notCheckedError(err)
	}
	p, err := d.process()
	if err != nil {
		release()
		return nil, notCheckedError(err)
	}
	x := &Draft{of: d, p: p, release: release, memory: memory}
	x.ctx, x.cancel = context.WithTimeout(ctx, draftWait)
	x.stop = context.AfterFunc(x.ctx, p.kill)
	job := gateJob{Draft: &draftJob{Files: files}, Headers: d.cfg.Headers, Settings: d.cfg.Settings, Admin: d.cfg.Admin}
	var compiled draftCompiled
	err = p.send(childLimits{Memory: memory, CPU: draftCPU})
	if err == nil {
		err = p.send(job)
	}
	if err == nil {
		err = p.receive(&compiled, draftOutput)
	}
	if err != nil {
		err = x.fail(err)
		if limit, ok := errors.AsType[*iam.Error](err); ok {
			x.Errors = []DraftError{{Code: "limit_error", Message: limit.Detail}}
			return x, nil
		}
		x.Close()
		return nil, err
	}
	x.Errors = compiled.Errors
	if compiled.Revision != nil {
		x.Revision = compiled.Revision.revision()
		x.Revision.draft = x
	}
	return x, nil
}

// Close ends the child.
func (x *Draft) Close() {
	x.stop()
	x.cancel()
	x.p.end()
	x.release()
	x.of.startNext()
}

// fail is why a child does not reply: it has exceeded a limit, which is the draft's fault, or it was cancelled or killed.
func (x *Draft) fail(err error) error {
	if x.failed != nil {
		return x.failed
	}
	x.p.end()
	exit, _ := errors.AsType[*exec.ExitError](x.p.exit) // nil: another error, or none
	limit := func(format string, args ...any) error {
		return &iam.Error{Kind: iam.Unavailable, Code: "policy_timeout", Detail: fmt.Sprintf(format, args...)}
	}
	switch {
	case exit != nil && exit.ExitCode() == exitMemory:
		x.failed = limit("the draft exceeds %d MB of memory", x.memory>>20)
	case exit != nil && exit.ExitCode() == exitTime:
		x.failed = limit("the draft exceeds %s of processor time", draftCPU)
	case exit != nil && exit.Exited() && exit.ExitCode() == 2: // Go's runtime: a stack, or all memory, was exhausted
		x.failed = limit("the draft exhausts the memory or the stack of its process")
	case errors.Is(err, errDraftOutput):
		x.failed = limit("the draft returns more than %d MB", draftOutput>>20)
	case x.ctx.Err() != nil:
		x.failed = notCheckedError(x.ctx.Err())
	default:
		x.failed = notCheckedError(err)
	}
	return x.failed
}

// ask sends a request, and answers what the child reads of the directory by facts.
func (x *Draft) ask(ctx context.Context, q draftRequest, facts Facts) (draftReply, error) {
	if x.failed != nil {
		return draftReply{}, x.failed
	}
	if err := x.p.send(q); err != nil {
		return draftReply{}, x.fail(err)
	}
	most := int64(draftOutput)
	if q.Pack {
		most = draftPacked
	}
	for {
		var a draftReply
		if err := x.p.receive(&a, most); err != nil {
			return a, x.fail(err)
		}
		if a.Read == nil {
			return a, a.Error.err()
		}
		if err := x.p.send(x.document(ctx, a.Read, facts)); err != nil {
			return a, x.fail(err)
		}
	}
}

// document reads what a child asks for.
func (x *Draft) document(ctx context.Context, path storage.Path, facts Facts) (d draftDocument) {
	if facts == nil {
		return d
	}
	v, err := facts.Read(ctx, path)
	enumeration, enumerates := errors.AsType[*directory.EnumerationError](err)
	switch {
	case enumerates:
		d.Enumeration = enumeration.Path
		return d
	case storage.IsNotFound(err):
	case err != nil:
		d.Error = wireErrorOf(err)
		return d
	default:
		if d.Value, err = jsonOf(v); err != nil {
			d.Error = wireErrorOf(err)
			return d
		}
		d.Found = true
	}
	steps := make([]string, 0, len(path))
	for _, s := range path[1:] {
		steps = append(steps, escapeStep.Replace(s))
	}
	x.reads = append(x.reads, DraftRead{strings.Join(steps, "/"), d.Value})
	return d
}

var escapeStep = strings.NewReplacer("~", "~0", "/", "~1")

func (q *Input) forDraft() (*draftInput, error) {
	i := &draftInput{Fields: q.Fields, Anonymous: q.Anonymous, Now: q.Now}
	if q.Token == nil {
		return i, nil
	}
	i.Token = true
	var err error
	i.Claims, err = jsonOf(q.Token.Claims.Value)
	return i, err
}

// decide is Engine.Decide for a draft.
func (x *Draft) decide(ctx context.Context, q *Input, facts Facts) (Decision, error) {
	x.reads, x.input, x.decided = nil, nil, nil
	i, err := q.forDraft()
	if err != nil {
		return Decision{}, err
	}
	a, err := x.ask(ctx, draftRequest{Decide: i}, facts)
	x.input = a.Input
	if err != nil {
		return Decision{}, err
	}
	if a.Decision == nil {
		return Decision{}, errors.New("the draft's process replied without a decision")
	}
	d := *a.Decision
	kept := d
	kept.Values = append([]string(nil), d.Values...) // the caller adds its own
	x.decided = &kept
	return d, nil
}

// explain is Engine.Explain for a draft.
func (x *Draft) explain(ctx context.Context, q *Input, facts Facts) ([]Rule, error) {
	i, err := q.forDraft()
	if err != nil {
		return nil, err
	}
	reads := x.reads // those of the decision: an explanation reads more
	a, err := x.ask(ctx, draftRequest{Explain: i}, facts)
	x.reads = reads
	return a.Rules, err
}

// Reads are the documents that the last decision has read, in that order.
func (x *Draft) Reads() []DraftRead { return x.reads }

// Input is what the policy saw at the last decision, as JSON has it; nil: it was not evaluated.
func (x *Draft) Input() any { return x.input }

// Decision is the last one, before the service adds its own headers; nil: none, or it failed.
func (x *Draft) Decision() *Decision { return x.decided }

// RunCases runs the acceptance cases.
func (x *Draft) RunCases(ctx context.Context) ([]CaseResult, error) {
	a, err := x.ask(ctx, draftRequest{Cases: true}, nil)
	return a.Cases, err
}

// Expect returns what the draft decides for a case, as the case would state it.
func (x *Draft) Expect(ctx context.Context, c Case) (Want, error) {
	a, err := x.ask(ctx, draftRequest{Case: &c}, nil)
	if err != nil || a.Want == nil {
		return Want{}, err
	}
	return *a.Want, nil
}

// Pack returns the draft as an unsigned bundle. Equal files are equal bytes.
func (x *Draft) Pack(ctx context.Context) ([]byte, error) {
	a, err := x.ask(ctx, draftRequest{Pack: true}, nil)
	return a.Packed, err
}

// draftProcess is a child that waits for a draft, or has one.
type draftProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *allowance
	to     *json.Encoder
	from   *json.Decoder
	ending sync.Once
	exit   error // after end
}

var errDraftOutput = errors.New("the child's output exceeds its limit")

// allowance reads so many bytes.
type allowance struct {
	r    io.Reader
	left int64
}

func (a *allowance) Read(b []byte) (int, error) {
	if a.left <= 0 {
		return 0, errDraftOutput
	}
	n, err := a.r.Read(b[:min(int64(len(b)), a.left)])
	a.left -= int64(n)
	return n, err
}

func startDraft(args []string) (*draftProcess, error) {
	cmd, err := childCommand(context.Background(), args)
	if err != nil {
		return nil, err
	}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &draftProcess{cmd: cmd, in: in, out: &allowance{r: out}}
	p.to, p.from = json.NewEncoder(in), json.NewDecoder(p.out)
	p.from.UseNumber()
	return p, nil
}

func (p *draftProcess) send(x any) error { return p.to.Encode(x) }

func (p *draftProcess) receive(x any, most int64) error {
	p.out.left = most
	return p.from.Decode(x)
}

// kill stops the child; end must follow.
func (p *draftProcess) kill() { _ = p.cmd.Process.Kill() } // it may have ended

// end closes the input of the child, which it exits by, kills it otherwise, and waits for its end.
func (p *draftProcess) end() {
	p.ending.Do(func() {
		_ = p.in.Close() // it may have ended
		slow := time.AfterFunc(draftEnd, p.kill)
		defer slow.Stop()
		p.exit = p.cmd.Wait()
	})
}

// draftEnd is the time for a child to exit by itself. One that still evaluates does not.
const draftEnd = 100 * time.Millisecond

// MaskPrivate replaces strings of a value that are, or contain, what a claim says that may be a secret, as an explanation
// hides them. It returns JSON Pointers of the replaced ones (RFC 6901). claims may be nil.
func MaskPrivate(value any, claims ast.Value) (masked any, pointers []string) {
	if claims == nil {
		return value, nil
	}
	x := &explanation{privateTexts: privateTextsOf(ast.NewObject([2]*ast.Term{termToken, ast.NewTerm(claims)}))}
	masked = x.mask(value, "", &pointers)
	return masked, pointers
}

func (x *explanation) mask(value any, at string, pointers *[]string) any {
	switch v := value.(type) {
	case string:
		if x.hides(ast.String(v)) {
			*pointers = append(*pointers, at)
			return nil
		}
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = x.mask(e, fmt.Sprintf("%s/%d", at, i), pointers)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if x.hides(ast.String(k)) {
				*pointers = append(*pointers, at)
				continue
			}
			out[k] = x.mask(e, at+"/"+escapeStep.Replace(k), pointers)
		}
		return out
	}
	return value
}
