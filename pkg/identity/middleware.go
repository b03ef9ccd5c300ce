package identity

import (
	"errors"
	"net/http"
)

// Middleware passes requests with a valid assertion to next, with the identity in their contexts. A request with
// an invalid one, without one, or with several is 401; one that cannot be verified now is 503. The client learns
// no reason; Config.OnError does.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := v.FromRequest(r)
		if err != nil {
			v.cfg.OnError(r, err)
			status := http.StatusUnauthorized
			if errors.Is(err, ErrUnavailable) {
				status = http.StatusServiceUnavailable
				w.Header().Set("Retry-After", "5")
			}
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, http.StatusText(status), status)
			return
		}
		ctx := r.Context()
		if id != nil {
			ctx = NewContext(ctx, id)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// FromRequest verifies the assertion of a request. Where Config.Anonymous allows it, an empty one is no identity and
// no error; a missing one is always an error: it did not come through the gateway.
func (v *Verifier) FromRequest(r *http.Request) (*Identity, error) {
	values := r.Header.Values(Header)
	switch {
	case len(values) == 0:
		return nil, invalid("the request has none: it did not come through the gateway, or the gateway drops empty headers")
	case len(values) > 1:
		return nil, invalid("the request has %d of them", len(values))
	case values[0] != "" && values[0] != v.cfg.EmptyValue:
		return v.Verify(r.Context(), values[0])
	case v.cfg.Anonymous:
		return nil, nil //nolint:nilnil // an anonymous request has no identity
	}
	return nil, invalid("it is empty: the request is anonymous")
}
