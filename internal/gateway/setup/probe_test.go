package setup_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
	"iam-service/internal/gateway/probe"
	"iam-service/internal/policy"
)

func TestTheProbeFindsNoFaultInAGatewayWithItsGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			addrs, err := freeport.Addrs(1)
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, p, "http://"+addrs[0])
			report, err := probe.Run(context.Background(), probe.Config{
				Gateway: "http://" + s.addr + "/orders", Headers: policy.DefaultHeaders, Token: s.world.Mint("alice", nil), TokenWithoutRoles: s.world.Mint("frank", nil),
				Tenant: "acme", OpenPath: "/public", ListenEcho: addrs[0], Limit: 5 * time.Minute,
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, s.log)
			}
			var text bytes.Buffer
			report.Text(&text)
			if len(report.Faults) > 0 || report.Requests < 200 {
				t.Errorf("%d faults in %d requests:\n%s", len(report.Faults), report.Requests, &text)
			}
			t.Logf("%d requests in %d ms; notes: %q", report.Requests, report.Took, report.Notes)
		})
	}
}
