package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

const (
	jsonMedia = "application/json"
	yamlMedia = "application/yaml"
)

// jsonFormat decodes numbers as they are written: an attribute is not a float64.
var jsonFormat = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(b []byte, v any) error {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(v); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return errors.New("the JSON ends too early")
			}
			return err
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return errors.New("the body has more than one value")
		}
		d = json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := rejectDuplicateNames(d); err != nil {
			return err
		}
		if untyped, ok := v.(*any); ok {
			*untyped = numbersToFloats(*untyped) // huma only validates it, and does not know json.Number
		}
		return nil
	},
}

func numbersToFloats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // infinite where it is out of range: no bound allows that
		return f
	case map[string]any:
		for k, x := range v {
			v[k] = numbersToFloats(x)
		}
	case []any:
		for i, x := range v {
			v[i] = numbersToFloats(x)
		}
	}
	return v
}

// rejectDuplicateNames rejects an object that has a name twice (RFC 8259, section 4): two programs could read it differently. The
// JSON is known to be well-formed.
func rejectDuplicateNames(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	names := map[any]bool{}
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if names[name] {
				return fmt.Errorf("the name %q is twice in an object", name)
			}
			names[name] = true
		}
		if err := rejectDuplicateNames(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// yamlToJSON converts bodies of routes that take YAML.
func (a *server) yamlToJSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isYAML(r.Header.Get("Content-Type")) || !a.routeOf(r).takes(yamlMedia) {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			err = rejectAliases(body)
		}
		if err == nil {
			body, err = yaml.YAMLToJSONStrict(body)
		}
		if err != nil {
			e := &iam.Error{Kind: iam.Malformed, Detail: "the body is not valid YAML: " + strings.Join(strings.Fields(err.Error()), " ")}
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				e.Kind, e.Detail = iam.TooLarge, fmt.Sprintf("at most %d bytes are allowed", maxBody)
			}
			problem.Write(w, problem.New(r.Context(), e, problem.RequestID(r)))
			return
		}
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", jsonMedia)
		next.ServeHTTP(w, r)
	})
}

func isYAML(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	return media == yamlMedia || media == "application/x-yaml" || media == "text/yaml"
}

// rejectAliases rejects YAML that refers to itself: a few bytes of it can expand to gigabytes.
func rejectAliases(body []byte) error {
	var doc, more yamlv3.Node
	d := yamlv3.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&doc); err != nil {
		return err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("only one document is allowed")
	}
	var walk func(n *yamlv3.Node) error
	walk = func(n *yamlv3.Node) error {
		if n.Kind == yamlv3.AliasNode || n.Anchor != "" {
			return fmt.Errorf("line %d: anchors and aliases are not allowed", n.Line)
		}
		for _, c := range n.Content {
			if err := walk(c); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(&doc)
}
