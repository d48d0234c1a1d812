package inetd

import (
	"iter"
	"strings"
)

// lineBuffer is how long a line that the TCP Wrappers tools read may be, with
// its newline and a NUL.
const lineBuffer = 2048

// Lines yields the logical lines of a source as all files of the TCP Wrappers
// are read, each with the number of its last physical line. Lines are joined
// where one ends in a backslash. A line without newline at its end is one that
// could not be read whole: it is too long, or the end of the file is missing.
func Lines(source string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		r := lineReader{rest: source}
		for {
			text := r.next()
			if text == "" || !yield(r.line, text) {
				return
			}
		}
	}
}

type lineReader struct {
	rest string
	line int
}

func (r *lineReader) next() string {
	var joined strings.Builder
	for r.rest != "" && joined.Len() < lineBuffer-1 {
		piece := r.piece(lineBuffer - 1 - joined.Len())
		whole := strings.HasSuffix(piece, "\n")
		if whole {
			r.line++
		}
		before, continued := strings.CutSuffix(piece, "\\\n")
		joined.WriteString(before)
		if whole && !continued {
			break
		}
	}
	return joined.String()
}

// piece is fgets(3) into a C string: up to a newline, cut at a NUL.
func (r *lineReader) piece(most int) string {
	n := min(most, len(r.rest))
	if i := strings.IndexByte(r.rest[:n], '\n'); i >= 0 {
		n = i + 1
	}
	var piece string
	piece, r.rest = r.rest[:n], r.rest[n:]
	piece, _, _ = strings.Cut(piece, "\x00")
	return piece
}
