package hostsaccess

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestConsequencesAreTrue holds what Check says of the file of all traps
// against what libwrap does, as Compat decides: whom each line is meant for, by
// the daemon that it names, and whether he gets in.
func TestConsequencesAreTrue(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/TestCheck/traps.txtar")
	if err != nil {
		t.Fatal(err)
	}
	const in, out = true, false
	tests := []struct {
		daemon, client string
		getsIn         bool
	}{
		// hosts.allow, with nothing else to let anybody in
		{"s1", "198.51.100.1", in}, // ALL in a comment
		{"s2", "2001:db8::1", in}, {"s2", "10.0.0.1", out},
		{"s4", "198.51.100.3", in},
		{"s5", "10.0.0.9", in},
		{"s6", "10.1.2.3", in},      // the exception never matches
		{"s7", "198.51.100.1", out}, // refused by the option
		{"s8", "198.51.100.1", in},  // nobody knows its name
		{"s9", "198.51.100.1", in},
		{"t1", "192.0.2.1", out}, {"t2", "192.0.2.1", out}, {"t5", "192.0.2.1", out},
		{"t4", "192.0.2.1", in},
		// hosts.deny
		{"sshd", "192.0.2.66", in}, {"in.telnetd", "10.1.1.1", in},
		{"a1", "10.1.1.1", in}, {"a2", "10.1.2.9", in}, {"a3", "10.1.2.3", in}, {"a4", "10.1.2.9", in}, {"a5", "10.9.9.9", in},
		{"a6", "2001:db8::1", in}, {"a7", "10.1.1.1", in}, {"a7", "2001:db8::1", out}, {"a8", "2001:db8::1", in}, {"a9", "2001:db8::2", in},
		{"b1", "10.1.1.1", in}, {"b2", "10.1.1.1", in}, {"b4", "10.1.1.1", in}, {"b5", "192.168.7.9", out},
		{"b6", "192.0.2.1", in}, {"b7", "10.1.1.1", in}, {"b9", "10.1.1.1", in}, {"c1", "10.1.1.1", in},
		{"rpcbind", "192.0.2.3", in}, {"portmap", "192.0.2.3", out},
		{"c2", "10.0.0.1", in}, {"c3", "10.1.2.3", in}, {"c4", "10.1.2.9", out}, {"c5", "10.1.2.3", in},
		{"c8", "10.1.2.3", in}, {"c9", "10.1.2.3", in}, {"covered", "10.0.0.9", in},
		{"d1", "10.1.1.1", in}, {"d3", "10.1.2.3", in}, {"d4", "10.1.1.1", in}, {"d5", "2001:db8::1", in},
		{"d6", "192.0.2.1", out}, {"d8", "192.0.2.1", out}, {"d9", "192.0.2.1", out}, {"e1", "192.0.2.1", out},
	}
	// The last line, which has no newline, refuses all that come so far; what
	// the lines above do is asked without it.
	deny := string(unended(archive.Files[1].Data))
	whole := strings.TrimSuffix(deny, "e2: ALL")
	read := Environment{ReadFile: machine.ReadFile}
	source := func(name, text string) Source { return Source{Name: name, Data: []byte(text)} }
	allow := source("hosts.allow", string(archive.Files[0].Data))
	both := NewTables(Compat, allow, source("hosts.deny", whole), read)
	alone := NewTables(Compat, allow, source("hosts.deny", "ALL: ALL\n"), read)
	request := func(daemon, client string) *Request {
		return &Request{Daemon: daemon, Client: Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr(client), 700)}}
	}
	for _, tt := range tests {
		tables := both
		if tt.daemon[0] == 's' && tt.daemon != "sshd" || tt.daemon[0] == 't' {
			tables = alone
		}
		if d := tables.Decide(request(tt.daemon, tt.client)); (d.Verdict != Deny) != tt.getsIn {
			t.Errorf("%s from %s: %v by %v (%s)", tt.daemon, tt.client, d.Verdict, d.Rule, d.Why)
		}
	}
	ends := NewTables(Compat, allow, source("hosts.deny", deny), read)
	if d := ends.Decide(request("nobody-named-it", "10.1.1.1")); d.Verdict != Deny {
		t.Errorf("behind a line without newline: %v", d.Verdict)
	}
}
