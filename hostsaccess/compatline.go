package hostsaccess

import "strings"

// compatBuffer is the size of libwrap's line buffer, with the final NUL.
const compatBuffer = 2048

// compatReader cuts a table into lines as libwrap's xgets does: C strings that
// end at a NUL, in a buffer of fixed size.
type compatReader struct {
	src   string
	line  int32 // what libwrap counts
	first int32 // physical line on which the present logical line starts
	lines int32 // physical lines read
}

// next returns a logical line with its newline. Without newline it is one that
// libwrap can't read to its end.
func (r *compatReader) next() (text string, ok bool) {
	r.first = r.lines + 1
	var joined strings.Builder
	for room := compatBuffer; ; {
		piece := r.fgets(room)
		if piece == "" {
			return joined.String(), joined.Len() > 0
		}
		if i := strings.IndexByte(piece, 0); i >= 0 {
			piece = piece[:i]
		}
		if strings.HasSuffix(piece, "\n") {
			r.line++
			if !strings.HasSuffix(piece, "\\\n") {
				if joined.Len() == 0 {
					return piece, true // no copy for the usual line
				}
				joined.WriteString(piece)
				return joined.String(), true
			}
			piece = piece[:len(piece)-2]
		}
		joined.WriteString(piece)
		if room -= len(piece); room == 1 {
			return joined.String(), true
		}
	}
}

// fgets reads up to a newline, or up to size-1 bytes.
func (r *compatReader) fgets(size int) string {
	n := min(size-1, len(r.src))
	if i := strings.IndexByte(r.src[:n], '\n'); i >= 0 {
		n = i + 1
		r.lines++
	}
	piece := r.src[:n]
	r.src = r.src[n:]
	return piece
}

// splitOutside is libwrap's split_at: it cuts s at the first separator where
// as many "[" as "]" came before.
func splitOutside(s string, separator byte) (before, after string, found bool) {
	depth := 0
	for i := range len(s) {
		switch {
		case s[i] == '[':
			depth++
		case s[i] == ']':
			depth--
		case s[i] == separator && depth == 0:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// compatFields cuts a line into its three fields.
func compatFields(line string) (daemons, clients, options string, hasOptions, ok bool) {
	daemons, rest, ok := splitOutside(line, ':')
	clients, options, hasOptions = splitOutside(rest, ':')
	return daemons, clients, options, hasOptions, ok
}
