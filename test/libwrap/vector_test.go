package libwrap

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"rpcward/hostsaccess"
)

var update = flag.Bool("update", false, "write into testdata/vectors what the real library says")

// vector is a case that is written down, one line of testdata/vectors: its
// name and key=value, the values quoted as in Go where they must be, with
// {2040*x} for a long run. A key
// with a "/" or that is hosts.allow or hosts.deny is a file; with "!" behind
// it, the value is the file's state: m(issing), d(irectory) or u(nreadable).
type vector struct {
	name string
	w    *world
	q    *query
	want string
}

// String writes the line.
func (v vector) String() string {
	var b strings.Builder
	b.WriteString(v.name)
	add := func(key, value string) {
		if value == "" {
			return
		}
		value = packed(value)
		if strings.ContainsAny(value, " \t\"\\") || strconv.Quote(value) != `"`+value+`"` {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", key, value)
	}
	for _, f := range v.w.files {
		if f.state != 'r' {
			add(f.name+"!", string(f.state))
		}
		add(f.name, f.text)
	}
	add("daemon", v.q.daemon)
	for _, e := range []struct {
		key string
		end
	}{{"client", v.q.client}, {"server", v.q.server}} {
		if e.addr.IsValid() {
			add(e.key, e.addr.String())
		}
		add(e.key+".text", e.text)
		add(e.key+".name", e.name)
		add(e.key+".lookup", e.lookup)
	}
	add("user", v.q.user)
	add("ident", v.q.ident)
	if v.q.pid != 0 {
		add("pid", strconv.Itoa(v.q.pid))
	}
	for _, f := range v.q.flags() {
		if *f.set {
			add(f.key, "yes")
		}
	}
	add("want", v.want)
	return b.String()
}

type queryFlag struct {
	key string
	set *bool
}

func (q *query) flags() []queryFlag {
	return []queryFlag{{"datagram", &q.datagram}, {"aclexecFails", &q.aclexecFails}, {"resident", &q.resident}, {"leak", &q.leak}}
}

// parseVector reads a line.
func parseVector(line string) (v vector, err error) {
	v.w, v.q = &world{}, &query{}
	v.name, line, _ = strings.Cut(line, " ")
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		key, rest, found := strings.Cut(line, "=")
		value, _, _ := strings.Cut(rest, " ")
		if strings.HasPrefix(rest, `"`) {
			if value, err = strconv.QuotedPrefix(rest); err != nil {
				return v, fmt.Errorf("%s: %w", key, err)
			}
		}
		line = rest[len(value):]
		if strings.HasPrefix(value, `"`) {
			value, _ = strconv.Unquote(value)
		}
		if !found || !v.set(key, unpacked(value)) {
			return v, fmt.Errorf("unknown key %q", key)
		}
	}
	return v, nil
}

// packed writes a long run of one byte as {2040*x}.
func packed(s string) string {
	var b strings.Builder
	for s != "" {
		run := 1
		for run < len(s) && s[run] == s[0] {
			run++
		}
		if run > 60 {
			fmt.Fprintf(&b, "{%d*%c}", run, s[0])
		} else {
			b.WriteString(s[:run])
		}
		s = s[run:]
	}
	return b.String()
}

var run = regexp.MustCompile(`\{(\d+)\*(.)\}`)

func unpacked(s string) string {
	return run.ReplaceAllStringFunc(s, func(s string) string {
		m := run.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[1])
		return strings.Repeat(m[2], n)
	})
}

// set takes over one key.
func (v *vector) set(key, value string) bool {
	if strings.Contains(key, "/") || strings.HasPrefix(key, "hosts.") {
		v.setFile(key, value)
		return true
	}
	for _, f := range v.q.flags() {
		if f.key == key {
			*f.set = value == "yes"
			return true
		}
	}
	switch side, field, _ := strings.Cut(key, "."); side {
	case "client":
		return v.q.client.set(field, value)
	case "server":
		return v.q.server.set(field, value)
	case "daemon":
		v.q.daemon = value
	case "user":
		v.q.user = value
	case "ident":
		v.q.ident = value
	case "pid":
		v.q.pid, _ = strconv.Atoi(value)
	case "want":
		v.want = value
	default:
		return false
	}
	return true
}

func (v *vector) setFile(name, value string) {
	f := file{name: name, state: 'r', text: value}
	if name, state := strings.CutSuffix(name, "!"); state {
		f = file{name: name, state: value[0]}
	}
	v.w.files = append(v.w.files, f)
}

func (e *end) set(field, value string) bool {
	switch field {
	case "":
		e.addr = address(value)
	case "text":
		e.text = value
	case "name":
		e.name = value
	case "lookup":
		e.lookup = value
	default:
		return false
	}
	return true
}

// readVectors reads the lines of a file; comments are nil.
func readVectors(t *testing.T, path string) (lines []string, vectors []*vector) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		lines = append(lines, line)
		if line == "" || strings.HasPrefix(line, "#") {
			vectors = append(vectors, nil)
			continue
		}
		v, err := parseVector(line)
		if err != nil {
			t.Fatalf("%s: %v in %s", path, err, line)
		}
		if seen[v.name] {
			t.Errorf("%s: %s is there twice", path, v.name)
		}
		seen[v.name] = true
		vectors = append(vectors, &v)
	}
	return lines, vectors
}

// TestVectors compares each vector with the real library and with Compat, by
// trying the rules in order and by the view.
func TestVectors(t *testing.T) {
	const path = "testdata/vectors"
	d := startDriver(t, buildDriver(t))
	lines, vectors := readVectors(t, path)
	compared := 0
	for i, v := range vectors {
		if v == nil {
			continue
		}
		compared++
		want := d.ask(v.w, v.q)
		if *update {
			v.want = want
			lines[i] = v.String()
		}
		if v.want != want {
			t.Errorf("%s: want %s, libwrap says %s", v.name, v.want, want)
		}
		tables := v.w.tables(hostsaccess.Compat)
		for range 3 { // the view is there from the second decision on
			if got := v.q.decide(tables); got != want {
				t.Errorf("%s: libwrap says %s, hostsaccess %s", v.name, want, got)
			}
		}
	}
	if compared < 300 {
		t.Errorf("%d vectors, want 300", compared)
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
