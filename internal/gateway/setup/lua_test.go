package setup_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scriptIn finds the first script in a document: the value of a key, or the first of its list.
func scriptIn(doc any, key string) string {
	switch v := doc.(type) {
	case map[string]any:
		switch found := v[key].(type) {
		case string:
			return found
		case []any:
			if s, ok := found[0].(string); ok {
				return s
			}
		}
		for _, child := range v {
			if s := scriptIn(child, key); s != "" {
				return s
			}
		}
	case []any:
		for _, child := range v {
			if s := scriptIn(child, key); s != "" {
				return s
			}
		}
	}
	return ""
}

// request is a table of headers in Lua, with what is dropped, and what must be left of it.
const request = `
local sent = { [":path"] = "/", ["accept"] = "*/*", ["x-active-tenant-id"] = "acme", ["authorization"] = "Bearer x",
  ["x_user_id"] = "forged", ["x.user.id"] = "forged", ["x!user-id"] = "forged", ["x-user_id"] = "forged", ["x~tenant~id"] = "forged" }
local function left(foreign)
  for name, value in pairs(sent) do
    if value == "forged" then error(name .. " is left") end
  end
  for _, name in ipairs({ "accept", "x-active-tenant-id", "authorization" }) do
    if not sent[name] then error(name .. " is lost") end
  end
end
`

// The gateways that these scripts are for are not here: HAProxy's Lua runs them, with stand-ins for what the gateway gives them.
func TestTheScriptsForGatewaysDropEachAlias(t *testing.T) {
	t.Parallel()
	var haproxy string
	for _, p := range programs {
		if p.kind == "haproxy" {
			haproxy = p.find(t)
		}
	}
	for _, c := range []struct{ kind, key, before, after string }{
		{
			kind: "envoy", key: "inline_string",
			before: `local headers = setmetatable({ remove = function(_, name) sent[name] = nil end }, { __pairs = function() return next, sent, nil end })`,
			after:  `envoy_on_request({ headers = function() return headers end }) if not sent[":path"] then error("the path is lost") end left()`,
		},
		{
			kind: "apisix", key: "functions", before: apisix,
			after: `script()({}, {}) left() if sent["x-rewrite-url"] or sent["connection"] then error("what is of a gateway is left") end`,
		},
		{
			kind: "apisix-opa", key: "functions", before: apisix,
			after: `sent["X-User-ID"] = "forged" script()({}, {}) left()`,
		},
		{
			kind: "kong-opa", key: "access",
			before: `sent["x-rewrite-url"], sent["x-user-id"], sent[":path"] = "forged", "forged", nil
kong = { request = { get_headers = function() local copy = {} for k, v in pairs(sent) do copy[k] = v end return copy end },
  service = { request = { clear_header = function(name) sent[name] = nil end } }, response = { exit = function(status) error("exit " .. status) end } }`,
			after: `script() left()`,
		},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			files, err := generate(c.kind, variants["clear text"])
			if err != nil {
				t.Fatal(err)
			}
			script := scriptIn(documents(t, files[0].Text)[0], c.key)
			if script == "" {
				t.Fatal("there is no script")
			}
			if c.kind != "envoy" {
				script = "local function script()\n" + script + "\nend"
			}
			run := func(script string) (string, error) {
				dir := t.TempDir()
				lua, config := filepath.Join(dir, "script.lua"), filepath.Join(dir, "haproxy.cfg")
				for file, text := range map[string]string{lua: request + c.before + "\n" + script + "\n" + c.after + "\n", config: "global\n    lua-load " + lua + "\nfrontend none\n    mode http\n    timeout client 1s\n    bind 127.0.0.1:1\n"} {
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				out, err := exec.CommandContext(t.Context(), haproxy, "-c", "-f", config).CombinedOutput()
				return string(out), err
			}
			if out, err := run(script); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if out, err := run("function envoy_on_request() end\nlocal function script() return function() end end"); err == nil || !strings.Contains(out, "is left") {
				t.Errorf("a script that drops nothing: %v\n%s", err, out)
			}
		})
	}
}

const apisix = `sent["x-rewrite-url"], sent["connection"], sent[":path"] = "forged", "x-user-id", nil
package.loaded["apisix.core"] = { request = { set_header = function(_, name, value) sent[name] = value sent[name:lower()] = value end,
  header = function(_, name) return sent[name:lower()] end } }
ngx = { req = { get_headers = function() local copy = {} for k, v in pairs(sent) do copy[k] = v end return copy end } }`
