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

// jsonFormat keeps numbers as they are written: an attribute is not a float64.
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
			return errors.New("the body holds more than one value")
		}
		d = json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := noTwice(d); err != nil {
			return err
		}
		if whole, ok := v.(*any); ok {
			*whole = asFloats(*whole) // what huma only validates: it knows no json.Number
		}
		return nil
	},
}

func asFloats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // out of range: infinite, which no bound allows
		return f
	case map[string]any:
		for k, x := range v {
			v[k] = asFloats(x)
		}
	case []any:
		for i, x := range v {
			v[i] = asFloats(x)
		}
	}
	return v
}

// noTwice refuses an object with one name twice (RFC 8259, section 4): two programs
// could read it differently. The JSON is known to be well-formed.
func noTwice(d *json.Decoder) error {
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
				return fmt.Errorf("the name %q stands twice in an object", name)
			}
			names[name] = true
		}
		if err := noTwice(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// yamlToJSON lets manifests be YAML, as they are in their repositories.
func yamlToJSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		manifest := r.URL.Path == "/s2s/system/sync" || strings.HasSuffix(r.URL.Path, "/manifest")
		if media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); manifest && (media == "application/yaml" || media == "application/x-yaml" || media == "text/yaml") {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
			if err == nil {
				err = noAliases(body)
			}
			if err == nil {
				body, err = yaml.YAMLToJSONStrict(body)
			}
			if err != nil {
				e := &iam.Error{Kind: iam.Malformed, Detail: "the body is not the YAML that is expected: " + strings.Join(strings.Fields(err.Error()), " ")}
				if _, large := errors.AsType[*http.MaxBytesError](err); large {
					e.Kind, e.Detail = iam.TooLarge, fmt.Sprintf("at most %d bytes are allowed", maxBody)
				}
				problem.Write(w, problem.New(e, problem.RequestID(r)))
				return
			}
			r = r.Clone(r.Context())
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Type", "application/json")
		}
		next.ServeHTTP(w, r)
	})
}

// noAliases refuses YAML that refers to itself: a few bytes of it can be gigabytes when
// they are written out.
func noAliases(body []byte) error {
	var doc, more yamlv3.Node
	d := yamlv3.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&doc); err != nil {
		return err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("one document is taken, and there are more")
	}
	var walk func(n *yamlv3.Node) error
	walk = func(n *yamlv3.Node) error {
		if n.Kind == yamlv3.AliasNode || n.Anchor != "" {
			return fmt.Errorf("line %d: anchors and aliases are not taken", n.Line)
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
