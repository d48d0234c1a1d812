package hostsaccess

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"
)

func source(name, data string) Source { return Source{Name: name, Data: []byte(data)} }

func endpoint(s string) Endpoint {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		a = netip.AddrPortFrom(netip.MustParseAddr(s), 0)
	}
	return Endpoint{Addr: a}
}

// TestTablesDoNotAllocate covers decisions by rules without options.
func TestTablesDoNotAllocate(t *testing.T) {
	const allow = "sshd: 10.0.0.0/8 EXCEPT 10.9.\nALL: .example.com, www.*, LOCAL\n22@10.0.0.1: u@[2001:db8::]/32\n"
	const deny = "ALL: UNKNOWN, [fe80::1], 192.0.2.1\nALL: 10.0.0.3/255.0.0.255\n"
	for _, mode := range []Mode{Strict, Compat} {
		tables := NewTables(mode, source("hosts.allow", allow), source("hosts.deny", deny), Environment{})
		for _, from := range []string{"10.1.2.3", "10.9.0.1", "2001:db8::1", "fe80::1%eth0", "192.0.2.1", "::ffff:10.0.0.3"} {
			r := Request{Daemon: "sshd", Client: endpoint(from), Server: endpoint("10.0.0.1:22"), User: "u"}
			r.Client.Name = "host.example.org"
			if n := testing.AllocsPerRun(100, func() { tables.Decide(&r) }); n != 0 {
				t.Errorf("%v: %v allocations for %v", mode, n, from)
			}
		}
	}
}

// TestPatternFileInsideItself is the one thing that can't be asked of libwrap
// itself: it overflows its stack.
func TestPatternFileInsideItself(t *testing.T) {
	files := map[string]string{"/etc/a": "192.0.2.1 /etc/b", "/etc/b": "10.1. /etc/a 10.2."}
	e := Environment{ReadFile: func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, fs.ErrNotExist
	}}
	for _, tt := range []struct {
		from          string
		strict, crash bool
	}{{"192.0.2.1", true, false}, {"10.1.0.1", true, false}, {"10.2.0.1", true, true}, {"10.3.0.1", false, true}} {
		r := Request{Daemon: "sshd", Client: endpoint(tt.from)}
		compat := NewTables(Compat, source("hosts.allow", "sshd: /etc/a\n"), Source{State: TableMissing}, e)
		for range 3 {
			d := compat.Decide(&r)
			if crashes := d.Why == whyCrash; crashes != tt.crash || crashes == d.Granted() {
				t.Errorf("%s: libwrap grants %v: %s", tt.from, d.Granted(), d.Why)
			}
		}
		strict := NewTables(Strict, source("hosts.allow", "sshd: /etc/a\n"), source("hosts.deny", "ALL: ALL\n"), e)
		if d := strict.Decide(&r); d.Granted() != tt.strict {
			t.Errorf("%s: strict grants %v", tt.from, d.Granted())
		}
	}
}

func TestCompatWarnings(t *testing.T) {
	tables := NewTables(Compat, source("hosts.allow", "sshd ALL\n\nsshd: ALL"), Source{Name: "hosts.deny", State: TableUnreadable}, Environment{})
	var got []string
	for _, d := range tables.Diagnostics() {
		got = append(got, d.String())
	}
	want := []string{
		`hosts.allow:1:0: warning: missing ":" separator`,
		`hosts.allow:2:0: warning: missing newline or line too long`,
		`hosts.deny: warning: cannot open hosts.deny`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// FuzzTables wants no panic, the same answer from the view and from trying all
// rules, and a refusal wherever an option can't be carried out.
func FuzzTables(f *testing.F) {
	f.Add("sshd: .example.com EXCEPT www*: spawn echo %h: allow\n", "ALL: 10.1.2.3/24, @ng, /etc/x\n", "10. [::1] /etc/x", "sshd", "10.1.2.3", "www.example.com", "root")
	f.Add("22@LOCAL: root@ALL: twist %c %s\n", "ALL: [fe80::%lo]/10: aclexec x: deny\n", "*", "22", "fe80::1%lo", "unknown", "")
	f.Add("a\\\nb: \x00c\r: umask 8: setenv %u", "\ufeff: : :", "@", "::ffff:10.1.2.3", "::ffff:10.1.2.3", "", "unknown")
	f.Fuzz(func(t *testing.T, allow, deny, pattern, daemon, from, name, user string) {
		e := Environment{ReadFile: func(string) ([]byte, error) { return []byte(pattern), nil }}
		for _, m := range []Mode{Strict, Compat} {
			tables := NewTables(m, source("hosts.allow", allow), source("hosts.deny", deny), e)
			r := Request{Daemon: daemon, Client: Endpoint{Name: name, Text: from}, User: user, AclExec: func(string) bool { return len(name)%2 == 0 }}
			if a, err := netip.ParseAddr(from); err == nil {
				r.Client.Addr, r.Client.Text = netip.AddrPortFrom(a, 1023), ""
			}
			var first Decision
			for i := range 3 {
				d := tables.Decide(&r)
				if n := len(d.Actions); n > 0 && d.Actions[n-1].Fault != "" && d.Granted() {
					t.Errorf("%v: granted in spite of %s", m, d.Actions[n-1].Fault)
				}
				if i == 0 {
					first = d
				} else if d.Verdict != first.Verdict || d.Rule != first.Rule || d.Why != first.Why || len(d.Actions) != len(first.Actions) {
					t.Errorf("%v: %v by %v (%s) from the view, %v by %v (%s) by trying", m, d.Verdict, d.Rule, d.Why, first.Verdict, first.Rule, first.Why)
				}
			}
		}
	})
}
