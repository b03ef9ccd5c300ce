package rauth_test

import (
	"log/slog"
	"testing"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/clients/rauth/rauthtest"
	"iam-service/internal/dev/devhydra"
	"iam-service/internal/iam"
)

// The stand-in must be no kinder than the real provider: both pass the same suite.
func TestTheAdapterWorksAgainstOryHydra(t *testing.T) {
	h := devhydra.ForTest(t)
	c, err := rauth.New(rauth.Config{URL: h.Admin, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rauthtest.Run(t, c, func(id string, secret iam.Secret) bool {
		_, err := h.ByCredentials(t.Context(), id, string(secret), "", "")
		return err == nil
	})
}
