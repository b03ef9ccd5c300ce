package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	_ "time/tzdata" // time.clock and its kin name zones, and our image has no files but the program

	"github.com/open-policy-agent/opa/v1/ast"
)

// AllowedBuiltins are the builtins that a policy may call: an allow-list. Excluded is each
// builtin that neither polls for cancellation nor is linear in its arguments, and each with
// an effect outside of the evaluation. A test calls each with hostile arguments.
//
// Excluded on purpose, and what to use instead:
//   - http.send, net.lookup_ip_addr, opa.runtime, rand.*, uuid.rfc4122, trace:
//     they reach outside, or make two evaluations differ;
//   - bits.*, numbers.range*, net.cidr_expand, graph.reachable_paths, walk,
//     object.subset, indexof, trim, trim_left, trim_right (trim_space, trim_prefix
//     and trim_suffix stay), strings.replace_n, replace, sprintf, strings.render_template, regex.*,
//     graphql.*, io.jwt.*, crypto.x509.*, json.*_schema, yaml.*, json.patch:
//     a few bytes of arguments can cost seconds or gigabytes, or nothing here
//     needs them. Role inheritance is prepared in the documents (closure), tokens
//     are verified before the policy runs, and paths are matched with startswith,
//     split and glob-free comparison.
var AllowedBuiltins = []string{
	"eq", "assign", "equal", "neq", "gt", "gte", "lt", "lte",
	"internal.member_2", "internal.member_3", "internal.print", "print", "internal.template_string", "internal.test_case",
	"plus", "minus", "mul", "div", "rem", "round", "ceil", "floor", "abs",
	"and", "or", "set_diff", "intersection", "union",
	"count", "sum", "max", "min", "sort",
	"array.concat", "array.slice", "array.reverse", "array.flatten",
	"object.get", "object.keys", "object.remove", "object.filter", "object.union", "object.union_n",
	"concat", "contains", "startswith", "endswith", "lower", "upper", "split", "substring", "strings.count",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.reverse", "format_int",
	"trim_prefix", "trim_suffix", "trim_space", "to_number",
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name",
	"json.marshal", "json.unmarshal", "json.is_valid", "json.filter", "json.remove",
	"base64.encode", "base64.decode", "base64.is_valid", "base64url.encode", "base64url.encode_no_pad", "base64url.decode",
	"hex.encode", "hex.decode", "urlquery.encode", "urlquery.decode",
	"crypto.sha256", "crypto.hmac.sha256", "crypto.hmac.equal",
	"graph.reachable",
	"net.cidr_contains", "net.cidr_is_valid",
	"semver.is_valid", "semver.compare",
	"time.now_ns", "time.parse_ns", "time.parse_rfc3339_ns", "time.parse_duration_ns", "time.date", "time.clock", "time.weekday",
	"time.add_date", "time.diff", "time.format",
	"rego.metadata.rule", "rego.metadata.chain",
}

// Capabilities are OPA's, reduced to the allow-list and to no network at all.
// The result is shared: do not change it.
var Capabilities = sync.OnceValue(func() *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool { return !slices.Contains(AllowedBuiltins, b.Name) })
	caps.AllowNet = []string{}
	return caps
})

// substitutes are replacements for builtins that are not allowed, by name or prefix.
var substitutes = []struct{ name, use string }{
	{"http.send", "facts of data.directory, or data in the bundle: a policy has no network"},
	{"net.lookup_ip_addr", "data in the bundle: a policy has no network"},
	{"net.cidr_", "net.cidr_contains, for each network"},
	{"opa.runtime", "data.iam.config or input.settings"},
	{"rand.", "crypto.sha256 of a part of the input: evaluations must be repeatable"},
	{"uuid.", "crypto.sha256 of a part of the input: evaluations must be repeatable"},
	{"regex.", "startswith, endswith, contains, split or strings.any_prefix_match"},
	{"glob.", "startswith, endswith, or split and a comparison of the parts"},
	{"sprintf", "a template string: $\"{x} of {y}\""},
	{"strings.render_template", "a template string: $\"{x} of {y}\""},
	{"replace", "split and concat"},
	{"strings.replace_n", "split and concat"},
	{"trim", "trim_space, trim_prefix or trim_suffix"},
	{"indexof", "contains or split"},
	{"walk", "the path of what you look for"},
	{"graph.reachable_paths", "graph.reachable, or the closure that every role in data.directory has"},
	{"numbers.range", "a set of the values: {1, 2, 3}"},
	{"bits.", "comparisons: hour >= 7"},
	{"io.jwt.", "input.token, whose claims are verified"},
	{"json.patch", "object.union, json.remove or json.filter"},
	{"json.match_schema", "is_string, is_number and the like"},
	{"json.verify_schema", "a schema in schemas/, which policy check validates"},
	{"object.subset", "object.filter and a comparison"},
	{"yaml.", "json.marshal and json.unmarshal"},
	{"crypto.", "crypto.sha256, crypto.hmac.sha256 or crypto.hmac.equal"},
	{"time.", "input.now, and time.clock, time.weekday, time.date or time.parse_rfc3339_ns"},
	{"trace", "print, in tests"},
}

// SuggestSubstitutes rewrites the compiler's errors about excluded builtins, which it reports as
// undefined: the new text suggests a replacement.
func SuggestSubstitutes(errs ast.Errors) ast.Errors {
	for _, e := range errs {
		name, ok := strings.CutPrefix(e.Message, "undefined function ")
		if !ok || ast.BuiltinMap[name] == nil {
			continue
		}
		e.Message = name + " is not allowed here"
		for _, i := range substitutes {
			if strings.HasPrefix(name, i.name) {
				e.Message = fmt.Sprintf("%s is not allowed here; use %s", name, i.use)
				break
			}
		}
	}
	return errs
}
