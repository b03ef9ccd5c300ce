package authzen

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"unicode/utf8"

	"iam-service/internal/iam"
)

// maxDepth bounds how deep objects and lists of a body are nested.
const maxDepth = 32

// parseObject reads a JSON object by I-JSON (RFC 7493), which section 11.5 of the specification recommends: it is UTF-8
// without unpaired surrogates, no name is there twice, after its escapes, and numbers are those of IEEE 754. What
// encoding/json accepts beyond that would be read in another way by others.
func parseObject(text []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, malformed("the body is empty")
	}
	if !utf8.Valid(text) || !pairedSurrogates(text) {
		return nil, malformed("the body is not valid Unicode")
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(text))}
	p.dec.UseNumber()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("the body is followed by something")
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, malformed("the body is not a JSON object")
	}
	return o, nil
}

type parser struct{ dec *json.Decoder }

var errNotJSON = malformed("the body is not JSON")

// value reads the next value.
func (p *parser) value(depth int) (any, error) {
	t, err := p.dec.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch t := t.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, malformed("the body is nested too deep: 32 levels are allowed")
		}
		if t == '{' {
			return p.object(depth + 1)
		}
		return p.list(depth + 1)
	case json.Number:
		f, err := strconv.ParseFloat(string(t), 64)
		if err != nil || math.IsInf(f, 0) || !iam.ValidNumber(string(t)) {
			return nil, malformed("the body has a number beyond IEEE 754 double precision")
		}
	}
	return t, nil
}

func (p *parser) object(depth int) (any, error) {
	o := map[string]any{}
	for p.dec.More() {
		t, err := p.dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		if _, repeated := o[name]; repeated {
			return nil, malformed("the body has a member twice")
		}
		if o[name], err = p.value(depth); err != nil {
			return nil, err
		}
	}
	if _, err := p.dec.Token(); err != nil {
		return nil, errNotJSON
	}
	return o, nil
}

func (p *parser) list(depth int) (any, error) {
	list := []any{}
	for p.dec.More() {
		v, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if _, err := p.dec.Token(); err != nil {
		return nil, errNotJSON
	}
	return list, nil
}

// pairedSurrogates reports whether each escaped surrogate is half of a pair: encoding/json replaces others. A backslash is
// only within strings.
func pairedSurrogates(text []byte) bool {
	unit := func(at int) (uint64, bool) {
		if at+6 > len(text) || text[at] != '\\' || text[at+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		return n, err == nil
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		n, ok := unit(i)
		switch {
		case !ok:
			i++ // another escape, such as \\, whose second byte begins none
		case n >= 0xd800 && n < 0xdc00:
			if low, ok := unit(i + 6); !ok || low < 0xdc00 || low > 0xdfff {
				return false
			}
			i += 11
		case n >= 0xdc00 && n <= 0xdfff:
			return false
		default:
			i += 5
		}
	}
	return true
}
