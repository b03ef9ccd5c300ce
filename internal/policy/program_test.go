package policy_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/policy"
	"iam-service/policies"
)

func configured(t testing.TB, change func(*policy.Config)) *policy.Engine {
	t.Helper()
	c := policy.Config{Log: discard, Limit: 10 * time.Second}
	change(&c)
	e, err := policy.NewEngine(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func metric(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func TestTheMachineEvaluatesTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	e := engine(t)
	c, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Submit(ctx, c); err != nil {
		t.Fatal(err)
	}
	if got := *e.Status().Engine; got.Name != policy.EngineMachine {
		t.Errorf("it is evaluated by %s: %s", got.Name, got.Reason)
	}
}

func TestWhatTheMachineCannotEvaluateIsLeftToTopdownAndReported(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	e := configured(t, func(c *policy.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	registry := prometheus.NewRegistry()
	e.Register(registry)
	if err := offer(t, e, rule("x if input.token.sub == \"alice\"\n\ndecision := {\"allow\": y, \"tenant\": \"\", \"headers\": {}} if y := count([1 | x with input.token.sub as \"alice\"]) == 1\n")); err != nil {
		t.Fatal(err)
	}
	d, err := decide(e, facts{})
	got := *e.Status().Engine
	if err != nil || !d.Allow || got.Name != policy.EngineTopdown || !strings.Contains(got.Reason, "with") || metric(t, registry, "iam_policy_engine_machine") != 0 {
		t.Errorf("%v, %v, %+v", d.Allow, err, got)
	}
	if !strings.Contains(log.String(), "policy left to topdown") {
		t.Errorf("the log does not report it: %s", &log)
	}
}

func TestAnEvaluationThatTheMachineCannotFinishIsCounted(t *testing.T) {
	t.Parallel()
	e := engine(t)
	registry := prometheus.NewRegistry()
	e.Register(registry)
	if err := offer(t, e, rule("decision := {\"allow\": to_number(input.token.n) == 1}\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := decideFor(e, map[string]any{"n": "x"}, facts{}); err == nil {
		t.Error("a builtin fails, and there is a decision")
	}
	if n := metric(t, registry, "iam_policy_left_to_topdown_total"); n != 1 {
		t.Errorf("%v evaluations are left, want 1", n)
	}
	if got := e.Status().Engine.Name; got != policy.EngineMachine {
		t.Errorf("it is evaluated by %s", got)
	}
}

// falsified is a policy that a machine which takes false for true gets wrong.
const falsified = "ok if input.token.admin\n\ndecision := {\"allow\": ok, \"tenant\": \"\", \"headers\": {}} if ok\n\nelse := {\"allow\": false, \"status\": 403}\n"

func TestADisagreementIsDecidedByTopdownAndSwitchesTheMachineOff(t *testing.T) {
	t.Parallel()
	var disagreed atomic.Pointer[string]
	wrong := configured(t, func(c *policy.Config) { c.VerifyShare, c.MachineMutant = 1, true })
	wrong.SetDisagreed(func(digest string) { disagreed.Store(&digest) })
	registry := prometheus.NewRegistry()
	wrong.Register(registry)
	if err := offer(t, wrong, rule(falsified)); err != nil {
		t.Fatal(err)
	}
	if got := wrong.Status().Engine.Name; got != policy.EngineMachine {
		t.Fatalf("it is evaluated by %s", got)
	}
	d, err := decideFor(wrong, map[string]any{"admin": false}, facts{})
	if err != nil || d.Allow {
		t.Errorf("the wrong decision is returned: %+v, %v", d, err)
	}
	if got := wrong.Status().Engine; got.Name != policy.EngineTopdown || metric(t, registry, "iam_policy_engine_mismatches_total") != 1 {
		t.Errorf("it is evaluated by %+v", got)
	}
	first := wrong.Revision()
	if got := disagreed.Load(); got == nil || *got != first.Digest {
		t.Errorf("the disagreement is not reported: %v", got)
	}
	// The same policy stays with topdown, also after another was active.
	if err := offer(t, wrong, rule(smallest[len("package iam.claims\n\n"):])); err != nil {
		t.Fatal(err)
	}
	if err := offer(t, wrong, rule(falsified)); err != nil {
		t.Fatal(err)
	}
	if got := wrong.Status().Engine; wrong.Revision().Digest != first.Digest || got.Name != policy.EngineTopdown {
		t.Errorf("the machine evaluates it again: %+v", got)
	}
}

func TestAFailedAcceptanceCaseDisablesTheMachineNotThePolicy(t *testing.T) {
	t.Parallel()
	text := "cases:\n- title: no administrator\n  input: {token: {admin: false}}\n  want: {allow: false}\n"
	for name, child := range map[string][]string{"in this process": nil, "in a child": {os.Args[0], policy.ChildCommand}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := configured(t, func(c *policy.Config) { c.MachineMutant, c.Child = true, child })
			f := rule(falsified)
			f["cases/a.yaml"] = text
			if err := offer(t, e, f); err != nil {
				t.Fatal(err)
			}
			if got := e.Status().Engine; got.Name != policy.EngineTopdown || !strings.Contains(got.Reason, "no administrator") {
				t.Errorf("%+v", got)
			}
		})
	}
}

// OPA plans a reference with unknown steps once for each rule that it may mean, and what follows
// it again for each: ten rules, nine references make 10^9 copies.
func TestAPolicyWhosePlanExplodesIsAcceptedAndLeftToTopdown(t *testing.T) {
	t.Parallel()
	e := configured(t, func(c *policy.Config) { c.Child = []string{os.Args[0], policy.ChildCommand} })
	var lib, body strings.Builder
	lib.WriteString("package iam.lib\n\n")
	for i := range 10 {
		fmt.Fprintf(&lib, "r%d := %d\n\n", i, i)
	}
	for i := range 9 {
		fmt.Fprintf(&body, "\tsome k%d\n\tdata.iam.lib[k%d] == 1\n", i, i)
	}
	f := rule("decision := {\"allow\": true, \"tenant\": \"\", \"headers\": {}} if {\n" + body.String() + "}\n")
	f["iam/lib/lib.rego"] = lib.String()
	if err := offer(t, e, f); err != nil {
		t.Fatal(err)
	}
	if got := e.Status().Engine; got.Name != policy.EngineTopdown || !strings.Contains(got.Reason, "exceeds") {
		t.Errorf("%+v", got)
	}
	if d, err := decide(e, facts{}); err != nil || !d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestTopdownAloneEvaluatesWhenConfigured(t *testing.T) {
	t.Parallel()
	e := configured(t, func(c *policy.Config) { c.Topdown = true })
	if err := offer(t, e, rule(falsified)); err != nil {
		t.Fatal(err)
	}
	if got := e.Status().Engine; got.Name != policy.EngineTopdown || got.Reason != "POLICY_ENGINE=topdown" {
		t.Errorf("%+v", got)
	}
}
