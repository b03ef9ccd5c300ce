package directory

import (
	"context"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/iam"
)

// Direct reads the same paths as a View, from a Loader and from no cache: for a
// decision that must depend on the facts of one transaction alone. It is used by one goroutine.
type Direct struct {
	loader  Loader
	issuers iam.Issuers
	issuer  iam.Issuer
	waited  time.Duration
	read    []*entry
}

// NewDirect returns a view on behalf of a token of the issuer.
func NewDirect(loader Loader, issuers iam.Issuers, issuer string) *Direct {
	d := &Direct{loader: loader, issuers: issuers}
	d.issuer, _ = issuers.Find(issuer) // unknown: reaches nothing
	return d
}

// Waited is how long loads took so far.
func (d *Direct) Waited() time.Duration { return d.waited }

// Read returns the value of one path below data.directory, with the errors of View.Read.
func (d *Direct) Read(ctx context.Context, path storage.Path) (ast.Value, error) {
	kd, first, second, rest, err := split(path)
	if err != nil {
		return nil, err
	}
	if !readable(kd, first, second, d.issuer) {
		return nil, errNotFound
	}
	e, err := d.load(ctx, named{kd, first, second})
	if err != nil {
		return nil, err
	}
	if e.doc == nil {
		return nil, errNotFound
	}
	if v := Find(e.doc.value, rest); v != nil {
		return v, nil
	}
	return nil, errNotFound
}

func (d *Direct) load(ctx context.Context, of named) (*entry, error) {
	for _, e := range d.read {
		if e.named == of {
			return e, nil
		}
	}
	began := time.Now()
	defer func() { d.waited += time.Since(began) }()
	e := &entry{named: of}
	var err error
	if e.doc, _, err = build(ctx, d.loader, d.issuers, of); err != nil {
		return nil, unavailable("facts_unavailable", err)
	}
	d.read = append(d.read, e)
	return e, nil
}
