package gateway

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"iam-service/internal/problem"
)

// Fields of the messages that a CheckResponse consists of (envoy/service/auth/v3/external_auth.proto,
// envoy/config/core/v3/base.proto, google/protobuf/struct.proto).
const (
	fieldStatus, fieldOK, fieldMetadata        protowire.Number = 1, 3, 4 // CheckResponse
	fieldHeaders, fieldRemove                  protowire.Number = 2, 5    // OkHttpResponse
	fieldHeader, fieldAction                   protowire.Number = 1, 3    // HeaderValueOption
	fieldKey, fieldValue                       protowire.Number = 1, 2    // HeaderValue, and an entry of a map
	fieldFields, fieldString, fieldList        protowire.Number = 1, 3, 6 // Struct; Value
	fieldValues                                protowire.Number = 1       // ListValue
	overwrite                                                   = uint64(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	metadataDecision, metadataTenant, metaRole                  = "decision_id", "tenant", "roles"
)

// okEncoder encodes the CheckResponse of an allow: every identity header that has a value overwrites the client's,
// every other one is removed, and so is every alias. It writes the wire format itself: all but the values is the
// same in each response.
type okEncoder struct {
	names    []string        // in lower case, as Envoy has them; parallel to the values of an outcome
	identity map[string]bool // the same
	aliases  []byte          // fields headers_to_remove, of every response
	removed  map[string]bool // by aliases
	roles    int             // index of X-User-Roles, or -1
	empty    string          // value of a header that has none, which is no role
}

func newOKEncoder(headers []string, empty string) *okEncoder {
	e := &okEncoder{identity: map[string]bool{}, removed: map[string]bool{}, roles: slices.Index(headers, "X-User-Roles"), empty: empty}
	for _, h := range headers {
		name := strings.ToLower(h)
		e.names = append(e.names, name)
		e.identity[name] = true
	}
	for _, name := range e.names {
		// What CGI, WSGI and PHP fold, even where Envoy is configured to send only some headers
		// (allowed_headers), so that isAlias does not see the others. Envoy lets underscores through unless
		// headers_with_underscores_action says otherwise.
		for _, separator := range []string{"_", "."} {
			if alias := strings.ReplaceAll(name, "-", separator); alias != name && !e.removed[alias] {
				e.removed[alias] = true
				e.aliases = appendString(e.aliases, fieldRemove, alias)
			}
		}
	}
	return e
}

// isAlias reports whether a backend could read a name, in lower case, as that of an identity header: servers map
// every character that is neither letter nor digit to one and the same (lighttpd), or the underscore and the hyphen
// (RFC 3875, section 4.1.18).
func (e *okEncoder) isAlias(name string) bool {
	if name == "" || name[0] == ':' {
		return false
	}
	folded := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, name)
	return folded != name && e.identity[folded]
}

// encode returns the response of an allow. aliases are those that the request has.
func (e *okEncoder) encode(o *outcome, aliases []string) encoded {
	roles := ""
	if e.roles >= 0 && o.values[e.roles] != e.empty {
		roles = o.values[e.roles]
	}
	ok, metadata := e.sizeOfOK(o.values, aliases), sizeOfMetadata(o, roles)
	pool := mem.DefaultBufferPool()
	size := 2 + protowire.SizeTag(fieldOK) + protowire.SizeBytes(ok) + protowire.SizeTag(fieldMetadata) + protowire.SizeBytes(metadata)
	buffer := pool.Get(size)
	b := (*buffer)[:0]
	b = appendString(b, fieldStatus, "") // code 0: OK
	b = appendLength(b, fieldOK, ok)
	for i, v := range o.values {
		b = appendHeader(b, e.names[i], v)
	}
	b = append(b, e.aliases...)
	for _, name := range aliases {
		b = appendString(b, fieldRemove, name)
	}
	b = appendLength(b, fieldMetadata, metadata)
	b = appendMetadata(b, o, roles)
	*buffer = b
	return encoded{buffer}
}

func (e *okEncoder) sizeOfOK(values, aliases []string) int {
	n := len(e.aliases)
	for i, v := range values {
		if v == "" {
			n += sizeOfString(fieldRemove, e.names[i])
			continue
		}
		header := sizeOfHeader(e.names[i], v)
		n += protowire.SizeTag(fieldHeaders) + protowire.SizeBytes(sizeOfOption(header))
	}
	for _, name := range aliases {
		n += sizeOfString(fieldRemove, name)
	}
	return n
}

func sizeOfHeader(name, value string) int {
	return sizeOfString(fieldKey, name) + sizeOfString(fieldValue, value)
}

func sizeOfOption(header int) int {
	return protowire.SizeTag(fieldHeader) + protowire.SizeBytes(header) + protowire.SizeTag(fieldAction) + protowire.SizeVarint(overwrite)
}

// appendHeader overwrites the client's header, or removes it where there is no value.
func appendHeader(b []byte, name, value string) []byte {
	if value == "" {
		return appendString(b, fieldRemove, name)
	}
	header := sizeOfHeader(name, value)
	b = appendLength(b, fieldHeaders, sizeOfOption(header))
	b = appendLength(b, fieldHeader, header)
	b = appendString(b, fieldKey, name)
	b = appendString(b, fieldValue, value)
	b = protowire.AppendTag(b, fieldAction, protowire.VarintType)
	return protowire.AppendVarint(b, overwrite)
}

// sizeOfMetadata is that of a Struct with the decision, the tenant and the roles.
func sizeOfMetadata(o *outcome, roles string) int {
	return sizeOfEntry(metadataDecision, sizeOfString(fieldString, o.decision)) + sizeOfEntry(metadataTenant, sizeOfString(fieldString, o.tenant)) +
		sizeOfEntry(metaRole, protowire.SizeTag(fieldList)+protowire.SizeBytes(sizeOfRoles(roles)))
}

func appendMetadata(b []byte, o *outcome, roles string) []byte {
	b = appendEntry(b, metadataDecision, sizeOfString(fieldString, o.decision))
	b = appendString(b, fieldString, o.decision)
	b = appendEntry(b, metadataTenant, sizeOfString(fieldString, o.tenant))
	b = appendString(b, fieldString, o.tenant)
	list := sizeOfRoles(roles)
	b = appendEntry(b, metaRole, protowire.SizeTag(fieldList)+protowire.SizeBytes(list))
	b = appendLength(b, fieldList, list)
	for role := range eachRole(roles) {
		b = appendLength(b, fieldValues, sizeOfString(fieldString, role))
		b = appendString(b, fieldString, role)
	}
	return b
}

func sizeOfRoles(roles string) int {
	n := 0
	for role := range eachRole(roles) {
		n += protowire.SizeTag(fieldValues) + protowire.SizeBytes(sizeOfString(fieldString, role))
	}
	return n
}

// eachRole yields the roles of the value of X-User-Roles.
func eachRole(roles string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for roles != "" {
			role, rest, _ := strings.Cut(roles, ",")
			if !yield(role) {
				return
			}
			roles = rest
		}
	}
}

// sizeOfEntry is that of a field of a Struct whose value has so many bytes.
func sizeOfEntry(name string, value int) int {
	return protowire.SizeTag(fieldFields) + protowire.SizeBytes(sizeOfString(fieldKey, name)+protowire.SizeTag(fieldValue)+protowire.SizeBytes(value))
}

func appendEntry(b []byte, name string, value int) []byte {
	b = appendLength(b, fieldFields, sizeOfString(fieldKey, name)+protowire.SizeTag(fieldValue)+protowire.SizeBytes(value))
	b = appendString(b, fieldKey, name)
	return appendLength(b, fieldValue, value)
}

func sizeOfString(field protowire.Number, s string) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(len(s))
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendLength begins a message of so many bytes.
func appendLength(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n)) //nolint:gosec // a size
}

// deniedResponse is a problem document with its HTTP status. It carries no identity header.
func deniedResponse(o *outcome) *authv3.CheckResponse {
	body, err := json.Marshal(o.problem)
	if err != nil {
		body = []byte("{}") // a Document has nothing that cannot be encoded
	}
	denied := &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(o.status)}, //nolint:gosec // 401, 403 or 503
		Headers: []*corev3.HeaderValueOption{headerOption("Content-Type", "application/problem+json"), headerOption("Cache-Control", "no-store")},
		Body:    string(body) + "\n",
	}
	if o.challenge != "" {
		denied.Headers = append(denied.Headers, headerOption("WWW-Authenticate", o.challenge))
	}
	if o.status == http.StatusServiceUnavailable {
		denied.Headers = append(denied.Headers, headerOption("Retry-After", problem.RetryAfter))
	}
	return &authv3.CheckResponse{
		Status:       &rpc.Status{Code: cmp.Or(grpcCodes[o.status], int32(codes.PermissionDenied)), Message: o.problem.Title},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied},
	}
}

func headerOption(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
