package hostsaccess

import (
	"iter"
	"strings"
)

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

// CompatLines yields the logical lines of a source as libwrap and its tools read
// all their files, each with the number of its last physical line, as they count.
// A line without newline at its end is one that can't be read whole: it is too
// long, or the end of the file is missing.
func CompatLines(source string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		r := compatReader{src: source}
		for text, ok := r.next(); ok && yield(int(r.line), text); text, ok = r.next() {
		}
	}
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

// CompatSplit is libwrap's split_at: it cuts s at the first separator where
// as many "[" as "]" came before.
func CompatSplit(s string, separator byte) (before, after string, found bool) {
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
	daemons, rest, ok := CompatSplit(line, ':')
	clients, options, hasOptions = CompatSplit(rest, ':')
	return daemons, clients, options, hasOptions, ok
}
