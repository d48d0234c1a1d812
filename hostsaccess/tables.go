package hostsaccess

import (
	"errors"
	"io/fs"
	"strings"
)

// Mode says how faithful to libwrap a decision is.
type Mode uint8

// The modes.
const (
	// Strict decides as the files are meant: see the package comment.
	Strict Mode = iota
	// Compat decides as Debian's libwrap 7.6.q does, mistakes included: the
	// same verdict, by the same line, with the same actions. It opens doors
	// that look closed. It is there to find them.
	Compat
)

// String returns "strict" or "compat".
func (m Mode) String() string {
	if m == Compat {
		return "compat"
	}
	return "strict"
}

// State says whether a file could be read.
type State uint8

// The states. A directory can be opened but not read, which libwrap takes for
// an empty file.
const (
	TableReadable State = iota
	TableMissing
	TableDirectory
	TableUnreadable
)

// Source is one of the two files.
type Source struct {
	Name  string // the path, for rules and messages
	Data  []byte
	State State
}

// SourceFrom makes a Source of what reading a file gave. It can't tell a
// directory from another file that can't be read; whoever can sets State.
func SourceFrom(name string, data []byte, err error) Source {
	s := Source{Name: name, Data: data}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.State = TableMissing
	case err != nil:
		s.State = TableUnreadable
	}
	return s
}

// Tables decide about any request by hosts.allow and hosts.deny. They are
// immutable and safe for concurrent use, as far as the Environment is.
type Tables struct {
	mode        Mode
	environment Environment

	compat      [2]*compatTable
	compatFiles map[string][]compatHost
	compatLoops bool // a pattern file includes itself

	strict strictTables
	views  views
}

// NewTables reads the two files, and the pattern files that they name.
// Diagnostics says what is wrong with them.
func NewTables(mode Mode, allow, deny Source, e Environment) *Tables {
	t := &Tables{mode: mode, environment: e}
	if mode == Strict {
		t.readStrict(&allow, &deny)
		return t
	}
	t.compat[0], t.compat[1] = parseCompat(&allow, &t.environment), parseCompat(&deny, &t.environment)
	t.readCompatFiles()
	return t
}

// ReadTables is NewTables for the files at these paths, normally
// /etc/hosts.allow and /etc/hosts.deny, which it reads by e.ReadFile.
func ReadTables(m Mode, allow, deny string, e Environment) *Tables {
	read := func(path string) Source {
		data, err := e.ReadFile(path)
		return SourceFrom(path, data, err)
	}
	return NewTables(m, read(allow), read(deny), e)
}

// Decide says what the files say about a request. It allocates nothing unless
// a rule with options decides, and from the second request for a daemon on its
// speed hardly depends on the number of rules.
func (t *Tables) Decide(r *Request) Decision {
	if t.mode == Compat {
		return t.decideCompat(r)
	}
	return t.decideStrict(r)
}

// Diagnostics returns what is wrong with the files. For Compat that is what
// libwrap would log of them, on the line numbers that it would give.
func (t *Tables) Diagnostics() []Diagnostic {
	if t.mode == Strict {
		return t.strict.diagnostics
	}
	var all []Diagnostic
	for _, table := range t.compat {
		all = append(all, table.notes...)
	}
	return all
}

// Mode returns what NewTables was given.
func (t *Tables) Mode() Mode { return t.mode }

// readCompatFiles reads all pattern files that rules name, and those that they
// name. One that can't be read is empty.
func (t *Tables) readCompatFiles() {
	t.compatFiles = map[string][]compatHost{}
	for _, table := range t.compat {
		for i := range table.rules {
			k := &table.rules[i]
			for _, term := range k.clients.Terms {
				for j := range term.Patterns {
					t.readCompatFile(&term.Patterns[j].host)
				}
			}
			for _, term := range k.daemons.Terms {
				for j := range term.Patterns {
					if at := term.Patterns[j].at; at != nil {
						t.readCompatFile(at)
					}
				}
			}
		}
	}
	t.flattenFiles()
}

func (t *Tables) readCompatFile(h *compatHost) {
	name := h.text.text
	if _, done := t.compatFiles[name]; done || h.kind != compatFile || t.environment.ReadFile == nil {
		return
	}
	t.compatFiles[name] = nil
	data, err := t.environment.ReadFile(name)
	if err != nil {
		return
	}
	p := compatParser{&t.environment}
	var hosts []compatHost
	for word := range strings.FieldsFuncSeq(string(data), func(r rune) bool { return r < 0x80 && isSpace(byte(r)) }) {
		hosts = append(hosts, p.host(word))
	}
	t.compatFiles[name] = hosts
	for i := range hosts {
		t.readCompatFile(&hosts[i])
	}
}

// flattenFiles replaces what a pattern file includes by the patterns themselves.
func (t *Tables) flattenFiles() {
	flat := map[string][]compatHost{}
	for name := range t.compatFiles {
		flat[name] = t.flatten(name, map[string]bool{})
	}
	t.compatFiles = flat
}

// flatten returns the patterns of a file. Seen are the files that were visited
// on the way, with true those that are still open.
func (t *Tables) flatten(name string, seen map[string]bool) (all []compatHost) {
	open, done := seen[name]
	switch {
	case open:
		t.compatLoops = true
		return []compatHost{{kind: compatLoop}}
	case done:
		return nil // its patterns are there already
	}
	seen[name] = true
	for _, h := range t.compatFiles[name] {
		if h.kind == compatFile {
			all = append(all, t.flatten(h.text.text, seen)...)
			continue
		}
		all = append(all, h)
	}
	seen[name] = false
	return all
}
