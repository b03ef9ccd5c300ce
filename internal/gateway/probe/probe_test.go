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
	for defence, c := range map[string]struct {
		by   string // the attacks that show it
		want []probe.Kind
	}{
		"deletion":                 {by: "header", want: []probe.Kind{probe.Forged}},
		"open path":                {by: "header", want: []probe.Kind{probe.Forged}},
		"aliases":                  {by: "alias", want: []probe.Kind{probe.Alias}},
		"removal after hop-by-hop": {by: "hop-by-hop", want: []probe.Kind{probe.Lost}},
		"single lines":             {by: "header", want: []probe.Kind{probe.Twice}},
		"single token":             {by: "credentials", want: []probe.Kind{probe.Changed, probe.Twice}},
		"hint":                     {by: "hint", want: []probe.Kind{probe.Hint}},
		"one decoding":             {by: "path", want: []probe.Kind{probe.Path}},
		"refusal of h2c":           {by: "smuggling", want: []probe.Kind{probe.Smuggled}},
		"trailers apart":           {by: "trailer", want: []probe.Kind{probe.Smuggled}},
		"quiet denials":            {by: "hint", want: []probe.Kind{probe.Leak}},
		"own status":               {by: "method", want: []probe.Kind{probe.Broken}},
		"own uri":                  {by: "forwarded", want: []probe.Kind{probe.Bypass}},
		"all methods":              {by: "method", want: []probe.Kind{probe.Bypass}},
	} {
		t.Run(defence, func(t *testing.T) {
			t.Parallel()
			_, backend := echo(t)
			cfg := config(serving(t, guarded(backend, without{defence: true})), backend)
			cfg.Only = []string{c.by}
			r := run(t, cfg)
			for _, k := range c.want {
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
