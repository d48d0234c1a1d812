package inetd

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// looksLikeXinetd tells xinetd.conf(5) from inetd.conf(5) by its first line
// that says anything.
func looksLikeXinetd(source string) bool {
	for line := range strings.Lines(source) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		return len(words) <= 3 && slices.Contains([]string{"service", "defaults", "include", "includedir"}, words[0])
	}
	return false
}

// mostIncluded bounds how many files are read, should they include each other.
const mostIncluded = 1000

// xinetdReader reads xinetd.conf(5) and what it includes.
type xinetdReader struct {
	config   *Config
	defaults attributes
	sections []section
	files    int
}

// section is one "service NAME { ... }".
type section struct {
	file string
	line int
	name string
	attributes
}

// attributes are the "NAME = VALUE ..." of a section.
type attributes map[string][]string

func (a attributes) first(name string) string {
	if len(a[name]) == 0 {
		return ""
	}
	return a[name][0]
}

func (a attributes) has(name, value string) bool {
	return slices.ContainsFunc(a[name], func(s string) bool { return strings.EqualFold(s, value) })
}

// assign carries out "NAME OP VALUES" with =, += or -=.
func (a attributes) assign(words []string) {
	if len(words) < 2 {
		return
	}
	name, values := words[0], words[2:]
	switch words[1] {
	case "=":
		a[name] = slices.Clone(values)
	case "+=":
		a[name] = append(a[name], values...)
	case "-=":
		a[name] = slices.DeleteFunc(a[name], func(s string) bool { return slices.Contains(values, s) })
	}
}

// file reads one file, and what it includes, in order.
func (r *xinetdReader) file(name, source string) {
	if r.files++; r.files > mostIncluded {
		return
	}
	var open *section // nil outside of a section
	number := 0
	for line := range strings.Lines(source) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' || words[0] == "{" {
			continue
		}
		switch {
		case open != nil && words[0] == "}":
			r.close(open, number)
			open = nil
		case open != nil:
			open.assign(words)
		default:
			open = r.begin(name, words)
		}
	}
}

// begin reads a line outside of a section.
func (r *xinetdReader) begin(file string, words []string) *section {
	argument := ""
	if len(words) > 1 {
		argument = strings.TrimSuffix(words[1], "{")
	}
	switch words[0] {
	case "service", "defaults":
		return &section{file: file, name: argument, attributes: attributes{"": words[:1]}}
	case "include":
		r.include(argument)
	case "includedir":
		r.includeDir(argument)
	}
	return nil
}

func (r *xinetdReader) close(s *section, line int) {
	if s.first("") == "defaults" {
		r.defaults = s.attributes
		return
	}
	s.line = line
	r.sections = append(r.sections, *s)
}

func (r *xinetdReader) include(name string) {
	if data, err := os.ReadFile(name); err == nil {
		r.file(name, string(data))
	}
}

// includeDir reads the files of a folder, save those with a dot or a tilde
// that xinetd passes over too.
func (r *xinetdReader) includeDir(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.Contains(e.Name(), ".") && !strings.HasSuffix(e.Name(), "~") {
			r.include(filepath.Join(dir, e.Name()))
		}
	}
}

// finish makes services of the sections that are enabled.
func (r *xinetdReader) finish() {
	for _, s := range r.sections {
		id := s.first("id")
		if id == "" {
			id = s.name
		}
		off := s.first("disable") == "yes" || r.defaults.has("disabled", id) ||
			len(r.defaults["enabled"]) > 0 && !r.defaults.has("enabled", id)
		if !off && s.first("server") != "" {
			r.config.Services = append(r.config.Services, r.service(&s))
		}
	}
}

// service is a section in the terms of inetd. xinetd names a process after the
// file of its program, unless NAMEINARGS gives argv[0] among the arguments.
func (r *xinetdReader) service(s *section) Service {
	argv := s.attributes["server_args"]
	if !s.has("flags", "NAMEINARGS") {
		argv = append([]string{path.Base(s.first("server"))}, argv...)
	}
	t := Service{File: s.file, Line: s.line, Name: s.name, Protocol: s.first("protocol"), Program: s.first("server")}
	if len(argv) > 0 {
		t.Process = argv[0]
	}
	if len(argv) > 1 {
		t.Argument = argv[1]
	}
	if !s.has("flags", "NOLIBWRAP") && !r.defaults.has("flags", "NOLIBWRAP") {
		t.Checks = path.Base(t.Process)
	}
	return t
}
