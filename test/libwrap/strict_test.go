package libwrap

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"rpcward/hostsaccess"
)

// plain turns addresses that are written down into addresses, for Strict,
// which does not look at text.
func (q *query) plain() *query {
	c := *q
	for _, e := range []*end{&c.client, &c.server} {
		if a, err := netip.ParseAddr(e.text); err == nil {
			e.addr, e.text = netip.AddrPortFrom(a, e.addr.Port()), ""
		}
	}
	return &c
}

// strict returns what Strict says, in one word, and its reason.
func (q *query) strict(t *hostsaccess.Tables) (verdict, why string) {
	d := q.plain().ask(t, &hostsaccess.History{Decisions: toInt(q.resident), AclExecFailed: q.leak})
	verdict = "granted"
	if d.Verdict == hostsaccess.Deny {
		verdict = "denied"
	}
	for _, a := range d.Actions {
		if a.Kind == hostsaccess.ActTwist && a.Fault == "" {
			verdict = "delegated"
		}
	}
	return verdict, d.Why
}

// readClasses reads testdata/differences: a class and, indented below it, what
// libwrap and Strict say and the names of the vectors about which they do.
func readClasses(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/differences")
	if err != nil {
		t.Fatal(err)
	}
	class := ""
	expected := map[string]string{} // by vector: class, libwrap, strict
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
		case line[0] != ' ' && line[0] != '\t':
			class, _, _ = strings.Cut(line, ":")
		case len(f) < 4 || f[1] != "->":
			t.Errorf("testdata/differences: %q is not libwrap -> strict vectors", strings.TrimSpace(line))
		default:
			for _, name := range f[3:] {
				expected[name] = fmt.Sprintf("%s: %s -> %s", class, f[0], f[2])
			}
		}
	}
	return expected
}

// TestStrictDiffers wants each vector on which Strict says something else than
// libwrap in a class that says why.
func TestStrictDiffers(t *testing.T) {
	expected := readClasses(t)
	_, vectors := readVectors(t, "testdata/vectors")
	for _, v := range vectors {
		if v == nil {
			continue
		}
		tables := v.w.tables(hostsaccess.Strict)
		strict, why := v.q.strict(tables)
		libwrap := strings.TrimSuffix(strings.Fields(v.want)[0], ";")
		class, listed := expected[v.name]
		delete(expected, v.name)
		switch {
		case strict == libwrap && listed:
			t.Errorf("%s: both say %s, but testdata/differences says %s", v.name, strict, class)
		case strict != libwrap && !listed:
			t.Errorf("%s: %s -> %s (%s) is in no class of testdata/differences; %v", v.name, libwrap, strict, why, tables.Diagnostics())
		case listed && !strings.HasSuffix(class, fmt.Sprintf(": %s -> %s", libwrap, strict)):
			t.Errorf("%s: %s -> %s, but testdata/differences says %s", v.name, libwrap, strict, class)
		}
	}
	for name, class := range expected {
		t.Errorf("%s: %s is no vector", class, name)
	}
}

// Patterns and clients about which Strict and libwrap agree.
var (
	agreedDaemons = []string{"ALL", "sshd", "SSHD", "rpcbind", "s*", "?shd", "rpc.", ".d", ".hd", "KNOWN", "22", "111", "sshd@10.0.0.1", "ALL@10.9.", "22@[2001:db8::1]", "sshd@good.example.com"}
	agreedClients = []string{"ALL", "10.1.2.3", "10.9.9.9", "10.", "10.1.", "10.0.0.0/8", "10.1.0.0/255.255.0.0", "0.0.0.0/0.0.0.0", "10.0.0.3/255.0.0.255", "10.1.2.3/32", "[2001:db8::1]", "[2001:db8::]/32", "[::]/0", "[fe80::]/10",
		"good.example.com", ".example.com", "good.", "good*", "*.com", "g*d.*", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID", "@friends", "/etc/list", "gateway", "root@ALL", "ro*@10.", "KNOWN@.com", "UNKNOWN@ALL", "ALL@10.1."}
	agreedOptions = []string{": allow", ": deny", ": severity local0.info", `: setenv X a\:b : deny`, ": nice 0:allow", ": spawn echo %h", ": twist echo %c", ": aclexec check: deny", ": umask 022"}
	agreedFrom    = []string{"10.1.2.3", "10.1.9.3", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db9::1", "fe80::1", "::ffff:10.1.2.3"}
	agreedNames   = []string{"good.example.com", "gateway", "evil.example.net", "unknown", "paranoid"}
)

func (d dice) agreedTable(name string) file {
	f := file{name: name, state: 'r'}
	for range d.IntN(5) {
		list := func(from []string) string {
			s := d.pick(from)
			for d.one(2) {
				s += d.pick([]string{" ", ", ", "\t", ",\\\n", " EXCEPT "}) + d.pick(from)
			}
			return s
		}
		f.text += list(agreedDaemons) + d.pick([]string{":", " : "}) + list(agreedClients)
		if d.one(4) {
			f.text += d.pick(agreedOptions)
		}
		f.text += d.pick([]string{"\n", "\n# portmap: ALL\n", "\n\n"})
	}
	return f
}

// TestStrictAgreesWithLibwrap compares verdict and line where the files mean
// what they say and all that they ask for is known.
func TestStrictAgreesWithLibwrap(t *testing.T) {
	const perWorld = 10
	d := startDriver(t, buildDriver(t))
	s := seed(t)
	t.Logf("seed %d", s)
	r := dice{rand.New(rand.NewPCG(s, 1))}
	for range cases(t) / perWorld / 10 {
		w := &world{files: []file{r.agreedTable("hosts.allow"), r.agreedTable("hosts.deny"), {"/etc/list", 'r', "10.1. .example.com\n[2001:db8::1]\n"}}}
		tables := w.tables(hostsaccess.Strict)
		for range perWorld {
			q := &query{daemon: r.pick([]string{"sshd", "rpcbind"}), user: r.pick([]string{"root", "user", "unknown"})}
			q.client = end{addr: netip.AddrPortFrom(netip.MustParseAddr(r.pick(agreedFrom)), 1023), name: r.pick(agreedNames)}
			q.server = end{addr: address(r.pick([]string{"10.0.0.1:22", "10.9.9.9:111", "[2001:db8::1]:22"})), name: r.pick([]string{"good.example.com", "other.example.com"})}
			want := d.ask(w, q)
			got := outcome{severity: -1}
			decision := q.ask(tables, nil)
			if decision.Rule != nil {
				got.rule = fmt.Sprintf("%s:%d", decision.Rule.File, decision.Rule.LastLine)
			}
			got.verdict, _ = q.strict(tables)
			if decided, _, _ := strings.Cut(want, ";"); decided != got.String() {
				t.Fatalf("seed %d: libwrap says %s, Strict %s\n%s\n%v", s, want, got.String(), vector{"", w, q, ""}, tables.Diagnostics())
			}
		}
	}
}
