package clients_test

import (
	"testing"

	"iam-service/internal/clients"
	"iam-service/internal/clients/rauth"
)

// Every reason for which the adapter fails is a sentence of its own, and what is not known is none of the provider's words.
func TestEveryFailureOfAnOperationIsASentence(t *testing.T) {
	t.Parallel()
	unknown := clients.FailureOf("failed").Detail
	seen := map[string]string{unknown: "failed"}
	reasons := []string{"idp_refused", "idp_ignores_client_id", "client_id_taken", "busy"}
	for _, r := range rauth.Reasons {
		reasons = append(reasons, "idp_"+r)
	}
	for _, r := range []string{"connection", "rate_limited", "server_error", "timeout", "unauthorized"} {
		reasons = append(reasons, "idp_token_"+r)
	}
	for _, r := range reasons {
		detail := clients.FailureOf(r).Detail
		if other, twice := seen[detail]; twice {
			t.Errorf("%s is described as %s: %q", r, other, detail)
		}
		seen[detail] = r
	}
	for reason, want := range map[string]clients.Failure{
		"idp_refused:/redirect_uris": {Reason: "idp_refused", Field: "/redirect_uris", Detail: "the identity provider rejects this client, because of /redirect_uris"},
		"what is this":               {Reason: "what is this", Detail: unknown},
	} {
		if got := clients.FailureOf(reason); got != want {
			t.Errorf("%s: got %+v", reason, got)
		}
	}
}
