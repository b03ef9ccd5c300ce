package policy

import "context"

// Activator decides whether an accepted candidate becomes active at once (active), or
// whether something else activates it later. An error rejects the candidate; one of kind
// Unavailable lets it be submitted again.
type Activator func(ctx context.Context, c *Candidate, r *Revision) (active bool, err error)

// SetActivator sets Config.Activator where it is created after the engine, which it needs. It must be called before the
// first candidate is submitted.
func (e *Engine) SetActivator(a Activator) { e.cfg.Activator = a }
