package preview

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"iam-service/internal/enrich"
)

// Question is one request of preview/*.yaml. It is evaluated for each user in each of their tenants, for each
// client, and for outsiders in each tenant.
type Question struct {
	Title   string         `json:"title"`
	Token   map[string]any `json:"token,omitempty"` // claims besides iss, sub and client_id
	Request struct {
		Method string `json:"method,omitempty"`
		Scheme string `json:"scheme,omitempty"`
		Host   string `json:"host,omitempty"`
		Path   string `json:"path,omitempty"`

		ClientIP netip.Addr `json:"client_ip,omitzero"`
	} `json:"request,omitempty"`
	Of []string `json:"of,omitempty"` // users, clients; none: both

	// Now is input.now; zero: the start of the preview.
	Now time.Time `json:"now,omitzero"`
}

// DefaultQuestions are evaluated where none are configured.
func DefaultQuestions() []Question {
	q := Question{Title: "GET / with a minimal token"}
	q.Request.Method, q.Request.Path = "GET", "/"
	return []Question{q}
}

// ParseQuestions reads a file of questions.
func ParseQuestions(file string, text []byte) ([]Question, error) {
	var body struct {
		Questions []Question `json:"questions"`
	}
	if err := yaml.UnmarshalStrict(text, &body); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return body.Questions, CheckQuestions(file, body.Questions)
}

// CheckQuestions validates questions.
func CheckQuestions(where string, list []Question) error {
	seen := map[string]bool{}
	for i, q := range list {
		switch {
		case q.Title == "":
			return fmt.Errorf("%s: question %d has no title", where, i+1)
		case seen[q.Title]:
			return fmt.Errorf("%s: two questions have the title %q", where, q.Title)
		}
		seen[q.Title] = true
		for _, of := range q.Of {
			if of != "users" && of != "clients" {
				return fmt.Errorf("%s: %q: of must be users or clients, is %q", where, q.Title, of)
			}
		}
		for _, claim := range []string{"iss", "sub"} {
			if q.Token[claim] != nil {
				return fmt.Errorf("%s: %q: %s is set for each caller, and cannot be given", where, q.Title, claim)
			}
		}
		if _, err := q.request(); err != nil {
			return fmt.Errorf("%s: %q: %w", where, q.Title, err)
		}
	}
	return nil
}

func (q Question) request() (enrich.RequestFacts, error) {
	r := q.Request
	return enrich.RequestFacts{Gateway: "preview", Method: r.Method, Scheme: r.Scheme, Host: r.Host, Path: r.Path, ClientIP: r.ClientIP}.Normalized()
}

func (q Question) of(principals string) bool {
	return len(q.Of) == 0 || slices.Contains(q.Of, principals)
}
