package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxCell is the longest text in bytes that is printed of what a peer sent: a
// little more than the longest path of a unix socket. --json shows all of it.
const maxCell = 128

// cell makes what a peer sent fit to print as one word of a table: bytes that
// could move a terminal's cursor, end the line or look like another column
// become \xHH, and a long text ends in "...".
func cell(s string) string {
	cut := ""
	if len(s) > maxCell {
		s, cut = s[:maxCell], "..."
	}
	if strings.IndexFunc(s, unprintable) < 0 {
		return s + cut
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; unprintable(rune(c)) {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String() + cut
}

// unprintable takes the backslash too, so that what is printed can be read
// back, and everything beyond ASCII: its width depends on the terminal.
func unprintable(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }

// asciiWriter passes JSON text on with everything beyond printable ASCII in
// its strings as \u escapes: C1 control codes and marks that turn the writing
// direction are as good at deceiving a reader as escape sequences.
type asciiWriter struct{ w io.Writer }

// Write takes whole characters, as encoding/json writes them.
func (a asciiWriter) Write(p []byte) (int, error) {
	var b strings.Builder
	for rest := p; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		rest = rest[n:]
		switch {
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case r >= 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	if _, err := io.WriteString(a.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
