package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Line is a field line as it was received. net/http would have rewritten its name, joined it with
// others and lost its place.
type Line struct {
	Name   string `json:"name"` // all before the colon, spaces included; a line without a colon is all name
	Value  string `json:"value"`
	Folded bool   `json:"folded,omitempty"` // it starts with white space: RFC 9112, section 5.2 continues the line before
}

// Seen is a request that reached the echo.
type Seen struct {
	Echo       string   `json:"echo"`    // always "iam-service"
	Markers    []string `json:"markers"` // the probe ids in the head
	Protocol   string   `json:"protocol"`
	Method     string   `json:"method"`
	Target     string   `json:"target"` // as in the request line
	Host       string   `json:"host"`   // of the first Host line
	Headers    []Line   `json:"headers"`
	Trailers   []Line   `json:"trailers"`
	Framing    []string `json:"framing"` // why two readers could disagree on where a request ends
	Body       int64    `json:"body"`    // bytes, without chunked coding
	Connection int64    `json:"connection"`
	bytes      int
}

// Limits of one request.
const (
	maxHead = 256 << 10
	maxBody = 8 << 20
)

var markers = regexp.MustCompile(`probe-[0-9a-f]{24}`)

// requestReader reads requests off a connection, and describes what is wrong with them in place
// of refusing it: what a stricter backend would refuse must still be seen.
type requestReader struct {
	*bufio.Reader
	continueTo io.Writer // gets "100 Continue", where a request waits for it
}

// read returns an error when the connection ends. A request comes with an error if it cannot be followed
// by another.
func (r requestReader) read() (*Seen, error) {
	s := &Seen{Echo: "iam-service", Markers: []string{}, Headers: []Line{}, Trailers: []Line{}, Framing: []string{}}
	first, err := r.line(s)
	for empty := 0; err == nil && first == "" && empty < 4; empty++ {
		first, err = r.line(s) // RFC 9112, section 2.2: an empty line before the request line
	}
	if first == "" {
		return nil, errors.Join(err, io.EOF)
	}
	s.Method, s.Target, s.Protocol = requestLine(first)
	if err == nil {
		s.Headers, err = r.fields(s)
	}
	text := first
	for _, l := range s.Headers {
		text += "\n" + l.Name + ":" + l.Value
		if s.Host == "" && strings.EqualFold(l.Name, "Host") {
			s.Host = l.Value
		}
	}
	for _, m := range markers.FindAllString(text, -1) {
		if !slices.Contains(s.Markers, m) {
			s.Markers = append(s.Markers, m)
		}
	}
	if err == nil {
		err = r.body(s)
	}
	for _, lines := range [][]Line{s.Headers, s.Trailers} {
		redact(lines)
	}
	slices.Sort(s.Framing)
	s.Framing = slices.Compact(s.Framing)
	return s, err
}

func requestLine(line string) (method, target, protocol string) {
	method, rest, _ := strings.Cut(line, " ")
	if i := strings.LastIndexByte(rest, ' '); i >= 0 {
		return method, rest[:i], rest[i+1:]
	}
	return method, rest, ""
}

// line reads up to the next LF.
func (r requestReader) line(s *Seen) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if s.bytes += len(part); s.bytes > maxHead {
			return string(line), fmt.Errorf("the head has over %d bytes", maxHead)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return string(line), err
		}
	}
	text := strings.TrimSuffix(string(line), "\n")
	if !strings.HasSuffix(text, "\r") {
		s.Framing = append(s.Framing, "a line ends in LF without CR")
	}
	text = strings.TrimSuffix(text, "\r")
	if strings.ContainsRune(text, '\r') {
		s.Framing = append(s.Framing, "CR within a line")
	}
	if strings.ContainsRune(text, 0) {
		s.Framing = append(s.Framing, "NUL within a line")
	}
	return text, nil
}

// fields reads field lines up to the empty one.
func (r requestReader) fields(s *Seen) ([]Line, error) {
	lines := []Line{}
	for {
		text, err := r.line(s)
		if err != nil {
			return lines, err
		}
		if text == "" {
			return lines, nil
		}
		l := Line{Folded: text[0] == ' ' || text[0] == '\t'}
		l.Name, l.Value, _ = strings.Cut(text, ":")
		if l.Folded {
			s.Framing = append(s.Framing, "a folded line")
		}
		l.Value = strings.Trim(l.Value, " \t")
		lines = append(lines, l)
	}
}

// body reads the body. It believes Content-Length over Transfer-Encoding, against RFC 9112, section 6.3: gateways
// follow the RFC, and a backend that does not is what a smuggled request needs.
func (r requestReader) body(s *Seen) error {
	var lengths, codings []string
	for _, l := range s.Headers {
		name := strings.ToLower(strings.Trim(l.Name, " \t\v\f\x00"))
		if name != "content-length" && name != "transfer-encoding" {
			continue
		}
		if len(name) != len(l.Name) {
			s.Framing = append(s.Framing, "space around the name "+name)
		}
		if name == "content-length" {
			lengths = append(lengths, l.Value)
		} else {
			codings = append(codings, strings.ToLower(l.Value))
		}
	}
	length, chunked := int64(0), false
	switch {
	case len(lengths) > 0 && len(codings) > 0:
		s.Framing = append(s.Framing, "Content-Length and Transfer-Encoding")
	case len(lengths) > 1:
		s.Framing = append(s.Framing, "several lines of Content-Length")
	case len(codings) > 1:
		s.Framing = append(s.Framing, "several lines of Transfer-Encoding")
	}
	for _, c := range codings {
		chunked = chunked || strings.Contains(c, "chunked")
		if c != "chunked" {
			s.Framing = append(s.Framing, fmt.Sprintf("Transfer-Encoding: %q", c))
		}
	}
	for _, l := range lengths {
		n, err := strconv.ParseUint(l, 10, 62)
		if err != nil || strings.TrimLeft(l, "0123456789") != "" {
			s.Framing = append(s.Framing, fmt.Sprintf("Content-Length: %q", l))
			continue
		}
		length, chunked = int64(n), false
	}
	if length == 0 && !chunked {
		return nil
	}
	for _, l := range s.Headers {
		if strings.EqualFold(l.Name, "Expect") && strings.EqualFold(l.Value, "100-continue") {
			if _, err := io.WriteString(r.continueTo, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return err
			}
		}
	}
	if chunked {
		return r.chunks(s)
	}
	if length > maxBody {
		return fmt.Errorf("the body has over %d bytes", maxBody)
	}
	n, err := io.CopyN(io.Discard, r, length)
	s.Body = n
	return err
}

func (r requestReader) chunks(s *Seen) error {
	for {
		text, err := r.line(s)
		if err != nil {
			return err
		}
		digits, _, _ := strings.Cut(text, ";")
		size, err := strconv.ParseUint(strings.TrimRight(digits, " \t"), 16, 62)
		if err != nil || digits == "" {
			s.Framing = append(s.Framing, "an invalid size of a chunk")
			return fmt.Errorf("invalid chunk size %q", text)
		}
		if size == 0 {
			s.Trailers, err = r.fields(s)
			return err
		}
		if s.Body += int64(size); s.Body > maxBody {
			return fmt.Errorf("the body has over %d bytes", maxBody)
		}
		if _, err := io.CopyN(io.Discard, r, int64(size)); err != nil {
			return err
		}
		if end, err := r.line(s); err != nil || end != "" {
			s.Framing = append(s.Framing, "a chunk that is longer than its size")
			return errors.Join(err, errors.New("no line end after a chunk"))
		}
	}
}
