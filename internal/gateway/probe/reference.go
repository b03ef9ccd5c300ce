package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// cleanRequests is how many clean requests show which values vary by themselves.
const cleanRequests = 3

// calibrate learns which protocols the gateway speaks, and what a clean request of each principal yields.
func (r *run) calibrate(ctx context.Context) error {
	for _, protocol := range []string{http1, h2} {
		p := ProtocolReport{Name: protocol, Tested: true}
		if protocol == h2 {
			why, err := r.gateway.speaks2(ctx)
			if err != nil {
				return fmt.Errorf("connect for HTTP/2: %w", err)
			}
			p.Tested, p.Why = why == "", why
		}
		for _, who := range r.principals {
			if !p.Tested {
				break
			}
			k, err := r.clean(ctx, who, protocol)
			if err != nil {
				return fmt.Errorf("clean request, %s, over %s: %w", who.name, protocol, err)
			}
			if who.name == theAllowed && !k.reached {
				why := fmt.Sprintf("a clean request with the token is answered %s and does not reach the echo", statusText(k.status))
				if protocol == http1 {
					return errors.New(why + ": is the token valid for this URL, and is the echo the gateway's backend?")
				}
				p.Tested, p.Why = false, why
				break
			}
			if who.name == theOpen && !k.reached {
				return fmt.Errorf("a request without a token to the open path %s is answered %s and does not reach the echo", who.path, statusText(k.status))
			}
			r.known[way{who.name, protocol}] = k
			r.describe(who, protocol, k)
		}
		r.report.Protocols = append(r.report.Protocols, p)
	}
	post := &attack{name: "clean POST", h1: func(m *message, _ forgery) { m.method, m.body = "POST", "probe"; m.add(contentLength(m.body)) }}
	s := r.shot(post, r.principals[0], http1, nil)
	if err := r.fireOne(ctx, s); err != nil {
		return err
	}
	if r.bodyless = len(s.seen) == 0; r.bodyless {
		r.note("POST is denied where GET is allowed: attacks with a body were sent with GET")
	}
	return nil
}

// fireOne makes one exchange and looks at what reached the backend.
func (r *run) fireOne(ctx context.Context, s *shot) error {
	if err := r.fire(ctx, s); err != nil {
		return err
	}
	return r.lookClean(ctx, []*shot{s})
}

// lookClean looks at once for requests that are answered with what reached the backend.
func (r *run) lookClean(ctx context.Context, shots []*shot) error {
	if r.echo != nil {
		if err := r.read(ctx, shots); err != nil {
			return err
		}
		if !slices.ContainsFunc(shots, func(s *shot) bool { return len(s.seen) == 0 }) {
			return nil
		}
	}
	return r.look(ctx, shots)
}

// clean makes clean requests of a principal.
func (r *run) clean(ctx context.Context, who principal, protocol string) (known, error) {
	nothing := &attack{name: "clean", h1: func(*message, forgery) {}, h2: func(*message2, forgery) {}}
	var shots []*shot
	for range cleanRequests {
		shots = append(shots, r.shot(nothing, who, protocol, nil))
	}
	plain := r.shot(nothing, who, protocol, nil)
	plain.forgery.tenant = ""
	shots = append(shots, plain)
	for _, s := range shots {
		if err := r.fire(ctx, s); err != nil {
			return known{}, err
		}
		if s.timedOut {
			return known{}, fmt.Errorf("no response within %s", r.Timeout)
		}
	}
	if err := r.lookClean(ctx, shots); err != nil {
		return known{}, err
	}
	k := known{fields: map[string]clean{}, plain: map[string]string{}}
	for i, s := range shots[:cleanRequests] {
		status := 0
		if len(s.responses) > 0 {
			status = s.responses[0].status
		}
		if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
			return known{}, fmt.Errorf("status %d", status)
		}
		if i > 0 && (status != k.status || len(s.seen) > 0 != k.reached) {
			return known{}, fmt.Errorf("status %d, then %d: the gateway must be quiet", k.status, status)
		}
		k.status, k.reached = status, len(s.seen) > 0
		if !k.reached && status == http.StatusOK && who.token != "" {
			return known{}, fmt.Errorf("status 200, and the request did not reach the echo: is it the gateway's backend?")
		}
		for _, h := range r.Headers {
			if !k.reached {
				break
			}
			k.fields[h] = merge(k.fields[h], valueOf(&s.seen[0], h), i)
		}
	}
	if k.reached {
		r.strip(&k, who.path, &shots[0].seen[0])
	}
	for _, h := range r.Headers {
		k.plain[h] = k.fields[h].value
		if len(plain.seen) > 0 {
			k.plain[h] = valueOf(&plain.seen[0], h).value
		}
	}
	return k, nil
}

func merge(k, next clean, i int) clean {
	if i > 0 && next.value != k.value {
		next.varies = true
	}
	next.varies = next.varies || k.varies
	return next
}

// jws is a signed token (RFC 7515, section 7.1): it changes with the time and the request that it is for.
var jws = regexp.MustCompile(`^eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

func valueOf(s *Seen, header string) clean {
	for _, l := range s.Headers {
		if sameName(l.Name, header) {
			return clean{present: true, value: l.Value, varies: jws.MatchString(l.Value)}
		}
	}
	return clean{}
}

// strip learns which prefix of paths the gateway takes off.
func (r *run) strip(k *known, path string, s *Seen) {
	sent, got := normal(path), normal(s.Target)
	switch {
	case sent == got:
	case strings.HasSuffix(sent, got):
		k.stripped = strings.TrimSuffix(sent, got)
	case got == "/":
		k.stripped = sent
	default:
		k.blindPath = true
		r.note("the gateway rewrites the path %s to %s: paths were not compared", sent, got)
	}
}

// recalibrate makes sure that the gateway still answers as it did.
func (r *run) recalibrate(ctx context.Context) error {
	for _, who := range r.principals {
		for _, protocol := range []string{http1, h2} {
			before, tested := r.known[way{who.name, protocol}]
			if !tested {
				continue
			}
			now, err := r.clean(ctx, who, protocol)
			if err != nil {
				return fmt.Errorf("clean request after all others, %s, over %s: %w", who.name, protocol, err)
			}
			if now.status != before.status || now.reached != before.reached {
				return fmt.Errorf("a clean request, %s, over %s, is answered %s at the end and %s before: the results mean nothing",
					who.name, protocol, statusText(now.status), statusText(before.status))
			}
			for h, f := range now.fields {
				if f.value != before.fields[h].value && !before.fields[h].varies {
					f.varies = true
					r.note("%s changed during the run: values of it were not compared", h)
					before.fields[h] = f // the trials share the map
				}
			}
		}
	}
	return nil
}

func statusText(status int) string {
	if status == 0 {
		return "by nothing"
	}
	return fmt.Sprintf("%d %s", status, http.StatusText(status))
}

// describe reports what a clean request yields, without its values.
func (r *run) describe(who principal, protocol string, k known) {
	p := PrincipalReport{Name: who.name, Protocol: protocol, Status: k.status, Reached: k.reached, Headers: map[string]string{}}
	for h, f := range k.fields {
		switch {
		case f.varies:
			p.Headers[h] = "varies"
		case !f.present:
			p.Headers[h] = "absent"
		case f.value == "":
			p.Headers[h] = "empty"
		default:
			p.Headers[h] = "present"
		}
	}
	r.report.Principals = append(r.report.Principals, p)
	if r.Tenant == "" || who.token == "" || !k.reached {
		return
	}
	f := r.shot(&attack{}, who, protocol, nil).forgery
	show := r.message(f).reproduce(r.gateway, r.tokens())
	if protocol == h2 {
		show = r.message2(f).reproduce(r.tokens())
	}
	for _, h := range []string{hintHeader, "X-Tenant-ID"} {
		if f, is := k.fields[h]; is && f.value != r.Tenant && f.value == k.plain[h] {
			r.cleanFaults = append(r.cleanFaults, Fault{
				Kind: Hint, Header: h, Principal: who.name, Protocol: protocol, Attack: "hint/clean",
				Detail:    "a request with the tenant hint gets the same tenant as one without: the gateway does not forward " + hintHeader,
				Reproduce: show,
			})
		}
	}
}
