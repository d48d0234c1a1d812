package hostsaccess

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMend(t *testing.T) {
	tests := []struct{ name, input, want string }{
		{"nothing", "# c \n\n\ta :10. \\\n 11.,\n", "# c \n\n\ta :10. \\\n 11.,\n"},
		{"host bits", "a: 10.1.2.3/24, 10.\n", "a: 10.1.2.0/24, 10.\n"},
		{"host bits of a mask", "a: 10.1.2.0/255.255.0.0\n", "a: 10.1.0.0/255.255.0.0\n"},
		{"dot", "a: ALL EXCEPT\t10.1.2 # x y\nb: ALL\n", "# x y\na: ALL EXCEPT\t10.1.2.0/24\nb: ALL\n"},
		{"10/8", "a:10/8\n", "a:10.0.0.0/8\n"},
		{"dead masks", "a: 0.0.0.0/0 10.1.2.3/255.255.255.255\n", "a: 0.0.0.0/0.0.0.0 10.1.2.3\n"},
		{"dead mask over all", "a: 1.2.3.4/0\n", "a: 0.0.0.0/0.0.0.0\n"},
		{"IPv6 without brackets", "a: ::1 2001:db8::1/32 fe80::1%eth0 : allow\n", "a: [::1] [2001:db8::]/32 [fe80::1%eth0] : allow\n"},
		{"brackets", "a: [::1\nb: 2001:db8::1]\nc: [2001:db8::/32]\nd: [10.1.2.3]\n", "a: [::1]\nb: [2001:db8::1]\nc: [2001:db8::]/32\nd: 10.1.2.3\n"},
		{"mapped", "a: [::ffff:10.1.2.3]\n", "a: 10.1.2.3/32\n"},
		{"dot too many", "a: 10.1.2.3.\n", "a: 10.1.2.3\n"},
		{"glob", "a: 10.1.*\n", "a: 10.1.\n"},
		{"newline", "a: ALL", "a: ALL\n"},
		{"newline behind a backslash", "a: ALL\\\n", "a: ALL\n"},
		{"CR LF", "# x\r\na: 10.\r\n", "# x\na: 10.\n"},
		{"backslash CR LF", "a: 10. \\\r\n  11.\n", "a: 10. \\\n  11.\n"},
		{"old Mac", "a: 10.\rb: ALL\r# c\r", "a: 10.\nb: ALL\n# c\n"},
		{"CR among clients", "a: 10.\r 11.\n", "a: 10.\r 11.\n"},
		{"byte order mark", "\ufeffa: ALL\n", "a: ALL\n"},
		{"comment behind a rule", "# one\n\ta: 10.  # two\n", "# one\n# two\n\ta: 10.\n"},
		{"comment behind a continued rule", "a: 10. \\\n  11. # two\nb: ALL\n", "# two\na: 10. \\\n  11.\nb: ALL\n"},
		{"comment with options", "a: 10. # two: deny\n", "a: 10. # two: deny\n"},
		{"indented comment", "  # all is well\n\t# a: ALL\n", "# all is well\n# a: ALL\n"},
		{"last colon", "a: ALL :\n", "a: ALL\n"},
		{"last colons", "a: ALL : deny : :\n", "a: ALL : deny\n"},
		{"colon in the middle", "a: ALL : : deny\n", "a: ALL : : deny\n"},
		{"for a person to say", "a ALL\nb: 010.1.2.3 .3 10.0.0.0/33\n# x \\\nc: ALL\n", "a ALL\nb: 010.1.2.3 .3 10.0.0.0/33\n# x \\\nc: ALL\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, mended := Parse("hosts.allow", []byte(tt.input)).Mend()
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("mended (-want +got):\n%s", diff)
			}
			if (got != tt.input) != (len(mended) > 0) {
				t.Errorf("it says that it mended %v", mended)
			}
		})
	}
}

// TestMendKeepsTheRest mends the file of all traps: what was not wrong stands
// there as before, and what had one right answer is right.
func TestMendKeepsTheRest(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "TestCheck", "traps.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	f := Parse("hosts.deny", data)
	source, _ := f.Mend()
	checkMended(t, f, source)
}

func TestEdits(t *testing.T) {
	const source = "# head\na: 10., 11. # no\nb: 10.\nc: 1. 2. \\\n 3. : deny\nd: 4."
	f := Parse("hosts.allow", []byte(source))
	b, c, d := f.Rules[1], f.Rules[2], f.Rules[3]
	tests := []struct {
		name  string
		edits []Edit
		want  string
	}{
		{"append", []Edit{f.AppendLine("e: 5.")}, source + "\ne: 5.\n"},
		{"insert", []Edit{f.InsertLine(c, "e: 5.")}, strings.Replace(source, "c:", "e: 5.\nc:", 1)},
		{"remove rule", []Edit{f.RemoveRule(c)}, strings.Replace(source, "c: 1. 2. \\\n 3. : deny\n", "", 1)},
		{"add client", []Edit{f.AddClient(c, "[::1]")}, strings.Replace(source, "3.", "3. [::1]", 1)},
		{"add client with a comma", []Edit{f.AddClient(f.Rules[0], "12.")}, strings.Replace(source, "11.", "11., 12.", 1)},
		{"remove first client", f.RemoveClients(c, []int{0}), strings.Replace(source, "1. 2.", "2.", 1)},
		{"remove last client", f.RemoveClients(c, []int{2}), strings.Replace(source, " \\\n 3.", "", 1)},
		{"remove only client", f.RemoveClients(b, []int{0}), strings.Replace(source, "b: 10.\n", "", 1)},
		{"remove all but the middle", f.RemoveClients(c, []int{0, 2}), strings.Replace(source, "1. 2. \\\n 3.", "2.", 1)},
		{"remove the first two", f.RemoveClients(c, []int{0, 1}), strings.Replace(source, "1. 2. \\\n 3.", "3.", 1)},
		{"several, in any order", []Edit{f.RemoveRule(d), f.RemoveRule(b)}, "# head\na: 10., 11. # no\nc: 1. 2. \\\n 3. : deny\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, f.Rewrite(tt.edits...)); diff != "" {
				t.Errorf("rewritten (-want +got):\n%s", diff)
			}
		})
	}
	if got := Parse("x", nil).AppendLine("a: 1.").Text; got != "a: 1.\n" {
		t.Errorf("the first line is %q", got)
	}
	if got := Parse("x", []byte("a: 1.\r\n")).AppendLine("b: 1.").Text; got != "b: 1.\r\n" {
		t.Errorf("the line among those that end in CR LF is %q", got)
	}
}

// print writes the file anew from its tree: tokens, and what lies between them.
func print(t *testing.T, f *File) string {
	var b strings.Builder
	at := 0
	upTo := func(tok Token) {
		if tok.Text == "" {
			return
		}
		b.WriteString(f.Source[at:tok.Offset])
		b.WriteString(f.Source[tok.Offset:tok.End])
		at = tok.End
	}
	for _, r := range f.Rules {
		eachToken(r, upTo)
	}
	b.WriteString(f.Source[at:])
	return b.String()
}

func eachToken(r *Rule, visit func(Token)) {
	for _, term := range r.Daemons.Terms {
		for _, d := range term.Patterns {
			visit(d.Token)
		}
	}
	for _, term := range r.Clients.Terms {
		for _, c := range term.Patterns {
			visit(c.Token())
		}
	}
	for _, o := range r.Options {
		visit(o.Token)
	}
}

// comments returns the comment lines of a file, without blanks in front.
func comments(source string) (list []string) {
	for line := range strings.FieldsFuncSeq(source, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(strings.TrimPrefix(line, byteOrderMark)); strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list
}

// TestMendAll mends more mistakes than Parse lists.
func TestMendAll(t *testing.T) {
	const n = 3 * maxFindings
	f := Parse("hosts.deny", []byte(strings.Repeat("a: 10.1.2.3/24 # b\r\n", n)))
	got, mended := f.Mend()
	if want := strings.Repeat("# b\na: 10.1.2.0/24\n", n); got != want {
		t.Errorf("mended to %.200q", got)
	}
	if want := 2*n + 1; len(mended) != want { // of each line two, and the line ends
		t.Errorf("%d mended, want %d", len(mended), want)
	}
}

// checkMended checks that source, which Mend made of f, has all that f had.
func checkMended(t *testing.T, f *File, source string) {
	t.Helper()
	have := comments(source)
	for _, c := range comments(f.Source) {
		if !slices.Contains(have, c) && !slices.Contains(have, strings.TrimSpace(strings.TrimRight(c, `\`))) {
			t.Errorf("the comment %q got lost in\n%s", c, source)
		}
	}
	after := Parse(f.Name, []byte(source))
	if again, more := after.Mend(); len(more) > 0 && again != source {
		t.Errorf("mending again made of\n%q\n%q, for %v", source, again, more)
	}
	// Of a line with carriage returns or a comment only these are reported.
	if countErrors(after) > countErrors(f) && !strings.ContainsAny(f.Source, "\r\x00#") {
		t.Errorf("mending made %d errors of %d:\n%q\n%q\n%v", countErrors(after), countErrors(f), f.Source, source, after.Diagnostics)
	}
	var before []string // rules in which nothing was found
	for _, r := range f.Rules {
		if !slices.ContainsFunc(f.Diagnostics, func(d Diagnostic) bool { return d.Pos.Line >= r.Pos.Line && d.Pos.Line <= r.LastLine }) {
			before = append(before, r.Text)
		}
	}
	for _, r := range after.Rules {
		if i := slices.Index(before, r.Text); i >= 0 {
			before = slices.Delete(before, i, i+1)
		}
	}
	if len(before) > 0 {
		t.Errorf("these rules were right and got lost: %q\nin %q\nmade of %q", before, source, f.Source)
	}
}

func countErrors(f *File) (n int) {
	for _, d := range f.Diagnostics {
		if d.Severity == Error {
			n++
		}
	}
	return n
}

// FuzzMend checks that printing what was parsed gives what was read, and that
// mending loses nothing, ends, and is done once.
func FuzzMend(f *testing.F) {
	traps, err := os.ReadFile(filepath.Join("testdata", "TestCheck", "traps.txtar"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(traps))
	for line := range strings.Lines(string(traps)) {
		f.Add(line)
	}
	f.Add("a: 10.\rb: ALL\r# c\r")
	f.Add("a: 1.2.3.4/8 # \\\nb: ALL\n # c\\\n d: 1\n")
	f.Fuzz(func(t *testing.T, source string) {
		file := Parse("hosts.deny", []byte(source))
		if got := print(t, file); got != source {
			t.Fatalf("printed %q\nof %q", got, source)
		}
		if len(file.Diagnostics) >= maxFindings {
			return
		}
		mended, _ := file.Mend()
		checkMended(t, file, mended)
		Check(nil, file, machine)
	})
}
