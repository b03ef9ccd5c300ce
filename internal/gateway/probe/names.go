package probe

import "strings"

// sameName compares two field names as RFC 9110, section 5.1 does: in ASCII, and nothing is trimmed.
func sameName(a, b string) bool { return lowerASCII(a) == lowerASCII(b) }

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// fold is the name under which CGI and its heirs (RFC 3875, section 4.1.18; WSGI, Rack, PHP) hand a field to a
// program. "-" becomes "_" there; several of them treat every character that is no letter or digit so, and
// compare letters by Unicode's rules.
func fold(name string) string {
	var b strings.Builder
	for _, r := range strings.TrimFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		switch {
		case r == '\u017f': // long s, whose upper case is S
			b.WriteByte('s')
		case r == '\u212a': // the Kelvin sign, whose lower case is k
			b.WriteByte('k')
		case r == '\u0131' || r == '\u0130': // dotless i and dotted I, whose upper and lower cases are I and i
			b.WriteByte('i')
		case 'A' <= r && r <= 'Z':
			b.WriteRune(r + 'a' - 'A')
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

// mixed is a name in alternating case.
func mixed(name string) string {
	upper := false
	return strings.Map(func(r rune) rune {
		upper = !upper
		if upper {
			return []rune(strings.ToUpper(string(r)))[0]
		}
		return []rune(strings.ToLower(string(r)))[0]
	}, name)
}
