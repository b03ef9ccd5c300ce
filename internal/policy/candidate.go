package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Candidate is a policy that is not yet accepted.
type Candidate struct {
	Source  string            // where it came from, for display
	Name    string            // the revision of its manifest; may be empty
	Roots   []string          // the parts of data that its manifests claim
	Modules map[string]string // file → Rego
	Data    map[string]any
	Cases   []Case         // acceptance cases: it is rejected unless all pass
	Schemas map[string]any // of its data, by name: schemas/NAME.json

	Verified string // iam.VerifiedByKey, …
	Packed   []byte `json:"-"` // the signed bundle; nil: unsigned
	Embedded bool   `json:"-"` // part of the program: other replicas need not follow it

	files fs.FS // that it was read from; nil: a bundle, or a folder, which may have changed since
}

// Digest covers all that is evaluated or checked, and no name: two names for the same bytes
// are one policy.
func (c *Candidate) Digest() string {
	h := sha256.New()
	for _, file := range slices.Sorted(maps.Keys(c.Modules)) {
		fmt.Fprintf(h, "%d %s %d %s", len(file), file, len(c.Modules[file]), c.Modules[file])
	}
	data, err := json.Marshal(c.Data) // sorts keys
	if err != nil {
		data = []byte(err.Error()) // not JSON: the gate rejects it
	}
	fmt.Fprintf(h, "%d %s %q", len(data), data, c.Roots)
	if len(c.Cases) > 0 {
		cases, err := json.Marshal(c.Cases)
		if err != nil {
			cases = []byte(err.Error()) // as above
		}
		fmt.Fprintf(h, "%d %s", len(cases), cases)
	}
	if len(c.Schemas) > 0 {
		schemas, err := json.Marshal(c.Schemas)
		if err != nil {
			schemas = []byte(err.Error()) // as above
		}
		fmt.Fprintf(h, "schemas %d %s", len(schemas), schemas)
	}
	return hex.EncodeToString(h.Sum(nil))
}
