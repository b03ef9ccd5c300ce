package devrauth

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/google/uuid"
)

// SignalAudience is the aud of the streams that receivers create.
const SignalAudience = "https://iam.example.com"

// stream is a stream of signals that a receiver has created (Shared Signals Framework 1.0, section 8.1).
type stream struct {
	ID       string   `json:"stream_id"`
	Issuer   string   `json:"iss"`
	Audience []string `json:"aud"`
	Events   []string `json:"events_delivered"`
	Delivery struct {
		Method        string `json:"method"`
		EndpointURL   string `json:"endpoint_url"`
		Authorization string `json:"authorization_header"`
	} `json:"delivery"`
}

// createStream takes one stream, as a transmitter that allows one of each receiver.
func (s *Server) createStream(w http.ResponseWriter, r *http.Request) {
	var st struct {
		stream
		Requested []string `json:"events_requested"`
	}
	if json.NewDecoder(r.Body).Decode(&st) != nil || st.Delivery.EndpointURL == "" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.managed(r):
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
	case s.stream != nil:
		reply(w, http.StatusConflict, map[string]string{"error": "there is one"})
	default:
		st.ID, st.Issuer, st.Audience = uuid.NewString(), s.Issuer, []string{SignalAudience}
		st.Events = st.Requested
		s.stream = &st.stream
		reply(w, http.StatusCreated, s.stream)
	}
}

// managed reports whether a request has the token of AdminToken, if there is one; s.mu is held.
func (s *Server) managed(r *http.Request) bool {
	return s.adminToken == "" || r.Header.Get("Authorization") == "Bearer "+s.adminToken
}

func (s *Server) streamStatus(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.managed(r):
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
	case s.stream == nil || r.URL.Query().Get("stream_id") != s.stream.ID:
		reply(w, http.StatusNotFound, map[string]string{"error": "no such stream"})
	default:
		reply(w, http.StatusOK, map[string]string{"stream_id": s.stream.ID, "status": "enabled"})
	}
}

// verifyStream pushes a verification event with the state of the request.
func (s *Server) verifyStream(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID    string `json:"stream_id"`
		State string `json:"state"`
	}
	_ = json.NewDecoder(r.Body).Decode(&q) // not JSON: no such stream
	s.mu.Lock()
	st, managed := s.stream, s.managed(r)
	s.mu.Unlock()
	switch {
	case !managed:
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	case st == nil || q.ID != st.ID:
		reply(w, http.StatusNotFound, map[string]string{"error": "no such stream"})
		return
	}
	set, err := s.SET(map[string]any{
		"aud": st.Audience, "sub_id": map[string]any{"format": "opaque", "id": st.ID},
		"events": map[string]any{"https://schemas.openid.net/secevent/ssf/event-type/verification": map[string]any{"state": q.State}},
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	push, err := http.NewRequestWithContext(r.Context(), http.MethodPost, st.Delivery.EndpointURL, bytes.NewReader([]byte(set)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	push.Header.Set("Content-Type", "application/secevent+jwt")
	push.Header.Set("Authorization", st.Delivery.Authorization)
	if resp, err := http.DefaultClient.Do(push); err == nil {
		_ = resp.Body.Close() // what became of it is the receiver's to say
	}
	w.WriteHeader(http.StatusNoContent)
}
