package hostsaccess

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// Rewrite returns the source of the file with edits applied. What they do not
// touch stays byte for byte: comments, layout, line ends. Of edits that overlap
// the first in the file counts.
func (f *File) Rewrite(edits ...Edit) string {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b Edit) int { return cmp.Compare(a.Offset, b.Offset) })
	var b strings.Builder
	at := 0
	for _, e := range edits {
		if e.Offset < at {
			continue
		}
		b.WriteString(f.Source[at:e.Offset])
		b.WriteString(e.Text)
		at = e.End
	}
	b.WriteString(f.Source[at:])
	return b.String()
}

// mendPasses bounds how often Mend reads its own result: mending one mistake
// can show the next, as the host bits of an address that had no brackets.
const mendPasses = 8

// Mend returns the source with every mistake mended that has one right answer,
// and what it mended. The result is the source itself if there is none.
func (f *File) Mend() (source string, mended []Diagnostic) {
	source = f.Source
	if n := len(f.Diagnostics); n > 0 && f.Diagnostics[n-1].Code == Omitted {
		f = parse(f.Name, source, math.MaxInt)
	}
	for range mendPasses {
		edits, done := f.mends()
		if len(done) == 0 {
			break
		}
		source, mended = f.Rewrite(edits...), append(mended, done...)
		f = parse(f.Name, source, math.MaxInt)
	}
	return source, mended
}

// mends gathers fixes that do not overlap.
func (f *File) mends() (edits []Edit, done []Diagnostic) {
	fits := func(d *Diagnostic) bool {
		return len(d.Fix) > 0 && !slices.ContainsFunc(d.Fix, func(e Edit) bool { return overlaps(edits, e) })
	}
	for i := range f.Diagnostics {
		if d := &f.Diagnostics[i]; fits(d) {
			done = append(done, *d)
			for _, e := range d.Fix {
				edits = slices.Insert(edits, behind(edits, e.Offset), e)
			}
		}
	}
	for _, d := range f.lineEnds() { // the last, so its many edits need no order
		if fits(&d) {
			edits, done = append(edits, d.Fix...), append(done, d)
		}
	}
	return edits, done
}

// behind is how many of the edits, which are in order, start at offset or before.
func behind(edits []Edit, offset int) int {
	n, _ := slices.BinarySearchFunc(edits, offset+1, func(e Edit, at int) int { return cmp.Compare(e.Offset, at) })
	return n
}

// overlaps says whether e touches what one of the edits changes. Several texts
// may be put in at one place.
func overlaps(edits []Edit, e Edit) bool {
	n := behind(edits, e.Offset)
	if n < len(edits) && edits[n].Offset < e.End {
		return true
	}
	for n--; n >= 0; n-- {
		o := edits[n]
		if e.Offset < o.End || e.Offset == o.Offset && e.Offset < e.End {
			return true
		}
		if o.Offset < e.Offset {
			break
		}
	}
	return false
}

// lineEnd is how the lines of the file end.
func (f *File) lineEnd() string {
	if strings.Contains(f.Source, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// AppendLine adds a line, given without its end, behind all others.
func (f *File) AppendLine(text string) Edit {
	end := len(f.Source)
	if f.Source != "" && !strings.HasSuffix(f.Source, "\n") {
		text = f.lineEnd() + text
	}
	return Edit{Offset: end, End: end, Text: text + f.lineEnd()}
}

// InsertLine adds a line, given without its end, above a rule.
func (f *File) InsertLine(above *Rule, text string) Edit {
	at := f.line(above).Offset
	return Edit{Offset: at, End: at, Text: text + f.lineEnd()}
}

// RemoveRule removes the line of a rule.
func (f *File) RemoveRule(r *Rule) Edit {
	l := f.line(r)
	return Edit{Offset: l.Offset, End: l.End}
}

// line returns the logical line that holds the rule.
func (f *File) line(r *Rule) *Line {
	i, _ := slices.BinarySearchFunc(f.Lines, r.Offset, func(l Line, at int) int {
		if l.End <= at {
			return -1
		}
		return cmp.Compare(l.Offset, at)
	})
	return &f.Lines[min(i, len(f.Lines)-1)]
}

// AddClient adds a pattern to the end of a rule's client list, which must have
// one, in the way its patterns are divided.
func (f *File) AddClient(r *Rule, pattern string) Edit {
	patterns := r.Clients.Terms[len(r.Clients.Terms)-1].Patterns
	last := patterns[len(patterns)-1].Token()
	divider := " "
	if n := len(patterns); n > 1 && strings.Contains(f.Source[patterns[n-2].Host.End:last.Offset], ",") {
		divider = ", "
	}
	return Edit{Offset: last.End, End: last.End, Text: divider + pattern}
}

// RemoveClients removes patterns, given by their numbers in rising order, from a
// rule without EXCEPT. The line of a rule that keeps no client is removed.
func (f *File) RemoveClients(r *Rule, numbers []int) []Edit {
	patterns := r.Clients.Terms[0].Patterns
	if len(numbers) == len(patterns) {
		return []Edit{f.RemoveRule(r)}
	}
	var edits []Edit
	first := 0 // the first pattern that stays
	for ; first < len(numbers) && numbers[first] == first; first++ {
	}
	if first > 0 {
		edits = append(edits, Edit{Offset: patterns[0].Token().Offset, End: patterns[first].Token().Offset})
	}
	for _, i := range numbers[first:] {
		edits = append(edits, Edit{Offset: patterns[i-1].Host.End, End: patterns[i].Host.End})
	}
	return edits
}
