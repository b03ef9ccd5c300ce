package probe_test

import (
	"bytes"
	"strings"
	"testing"

	"iam-service/internal/gateway/probe"
)

func run(t *testing.T, cfg probe.Config) probe.Report {
	t.Helper()
	report, err := probe.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	report.Text(&b)
	t.Log(b.String())
	return report
}

func TestAGatewayWithEveryDefenceHasNoFault(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	r := run(t, config(serving(t, guarded(backend, nil)), backend))
	if len(r.Faults) > 0 {
		t.Errorf("%d faults", len(r.Faults))
	}
	for _, p := range r.Protocols {
		if !p.Tested {
			t.Errorf("%s was not tested: %s", p.Name, p.Why)
		}
	}
	if r.Requests < 1000 {
		t.Errorf("%d requests", r.Requests)
	}
	for _, h := range r.Headers {
		if h.Safe < 100 {
			t.Errorf("%s: safe %d times: what is refused shows nothing", h.Name, h.Safe)
		}
	}
}

func TestEachMissingDefenceIsNamed(t *testing.T) {
	t.Parallel()
	for defence, want := range map[string][]probe.Kind{
		"deletion":                 {probe.Forged},
		"aliases":                  {probe.Alias},
		"removal after hop-by-hop": {probe.Lost},
		"single lines":             {probe.Twice},
		"single token":             {probe.Changed, probe.Twice},
		"hint":                     {probe.Hint},
		"one decoding":             {probe.Path},
		"refusal of h2c":           {probe.Smuggled},
		"trailers apart":           {probe.Smuggled},
		"quiet denials":            {probe.Leak},
		"own status":               {probe.Broken},
		"own uri":                  {probe.Bypass},
		"all methods":              {probe.Bypass},
	} {
		t.Run(defence, func(t *testing.T) {
			t.Parallel()
			_, backend := echo(t)
			r := run(t, config(serving(t, guarded(backend, without{defence: true})), backend))
			for _, k := range want {
				if r.Kinds[k] == 0 {
					t.Errorf("no fault %s", k)
				}
			}
			for _, f := range r.Faults {
				if f.Reproduce == "" || strings.Contains(f.Reproduce, "token-of-") || strings.ContainsAny(f.Reproduce, "\r\n") {
					t.Errorf("%s: %q does not reproduce it, or shows a token", f.Attack, f.Reproduce)
				}
			}
		})
	}
}
