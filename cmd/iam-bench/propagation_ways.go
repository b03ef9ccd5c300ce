package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// way is a way in which a user loses a role. remove returns when the change is answered; ends instead, if given,
// returns when the role ends by itself.
type way struct {
	name string

	prepare func(ctx context.Context, user iam.UserFacts) error // after the role was granted; may be nil
	remove  func(ctx context.Context, user iam.UserFacts) error
	ends    func(ctx context.Context, user iam.UserFacts) (time.Time, error)
}

// ways are all that are measured.
func ways(b *propagationBench) []way {
	return []way{
		{name: "the role is removed", remove: func(ctx context.Context, user iam.UserFacts) error {
			m := user.Memberships[0]
			m.Roles = []string{"viewer"}
			return b.db.PutMembership(ctx, m)
		}},
		{name: "the role's term ends", ends: func(ctx context.Context, user iam.UserFacts) (time.Time, error) {
			m := user.Memberships[0]
			end := time.Now().Add(time.Second)
			m.Roles, m.Terms = []string{"editor"}, map[string]iam.RoleTerm{"editor": {ExpiresAt: end}}
			return end, b.db.PutMembership(ctx, m)
		}},
		{name: "SCIM deactivates the user", prepare: b.provision, remove: func(_ context.Context, user iam.UserFacts) error {
			return b.scim(user.Memberships[0].Tenant, http.MethodPatch, "/Users/"+user.ID, `{"Operations":[{"op":"replace","value":{"active":false}}]}`)
		}},
		{name: "SCIM deletes the user", prepare: b.provision, remove: func(_ context.Context, user iam.UserFacts) error {
			return b.scim(user.Memberships[0].Tenant, http.MethodDelete, "/Users/"+user.ID, "")
		}},
		{name: "the user leaves a SCIM group", prepare: b.provision, remove: func(_ context.Context, user iam.UserFacts) error {
			return b.scim(user.Memberships[0].Tenant, http.MethodPatch, "/Groups/"+b.groups[user.ID], `{"Operations":[{"op":"remove","path":"members[value eq \"`+user.ID+`\"]"}]}`)
		}},
		{name: "a signal revokes the session", remove: func(_ context.Context, user iam.UserFacts) error { return b.signal(user.Subject) }},
	}
}

// The stream of signals, and the variable of its secret.
const (
	signalAudience    = "https://iam.example.com"
	signalSecret      = "SIGNALS_BENCH"
	signalSecretValue = "only-for-benchmarks-on-this-machine"
)

// writeStreams writes the file of streams of the replicas.
func writeStreams(dir string, stack *devstack.Stack) (string, error) {
	file := filepath.Join(dir, "streams.yaml")
	text := fmt.Sprintf("streams:\n  - {name: bench, issuer: %q, audiences: [%q], secret_env: %s, per_minute: 100000}\n", stack.RAuth.Issuer, signalAudience, signalSecret)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// signal pushes a revocation of a user's session to the first replica.
func (b *propagationBench) signal(subject string) error {
	set, err := b.stack.RAuth.SET(map[string]any{
		"aud":    signalAudience,
		"sub_id": map[string]any{"format": "iss_sub", "iss": b.stack.RAuth.Issuer, "sub": subject},
		"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+b.all[0].admin+"/v1/signals/bench", bytes.NewReader([]byte(set)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/secevent+jwt")
	req.Header.Set("Authorization", "Bearer "+signalSecretValue)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return &statusError{resp.StatusCode}
	}
	return nil
}
