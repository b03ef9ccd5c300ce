package adminapi_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// SCIM clients of others, those of GitHub's and Databricks' SDKs (.ci/scim), provision a tenant. What they leave is as they mean it.
func TestSCIMClientsOfOthersProvisionATenant(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "scim")
	if out, err := exec.CommandContext(ctx, "go", "-C", "../../.ci/scim", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the clients: %v\n%s", err, out)
	}
	w := newWorld(t, settings{})
	p := w.provision("acme")
	for _, client := range []string{"github", "databricks"} {
		t.Run(client, func(t *testing.T) {
			if out, err := exec.CommandContext(ctx, program, client, w.admin, "acme", p.token, client).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			find := func(name string) map[string]any {
				t.Helper()
				items := w.want(200, "root", "GET", "/v1/tenants/acme/members?subject="+client+"-"+name, nil).items()
				if len(items) == 0 {
					return nil
				}
				return items[0]
			}
			ada, bob := find("ada"), find("bob")
			if ada == nil || ada["status"] != "active" || bob == nil || bob["status"] != "suspended" || find("eve") != nil {
				t.Fatalf("ada is %v, bob is %v, eve is %v", ada, bob, find("eve"))
			}
			groups := w.want(200, "root", "GET", "/v1/tenants/acme/scim-groups", nil).items()
			i := len(groups)
			for j, g := range groups {
				if g["display_name"] == client+" editors" {
					i = j
				}
				if g["display_name"] == client+" spare" {
					t.Errorf("the deleted group is there: %v", g)
				}
			}
			if i == len(groups) || groups[i]["members"] != float64(1) {
				t.Fatalf("groups: %v", groups)
			}
			id, _ := groups[i]["id"].(string)
			p.role(client + "-writer")
			p.maps(id, client+"-writer")
			user, _ := ada["user"].(string)
			if got := p.roles(user); got != client+"-writer" {
				t.Errorf("ada holds %q", got)
			}
		})
	}
}
