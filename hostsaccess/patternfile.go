package hostsaccess

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// patternFile looks into the file that a pattern /file names. libwrap reads it
// anew for each client, as words between blanks, each a host pattern, and has
// no comments in it (hosts_access.c, hostfile_match).
func (c *checker) patternFile(r *Rule, h *Host, depth int) {
	if c.surroundings.ReadFile == nil {
		return
	}
	refuses := c.refuses(r)
	w := &patternWalk{checker: c, rule: r, purpose: purpose{refuses, depth%2 == 1}}
	w.read(h, c.file.Name, &c.found)
}

// patternWalk follows pattern files into those that they name.
type patternWalk struct {
	checker *checker
	rule    *Rule
	purpose purpose
	open    []string // the files on the way here
}

// deepest bounds how far pattern files may lead; libwrap has no such bound.
const deepest = 16

// read reads the file that h, which stands in file from, names.
func (w *patternWalk) read(h *Host, from string, found *findings) {
	report := func(code Code, message, consequence, hint string) {
		d := found.add(Diagnostic{File: from, Pos: h.Pos, Severity: Error, Code: code, Message: message, Consequence: consequence, Hint: hint})
		d.Rule, d.Libwrap = w.rule, NeverMatch
	}
	never := w.purpose.neverMatches("libwrap", &Diagnostic{})
	if slices.Contains(w.open, h.Text) || len(w.open) == deepest {
		report(PatternFileLoop, "pattern file "+h.Text+" includes itself",
			"for a client that no other word matches the service opens it again and again, until it can open no more files", "remove the word "+h.Text)
		return
	}
	data, err := w.checker.surroundings.ReadFile(h.Text)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		report(PatternFile, "pattern file "+h.Text+" does not exist", never, "write the file, or its name right")
	case err != nil:
		report(PatternFile, fmt.Sprintf("pattern file %s cannot be read: %v", h.Text, reason(err)), never, "make it a readable file")
	default:
		w.words(h.Text, string(data))
	}
}

// reason is err without the path, which the message has.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// words checks the words of a file, once for each file that names it.
func (w *patternWalk) words(name, source string) {
	c := w.checker
	if c.told[name] {
		return
	}
	w.open = append(w.open, name)
	p := &parser{file: &File{Name: name, Source: source}}
	comment := int32(0) // the line of the last one
	for t := range words(source) {
		switch {
		case t.Pos.Line == comment:
		case t.Text[0] == '#':
			comment = t.Pos.Line
			line, _, _ := strings.Cut(source[t.Offset:], "\n")
			p.error(PatternFile, t.Pos, `"#" does not start a comment in a pattern file`, "remove the comment").readWords(line)
		case strings.EqualFold(t.Text, "EXCEPT"), strings.Contains(t.Text[1:], "@"):
			p.error(PatternFile, t.Pos, quote(t.Text)+" in a pattern file is the name of a host", "write hosts alone").reads(NeverMatch, "a host name")
		default:
			if h := p.host(t); h.Kind == HostFile {
				w.read(&h, name, &c.elsewhere)
			}
		}
	}
	for _, d := range p.found.all(name) {
		d.Consequence = w.purpose.spoiled(&d)
		d.Fix = nil // who keeps that file is not known
		c.elsewhere.add(d).Rule = w.rule
	}
	c.told[name] = true
	w.open = w.open[:len(w.open)-1]
}

// words yields what stands between blanks.
func words(source string) func(func(Token) bool) {
	return func(yield func(Token) bool) {
		at := Pos{1, 1}
		start, begin := -1, Pos{}
		for i := 0; i <= len(source); i++ {
			blank := i == len(source) || strings.IndexByte(" \t\r\n\v\f", source[i]) >= 0
			switch {
			case !blank && start < 0:
				start, begin = i, at
			case blank && start >= 0:
				if !yield(Token{Text: source[start:i], Pos: begin, Offset: start, End: i}) {
					return
				}
				start = -1
			}
			at.Column++
			if i < len(source) && source[i] == '\n' {
				at = Pos{at.Line + 1, 1}
			}
		}
	}
}
