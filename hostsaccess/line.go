package hostsaccess

import (
	"sort"
	"strings"
)

// libwrapLine is the longest logical line that libwrap reads, without its
// newline (misc.c, xgets: BUFLEN 2048). It stops reading the file at a longer one.
const libwrapLine = 2046

// logicalLine is the text of one or more physical lines, joined.
type logicalLine struct {
	text        string
	parts       []part
	offset, end int  // in the source, with line ends
	terminated  bool // ends in a newline
}

// part says that text[at:] stands in the source at offset, on line from column.
type part struct {
	at, offset   int
	line, column int32
}

// lineReader cuts a source into logical lines.
type lineReader struct {
	src    string
	offset int
	line   int32 // number of the last physical line read
}

// next returns the next logical line; false at the end of the source.
//
// A line goes on only where the backslash is the very last byte before the
// newline, and comments go on like rules do; both as in libwrap.
func (r *lineReader) next() (l logicalLine, ok bool) {
	if r.offset >= len(r.src) {
		return l, false
	}
	l.offset = r.offset
	var joined strings.Builder
	for r.offset < len(r.src) {
		r.line++
		text, _, terminated := strings.Cut(r.src[r.offset:], "\n")
		l.parts = append(l.parts, part{at: joined.Len(), offset: r.offset, line: r.line, column: 1})
		r.offset += len(text)
		l.terminated = terminated
		if terminated {
			r.offset++
		}
		if !terminated || !strings.HasSuffix(text, `\`) {
			l.text = text // no copy for the usual line
			if joined.Len() > 0 || len(l.parts) > 1 {
				joined.WriteString(text)
				l.text = joined.String()
			}
			l.end = r.offset
			return l, true
		}
		joined.WriteString(text[:len(text)-1])
	}
	// The source ends right after a backslash and newline: libwrap sees no
	// newline at the end of the joined line.
	l.text, l.end, l.terminated = joined.String(), r.offset, false
	return l, true
}

// part returns the part of the line that holds byte i of its text.
func (l *logicalLine) part(i int) part {
	after := sort.Search(len(l.parts), func(n int) bool { return l.parts[n].at > i })
	return l.parts[after-1]
}

func (l *logicalLine) pos(i int) Pos {
	p := l.part(i)
	return Pos{Line: p.line, Column: p.column + int32(i-p.at)}
}

func (l *logicalLine) sourceOffset(i int) int {
	p := l.part(i)
	return p.offset + i - p.at
}

// token returns text[start:end] with its place.
func (l *logicalLine) token(start, end int) Token {
	t := Token{Text: l.text[start:end], Pos: l.pos(start), Offset: l.sourceOffset(start)}
	t.End = t.Offset
	if end > start {
		t.End = l.sourceOffset(end-1) + 1
	}
	return t
}

// lastLine is the number of the last physical line.
func (l *logicalLine) lastLine() int32 { return l.parts[len(l.parts)-1].line }
