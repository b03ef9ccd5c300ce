package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Line is one line of an export: one of its fields is set.
type Line struct {
	Tenant  *LineTenant  `json:"tenant,omitempty"`
	Role    *LineRole    `json:"role,omitempty"`
	Mapping *LineMapping `json:"mapping,omitempty"`
	Member  *LineMember  `json:"member,omitempty"`
}

// Contents of lines. The tenant comes first; a role comes after those that it inherits.
type (
	// LineTenant is the tenant itself.
	LineTenant struct {
		ID         string         `json:"id"`
		Slug       string         `json:"slug"`
		Name       string         `json:"name"`
		Status     string         `json:"status"`
		Attributes map[string]any `json:"attributes,omitempty"`
	}
	// LineRole is one of its roles.
	LineRole struct {
		Name        string   `json:"name"`
		Permissions []string `json:"permissions,omitempty"`
		Inherits    []string `json:"inherits,omitempty"`
		Description string   `json:"description,omitempty"`

		Request *iam.Requestable `json:"request,omitempty"`
	}
	// LineMapping is one of its mappings.
	LineMapping struct {
		Issuer string   `json:"issuer"`
		Claim  string   `json:"claim"`
		Value  string   `json:"value"`
		Roles  []string `json:"roles"`
	}
	// LineMember is one of its members.
	LineMember struct {
		Issuer     string         `json:"issuer"`
		Subject    string         `json:"subject"`
		Status     string         `json:"status"`
		Roles      []string       `json:"roles,omitempty"`
		Attributes map[string]any `json:"attributes,omitempty"`
		ExpiresAt  *time.Time     `json:"expires_at,omitempty"`

		RoleTerms map[string]iam.RoleTerm `json:"role_terms,omitempty"`
	}
)

// Export writes a tenant line by line: tenant, roles and mappings of one snapshot, then its
// members, page by page. Global roles are not part of it.
func (s *Service) Export(ctx context.Context, c Caller, tenant string, write func(Line) error) error {
	lines, err := Do(ctx, s, c, Task{Action: "tenant:export", Tenant: tenant}, func(ctx context.Context, w *Work) ([]Line, error) {
		t, err := w.Tenant(ctx, tenant)
		if err != nil {
			return nil, iam.Errorf(iam.NotFound, "there is no tenant %q", tenant)
		}
		lines := []Line{{Tenant: &LineTenant{t.ID, t.Slug, t.Name, t.Status, t.Attributes}}}
		roles, err := w.Roles(ctx, tenant)
		if err != nil {
			return nil, err
		}
		for _, r := range parentsFirst(roles) {
			if r.Tenant == tenant {
				lines = append(lines, Line{Role: &LineRole{r.Name, r.Permissions, r.Inherits, r.Description, r.Request}})
			}
		}
		mappings, err := w.Mappings(ctx, tenant)
		for _, m := range mappings {
			lines = append(lines, Line{Mapping: &LineMapping{m.Issuer, m.Claim, m.Value, m.Roles}})
		}
		return lines, err
	})
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := write(l); err != nil {
			return err
		}
	}
	for after := ""; ; {
		page, err := Do(ctx, s, c, Task{Action: "tenant:export", Tenant: tenant}, func(ctx context.Context, w *Work) ([]iam.Member, error) {
			return w.Members(ctx, tenant, postgres.MemberFilter{After: after, Limit: MaxBatch})
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, m := range page {
			l := &LineMember{m.Issuer, m.Subject, m.Status, m.Roles, m.Attributes, nil, m.Tidy().Terms}
			if !m.ExpiresAt.IsZero() {
				at := m.ExpiresAt.UTC()
				l.ExpiresAt = &at
			}
			if err := write(Line{Member: l}); err != nil {
				return err
			}
			after = m.User
		}
	}
}

// parentsFirst orders roles so that each comes after those that it inherits.
func parentsFirst(roles []iam.Role) []iam.Role {
	out := make([]iam.Role, 0, len(roles))
	done := map[string]bool{}
	var put func(r iam.Role)
	put = func(r iam.Role) {
		if done[r.Name] {
			return
		}
		done[r.Name] = true
		for _, p := range r.Inherits {
			if parent := findRole(roles, p); parent != nil {
				put(*parent)
			}
		}
		out = append(out, r)
	}
	for _, r := range roles {
		put(r)
	}
	return out
}

// Imported is the result of an import.
type Imported struct {
	Tenant               string
	Added, Changed, Same int

	Warning string // what differs from the lines still, since SCIM decides it; "": nothing
}

func (sum *Imported) count(e Effect) {
	switch e {
	case Added:
		sum.Added++
	case Replaced:
		sum.Changed++
	case Unchanged:
		sum.Same++
	}
}

// Import reads what Export writes. The tenant, its roles and mappings are one
// transaction; members follow in transactions of MaxBatch. What equals its line is not written,
// and nothing is deleted. What the tenant's provisioning client decides (SCIM) is left, with a warning. An error names its line.
func (s *Service) Import(ctx context.Context, c Caller, in io.Reader) (sum Imported, err error) {
	var left LeftToSCIM
	defer func() { sum.Warning = left.warning() }()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	var head []numbered
	var batch []numbered
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		return s.importHead(ctx, c, head, &sum)
	}
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return s.importMembers(ctx, c, batch, &sum, &left)
	}
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		l := numbered{n: n}
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.UseNumber()
		d.DisallowUnknownFields()
		if err := d.Decode(&l.Line); err != nil {
			return sum, fmt.Errorf("line %d: %w", n, err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return sum, fmt.Errorf("line %d: has more than one value", n)
		}
		if l.contents() != 1 {
			return sum, fmt.Errorf("line %d: must be one tenant, role, mapping or member, and has %d of them", n, l.contents())
		}
		switch {
		case sum.Tenant == "" && l.Tenant == nil:
			return sum, fmt.Errorf("line %d: the first line must be the tenant", n)
		case l.Tenant != nil && sum.Tenant != "":
			return sum, fmt.Errorf("line %d: an import has one tenant", n)
		case l.Tenant != nil:
			sum.Tenant = l.Tenant.ID
			head = append(head, l)
		case l.Member != nil:
			if err := begin(); err != nil {
				return sum, err
			}
			if batch = append(batch, l); len(batch) == MaxBatch {
				if err := flush(); err != nil {
					return sum, err
				}
			}
		case begun:
			return sum, fmt.Errorf("line %d: roles and mappings must come before members", n)
		default:
			head = append(head, l)
		}
	}
	if err := lines.Err(); err != nil {
		return sum, fmt.Errorf("read the import: %w", err)
	}
	if len(head) == 0 {
		return sum, errors.New("the import is empty")
	}
	if err := begin(); err != nil {
		return sum, err
	}
	return sum, flush()
}

// numbered is a line and its number.
type numbered struct {
	Line
	n int
}

// contents counts the contents of a line.
func (l numbered) contents() (n int) {
	for _, is := range []bool{l.Tenant != nil, l.Role != nil, l.Mapping != nil, l.Member != nil} {
		if is {
			n++
		}
	}
	return n
}

func (l numbered) fail(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", l.n, err)
}

func (s *Service) importHead(ctx context.Context, c Caller, head []numbered, sum *Imported) error {
	var got Imported
	tenant := sum.Tenant
	err := s.Do(ctx, c, Task{Action: "tenant:import", Tenant: tenant, Writes: true}, func(ctx context.Context, w *Work) error {
		got = Imported{}
		roles, lines, err := w.importBegins(ctx, head, &got)
		if err != nil {
			return err
		}
		if err := w.importRoles(ctx, tenant, lines, &roles, &got); err != nil {
			return err
		}
		return w.importMappings(ctx, tenant, lines, roles, &got)
	})
	sum.Added, sum.Changed, sum.Same = sum.Added+got.Added, sum.Changed+got.Changed, sum.Same+got.Same
	return err
}

// importBegins writes the tenant itself, and returns the roles that it sees and the remaining
// lines.
func (w *Work) importBegins(ctx context.Context, head []numbered, sum *Imported) ([]iam.Role, []numbered, error) {
	l := head[0]
	e, err := w.importTenant(ctx, *l.Tenant)
	if err != nil {
		return nil, nil, l.fail(err)
	}
	sum.count(e)
	roles, err := w.lockRoles(ctx, l.Tenant.ID)
	return roles, head[1:], err
}

// importRoles writes all roles at once, each after those that it inherits.
func (w *Work) importRoles(ctx context.Context, tenant string, lines []numbered, roles *[]iam.Role, sum *Imported) error {
	var fresh []iam.Role
	line := map[string]numbered{}
	for _, l := range lines {
		if l.Role == nil {
			continue
		}
		r := iam.Role{Tenant: tenant, Name: l.Role.Name, Permissions: l.Role.Permissions, Inherits: l.Role.Inherits, Description: l.Role.Description, Request: l.Role.Request}
		if _, twice := line[r.Name]; twice {
			return l.fail(iam.Errorf(iam.Invalid, "the role %q is a duplicate", r.Name))
		}
		if err := iam.InvalidFields(r.Check()); err != nil {
			return l.fail(err)
		}
		line[r.Name] = l
		fresh = append(fresh, r)
	}
	var changes []roleChange
	for _, r := range parentsFirst(fresh) {
		before := findRole(*roles, r.Name)
		switch {
		case before != nil && before.Tenant != tenant:
			return line[r.Name].fail(iam.Errorf(iam.Conflict, "%q is a global role here", r.Name))
		case strings.HasPrefix(r.Name, "iam:"):
			return line[r.Name].fail(iam.Errorf(iam.Invalid, "names that begin with iam: are reserved"))
		}
		changes = append(changes, roleChange{before, r})
	}
	if err := w.putRoles(ctx, tenant, changes); err != nil {
		for i := len(changes) - 1; i >= 0; i-- {
			err = iam.Rebase(err, fmt.Sprintf("/%d/", i), fmt.Sprintf("line %d: /", line[changes[i].after.Name].n))
		}
		return err
	}
	for _, c := range changes {
		sum.count(effect(c.before != nil, c.before != nil && c.before.Version != c.after.Version))
	}
	var err error
	*roles, err = w.tx.Roles(ctx, tenant)
	return err
}

// importMappings writes all mappings at once.
func (w *Work) importMappings(ctx context.Context, tenant string, lines []numbered, roles []iam.Role, sum *Imported) error {
	there, err := w.tx.Mappings(ctx, tenant)
	if err != nil {
		return err
	}
	byID := map[string]*iam.Mapping{}
	for i := range there {
		byID[there[i].ID()] = &there[i]
	}
	var changes []mappingChange
	var from []numbered
	seen := map[string]bool{}
	for _, l := range lines {
		if l.Mapping == nil {
			continue
		}
		m := iam.Mapping{Tenant: tenant, Issuer: l.Mapping.Issuer, Claim: l.Mapping.Claim, Value: l.Mapping.Value, Roles: l.Mapping.Roles}
		if seen[m.ID()] {
			return l.fail(iam.Errorf(iam.Invalid, "the mapping is a duplicate"))
		}
		seen[m.ID()] = true
		changes, from = append(changes, mappingChange{byID[m.ID()], m}), append(from, l)
	}
	graph := iam.NewGraph(roles)
	if err := w.putMappings(ctx, tenant, changes, w.holding(tenant, graph), graph); err != nil {
		for i := len(from) - 1; i >= 0; i-- {
			err = iam.Rebase(err, fmt.Sprintf("/%d/", i), fmt.Sprintf("line %d: /", from[i].n))
		}
		return err
	}
	for _, c := range changes {
		sum.count(effect(c.before != nil, c.before != nil && c.before.Version != c.after.Version))
	}
	return nil
}

func (w *Work) importTenant(ctx context.Context, l LineTenant) (Effect, error) {
	changes := len(w.entries)
	c := Condition{Absent: true}
	if _, err := w.Tenant(ctx, l.ID); err == nil {
		c = Condition{Present: true}
	}
	_, created, err := w.PutTenant(ctx, iam.Tenant{ID: l.ID, Slug: l.Slug, Name: l.Name, Attributes: l.Attributes}, c)
	if err != nil {
		return "", err
	}
	if !slices.Contains([]string{iam.TenantActive, iam.TenantSuspended, iam.TenantArchived}, l.Status) {
		return "", iam.InvalidFields([]iam.FieldError{{Pointer: "/tenant/status", Detail: fmt.Sprintf("must be active, suspended or archived, is %q", l.Status)}})
	}
	if _, err := w.SetTenantStatus(ctx, l.ID, l.Status, Condition{}); err != nil {
		return "", err
	}
	return effect(!created, len(w.entries) > changes), nil
}

func (s *Service) importMembers(ctx context.Context, c Caller, batch []numbered, sum *Imported, left *LeftToSCIM) error {
	rows := make([]Row, len(batch))
	for i, l := range batch {
		m := iam.Membership{Status: l.Member.Status, Roles: l.Member.Roles, Attributes: l.Member.Attributes, Terms: l.Member.RoleTerms}
		if l.Member.ExpiresAt != nil {
			m.ExpiresAt = *l.Member.ExpiresAt
		}
		rows[i] = Row{Issuer: l.Member.Issuer, Subject: l.Member.Subject, Membership: m, Restored: true}
	}
	var here LeftToSCIM
	task := Task{Action: "tenant:import", Tenant: sum.Tenant, Writes: true}
	outcomes, err := Do(ctx, s, c, task, func(ctx context.Context, w *Work) ([]Outcome, error) {
		here = LeftToSCIM{}
		return w.PutMembers(ctx, sum.Tenant, Batch{Rows: rows, Left: &here})
	})
	if err == nil {
		left.add(here)
	}
	if e, ok := errors.AsType[*iam.Error](err); ok && len(e.Fields) > 0 {
		for i := len(batch) - 1; i >= 0; i-- { // from positions in the batch to lines
			err = iam.Rebase(err, fmt.Sprintf("/%d/", i), fmt.Sprintf("line %d: /", batch[i].n))
			err = iam.Rebase(err, fmt.Sprintf("/%d", i), fmt.Sprintf("line %d", batch[i].n))
		}
	}
	for _, o := range outcomes { // none after an error
		sum.count(o.Effect)
	}
	return err
}
