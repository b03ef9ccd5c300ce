package token

import (
	"encoding/hex"
	"regexp"
	"strings"
)

var (
	// shape is what a signed or an encrypted token looks like, wherever it stands (RFC 7515,
	// section 7.1; RFC 7516, section 7.1): a JSON object in base64url, and two to four parts
	// after it, which may be empty.
	shape = regexp.MustCompile(`e[wy][A-Za-z0-9_-]{6,}(\.[A-Za-z0-9_-]*){2,4}`)

	escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// Hide puts "(token)" in the place of whatever looks like a token. A text with one that is
// percent-encoded, as in a path, is returned decoded.
func Hide(text string) string {
	if strings.Contains(text, "%") {
		decoded := escape.ReplaceAllStringFunc(text, func(e string) string {
			b, _ := hex.DecodeString(e[1:]) // the pattern is hex
			return string(b)
		})
		if shape.MatchString(decoded) {
			text = decoded
		}
	}
	if !strings.Contains(text, ".") { // most have none, and this is cheaper
		return text
	}
	return shape.ReplaceAllString(text, "(token)")
}
