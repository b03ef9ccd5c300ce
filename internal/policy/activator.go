package policy

import "context"

// Activator decides whether an accepted candidate becomes active at once (active), or
// whether something else activates it later.
type Activator func(ctx context.Context, c *Candidate, r *Revision) (active bool, err error)

// SetActivator replaces Config.OnPassed. It must be called before the first candidate is submitted.
func (e *Engine) SetActivator(a Activator) { e.cfg.OnPassed = a }
