package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/postgres"
	"iam-service/migrations"
)

// output runs a command of the program, with the plant's settings.
func (p *plant) output(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	cmd := p.command()
	limited := exec.CommandContext(ctx, cmd.Path, args...)
	limited.Args[0], limited.Env = cmd.Args[0], cmd.Env
	out, err := limited.CombinedOutput()
	return string(out), err
}

// enriched asks a gateway's listener about a user of R-Auth.
func (p *plant) enriched(gateway, subject string) (int, http.Header) {
	p.Helper()
	token, err := p.rauth.Mint("ES256", map[string]any{"sub": subject, "client_id": "web"})
	p.ok(err)
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, "http://"+gateway+"/system/enrich-token", nil)
	p.ok(err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	_ = resp.Body.Close() // status and headers are all there is
	return resp.StatusCode, resp.Header
}

// The program of the release before serves on the schema of this commit, next to one of this commit: it starts, decides,
// changes, announces and activates, and each sees what the other has changed. ".ci/upgrade" builds it.
func TestTheReleaseBeforeRunsOnThisSchema(t *testing.T) {
	t.Parallel()
	before := os.Getenv("BEFORE")
	if before == "" {
		t.Skip("BEFORE names no program: make test-upgrade builds that of the release before")
	}
	addrs, err := freeport.Addrs(3)
	if err != nil {
		t.Fatal(err)
	}
	old, now := addrs[0], addrs[1]
	p := newPlant(t, func(p *plant) {
		p.program = before
		p.settings = []string{"GATEWAY_ADDR=" + old, "POLICY_ACTIVATION=managed", "POLICY_ALLOW_UNSIGNED=1"}
	})
	next := p.command("GATEWAY_ADDR="+now, "OPS_ADDR="+addrs[2])
	next.Path = os.Args[0]
	p.ok(next.Start())
	t.Cleanup(func() { _ = next.Process.Kill(); _ = next.Wait() }) // it may have ended
	p.until("this commit's program is ready", func() bool {
		resp, err := http.Get("http://" + addrs[2] + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close() // the status says it
		return resp.StatusCode == http.StatusOK
	})
	p.ok(lived(p))
	if got := p.call("POST", "/v1/clients", map[string]any{"tenant": "acme", "client_name": "billing", "grant_types": []string{"client_credentials"}}); got.status != 201 {
		t.Fatalf("answered %d %v; %s", got.status, got.body, p.logged())
	}
	for name, gateway := range map[string]string{"the release before": old, "this commit": now} {
		p.until(name+" authorizes a new member", func() bool {
			status, got := p.enriched(gateway, "alice")
			return status == http.StatusOK && got.Get("X-User-Roles") == "reader"
		})
	}
	p.until("the change is announced", func() bool {
		for _, m := range p.messages() {
			if strings.Contains(string(m), "ClientCreated.v1") {
				return true
			}
		}
		return false
	})
	bundle := filepath.Join(t.TempDir(), "iam.tar.gz")
	out, err := p.output("policy", "build", "../../policies", "-o", bundle)
	if err == nil {
		out, err = p.output("policy", "push", bundle)
	}
	stored := regexp.MustCompile(`(?m)^revision (\w+) stored`).FindStringSubmatch(out)
	if err != nil || stored == nil {
		t.Fatalf("push: %v %s", err, out)
	}
	p.until("it activates a policy on both", func() bool { out, err = p.output("policy", "activate", stored[1]); return err == nil })
	for name, gateway := range map[string]string{"the release before": old, "this commit": now} {
		p.until(name+" decides by it", func() bool {
			status, got := p.enriched(gateway, "alice")
			return status == http.StatusOK && got.Get("X-Policy-Revision") == stored[1]
		})
	}
	if out, err := p.output("audit", "verify"); err != nil {
		t.Errorf("the audit: %v %s", err, out)
	}
}

// This program's part of the matrix: on an older schema it does not start and says why, migrating that one keeps its rows,
// and a newer one does not stop it.
func TestWhichSchemasTheProgramStartsOn(t *testing.T) {
	t.Parallel()
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	newest := len(steps)
	start := func(t *testing.T, database string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "serve")
		cmd.Args[0] = "iam-service"
		cmd.Env = []string{"DATABASE_URL=" + database, "RAUTH_URL=http://127.0.0.1:1", "RAUTH_AUDIENCES=x", "GATEWAY_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0"}
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			t.Fatal("it does not end")
		}
		return string(out), err
	}
	for older := 1; older <= 3; older++ {
		t.Run(fmt.Sprintf("%d migrations older", older), func(t *testing.T) {
			t.Parallel()
			database := pgtest.EmptyURL(t)
			if _, err := postgres.Migrate(t.Context(), database, postgres.Up); err != nil {
				t.Fatal(err)
			}
			p := newPlantAt(t, database)
			p.ok(lived(p))
			p.kill()
			for range older {
				if _, err := postgres.Migrate(t.Context(), database, postgres.Down); err != nil {
					t.Fatal(err)
				}
			}
			out, err := start(t, p.proxy.URL)
			if want := fmt.Sprintf("the schema is at version %d and this program needs %d", newest-older, newest); err == nil || !strings.Contains(out, want) {
				t.Errorf("it starts on an older schema: %v %s", err, out)
			}
			if _, err := postgres.Migrate(t.Context(), database, postgres.Up); err != nil {
				t.Fatal(err)
			}
			p.start()
			if got := p.call("GET", "/v1/tenants/acme/members", nil); got.status != 200 || !strings.Contains(fmt.Sprint(got.body), "reader") {
				t.Errorf("after the migration: %d %v", got.status, got.body)
			}
			if out, err := p.output("audit", "verify"); err != nil {
				t.Errorf("the audit after the migration: %v %s", err, out)
			}
		})
	}
	t.Run("newer", func(t *testing.T) {
		t.Parallel()
		gateway, err := freeport.Addrs(1)
		if err != nil {
			t.Fatal(err)
		}
		database := pgtest.URL(t)
		p := newPlantAt(t, database, func(p *plant) {
			p.settings = []string{"GATEWAY_ADDR=" + gateway[0]}
			// What the next release may do: add, with defaults.
			_, err := p.pool.Exec(p.ctx, `
				ALTER TABLE tenants ADD COLUMN later text NOT NULL DEFAULT '';
				ALTER TABLE memberships ADD COLUMN later jsonb;
				CREATE TABLE later (id bigint PRIMARY KEY);
				INSERT INTO goose_db_version (version_id, is_applied) VALUES (`+fmt.Sprint(newest+1)+`, true)`)
			p.ok(err)
		})
		p.ok(lived(p))
		p.until("it decides", func() bool { status, _ := p.enriched(gateway[0], "alice"); return status == http.StatusOK })
	})
}

// lived creates a tenant with a role and a member.
func lived(p *plant) error {
	for _, r := range []struct {
		path string
		body map[string]any
	}{
		{path: "/v1/tenants", body: map[string]any{"id": "acme", "slug": "acme", "name": "Acme"}},
		{path: "/v1/tenants/acme/roles", body: map[string]any{"name": "reader", "permissions": []string{"document:read"}}},
		{path: "/v1/tenants/acme/members", body: map[string]any{"subject": "alice", "roles": []string{"reader"}}},
	} {
		if got := p.call("POST", r.path, r.body); got.status != http.StatusCreated {
			return fmt.Errorf("%s: %d %v", r.path, got.status, got.body)
		}
	}
	return nil
}
