package adminapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token/signals"
)

// maxSignal is the most bytes of a security event token.
const maxSignal = 32 << 10

// mountSignals adds the receiver of signals (RFC 8935). It is no route of the table: its callers have no token for the
// admin API, and its errors are those of the RFC.
func (a *server) mountSignals(r chi.Router) {
	if a.Signals == nil {
		return
	}
	r.With(a.record).Post("/v1/signals/{stream}", a.receiveSignal)
}

// receiveSignal receives one security event token: 202, or an error of RFC 8935, section 2.3.
func (a *server) receiveSignal(w http.ResponseWriter, r *http.Request) {
	stream := chi.URLParam(r, "stream")
	results, err := a.handleSignal(w, r, stream)
	attrs := []slog.Attr{slog.String("stream", a.Signals.Label(stream))}
	if err != nil {
		a.Signals.Refused(stream, err)
		attrs = append(attrs, slog.Any("rejected", err))
	} else {
		var outcomes, users []string
		for _, result := range results {
			a.Signals.Handled(stream, result.Outcome)
			outcomes, users = append(outcomes, string(result.Outcome)), append(users, result.User)
		}
		attrs = append(attrs, slog.String("outcome", strings.Join(outcomes, ",")), slog.String("user", strings.Join(users, ",")))
	}
	if line, ok := r.Context().Value(logLineKey{}).(*logLine); ok {
		line.attrs = append(line.attrs, attrs...)
	}
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	a.rejectSignal(w, r, err)
}

func (a *server) handleSignal(w http.ResponseWriter, r *http.Request, stream string) ([]admin.SignalResult, error) {
	bearer, err := problem.Bearer(r.Header)
	if err != nil {
		bearer = ""
	}
	if rejection := a.Signals.Admit(stream, bearer); rejection != nil {
		return nil, rejection
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/secevent+jwt" {
		return nil, &signals.RejectionError{Reason: signals.ReasonForm, Code: signals.CodeInvalidRequest, Description: "Content-Type must be application/secevent+jwt"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSignal))
	if err != nil {
		return nil, &signals.RejectionError{Reason: signals.ReasonForm, Code: signals.CodeInvalidRequest, Description: "the SET cannot be read, or is larger than 32 KiB", Cause: err}
	}
	signal, err := a.Signals.Verify(r.Context(), stream, strings.TrimSpace(string(body)))
	if err != nil {
		return nil, err
	}
	caller := admin.Caller{Method: r.Method, RequestID: problem.RequestID(r), Reach: a.Signals.Reach(stream)}
	peer := problem.Peer(r)
	if address, err := a.Trusted.ClientIP(r.Header, peer); err == nil {
		if address = cmp.Or(address, peer); address.IsValid() {
			caller.Address = address.String()
		}
	}
	results, err := a.Service.ReceiveSignal(r.Context(), caller, signal)
	if errors.Is(err, admin.ErrSignalState) {
		return nil, &signals.RejectionError{Reason: signals.ReasonState, Code: signals.CodeInvalidState, Description: problem.DetailOf(err)}
	}
	return results, err
}

// setError is the body of a response to a SET that is not accepted (RFC 8935, section 2.3).
type setError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

func (a *server) rejectSignal(w http.ResponseWriter, r *http.Request, err error) {
	rejection, ok := errors.AsType[*signals.RejectionError](err)
	switch {
	case !ok:
		a.failures.Write(w, r, err) // ours to fix, or the database is away: the transmitter tries again
		return
	case rejection.Code == "":
		a.failures.Write(w, r, &iam.Error{Kind: iam.Unavailable, Code: "keys_unavailable", Detail: rejection.Description, Cause: rejection.Cause})
		return
	}
	h, status := w.Header(), http.StatusBadRequest
	if rejection.Reason == signals.ReasonRate {
		status = http.StatusTooManyRequests
		h.Set("Retry-After", "1")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Language", "en")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(setError{rejection.Code, rejection.Description}) // fails only where the caller has disconnected
}
