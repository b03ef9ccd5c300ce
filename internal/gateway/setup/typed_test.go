package setup_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // types of Any
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
)

// variants are settings that configurations differ by: clear text, TLS, and TLS with a client certificate.
var variants = map[string]setup.Settings{
	"clear text": {IAM: "http://iam-service.iam:8080", ExtAuthz: "iam-service.iam:9191", Backend: "http://backend:8080"},
	"TLS":        {IAM: "https://iam-service.iam:8080", ExtAuthz: "https://iam-service.iam:9191", Backend: "https://backend:8443", IAMCA: "/etc/iam/ca.pem"},
	"mutual TLS": {
		IAM: "https://iam-service.iam:8080", ExtAuthz: "https://authz.iam:9191", Backend: "http://backend:8080",
		IAMCA: "/etc/iam/ca.pem", IAMCert: "/etc/iam/gateway.pem", IAMKey: "/etc/iam/gateway-key.pem",
	},
}

// withoutCertificate are the kinds that refuse a client certificate.
var withoutCertificate = []string{"haproxy", "gateway-api", "apisix", "apisix-opa", "kong", "kong-opa"}

func generate(name string, s setup.Settings) ([]setup.File, error) {
	s.Headers, s.Usual, s.Listen, s.Loopback, s.Dir = policy.DefaultHeaders, true, ":8000", "127.0.0.1:18080", folders[name]
	return setup.Generate(name, s)
}

// documents are the YAML documents of a file.
func documents(t *testing.T, text string) (all []any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var doc any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		all = append(all, doc)
	}
}

func TestEachConfigurationInYAMLCanBeParsedInEachVariant(t *testing.T) {
	t.Parallel()
	for _, kind := range setup.Kinds() {
		for variant, s := range variants {
			t.Run(kind[0]+"/"+variant, func(t *testing.T) {
				t.Parallel()
				files, err := generate(kind[0], s)
				if err != nil {
					for _, name := range withoutCertificate {
						if name == kind[0] && s.IAMCert != "" && strings.Contains(fmt.Sprintf("%+v", err), "iam-cert") {
							return
						}
					}
					t.Fatalf("%+v", err)
				}
				for _, f := range files {
					if language(f.Name) == "yaml" && len(documents(t, f.Text)) == 0 {
						t.Errorf("%s is empty", f.Name)
					}
				}
			})
		}
	}
}

// Envoy's own types know each field, and their rules hold: an unknown field or an invalid value would keep Envoy from starting.
func TestTheConfigurationsOfEnvoyAreOfItsTypes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"envoy", "envoy-grpc"} {
		for variant, s := range variants {
			t.Run(name+"/"+variant, func(t *testing.T) {
				t.Parallel()
				files, err := generate(name, s)
				if err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(documents(t, files[0].Text)[0])
				if err != nil {
					t.Fatal(err)
				}
				var b bootstrapv3.Bootstrap
				if err := (protojson.UnmarshalOptions{}).Unmarshal(text, &b); err != nil {
					t.Fatal(err)
				}
				seen := map[string]bool{}
				if err := validate(&b, seen); err != nil {
					t.Error(err)
				}
				for _, wanted := range []string{"HttpConnectionManager", "ExtAuthz", "ExtAuthzPerRoute", "Router", "HeaderMutation"} {
					if !seen[wanted] {
						t.Errorf("%s was not validated, only %v", wanted, seen)
					}
				}
				if (s.IAMCA != "") != seen["UpstreamTlsContext"] || (name == "envoy") != seen["Lua"] {
					t.Errorf("validated: %v", seen)
				}
			})
		}
	}
}

// Istio hands the value of an EnvoyFilter to Envoy as it is: no definition describes it.
func TestTheFilterThatIstioHandsToEnvoyIsOfItsTypes(t *testing.T) {
	t.Parallel()
	files, err := generate("istio", variants["clear text"])
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, doc := range documents(t, files[1].Text) {
		object := doc.(map[string]any)
		if object["kind"] != "EnvoyFilter" {
			continue
		}
		patches := object["spec"].(map[string]any)["configPatches"].([]any)
		config := patches[0].(map[string]any)["patch"].(map[string]any)["value"].(map[string]any)["typed_config"]
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		var a anypb.Any
		if err := protojson.Unmarshal(text, &a); err != nil { // it is merged, so that the rules of a whole one do not hold
			t.Fatal(err)
		}
		found = true
	}
	if !found {
		t.Error("there is no EnvoyFilter")
	}
}

func TestATypoInAConfigurationOfEnvoyIsNoticed(t *testing.T) {
	t.Parallel()
	files, err := generate("envoy-grpc", variants["TLS"])
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"failure_mode_allow:":          "failure_mode_allowed:", // in an Any
		"connect_timeout: 0.2s":        "connect_timeout: soon",
		"port_value: 9191":             "port_value: 99999",
		"stat_prefix: public":          `stat_prefix: ""`,
		"cluster_name: iam_ext_authz}": `cluster_name: ""}`, // deep in an Any
	} {
		if !strings.Contains(files[0].Text, from) {
			t.Fatalf("there is no %s", from)
		}
		text, err := json.Marshal(documents(t, strings.Replace(files[0].Text, from, to, 1))[0])
		if err != nil {
			t.Fatal(err)
		}
		var b bootstrapv3.Bootstrap
		if err = (protojson.UnmarshalOptions{}).Unmarshal(text, &b); err == nil {
			err = validate(&b, map[string]bool{})
		}
		if err == nil {
			t.Errorf("%s passes", to)
		}
	}
}

// validate checks the rules of a message and of all messages in its Any fields. It adds the names of those to seen.
func validate(m proto.Message, seen map[string]bool) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return fmt.Errorf("%T: %w", m, err)
		}
	}
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return err
		}
		seen[string(inner.ProtoReflect().Descriptor().Name())] = true
		return validate(inner, seen)
	}
	var errs []error
	each := func(v protoreflect.Value) { errs = append(errs, validate(v.Message().Interface(), seen)) }
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { each(v); return true })
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			each(v)
		}
		return true
	})
	return errors.Join(errs...)
}
