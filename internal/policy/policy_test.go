package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/hostsaccess"
	"rpcward/rpcbind"
)

// parse makes a policy of the text of two files.
func parse(allow, deny string, o Options) (*Policy, []hostsaccess.Diagnostic, error) {
	return New(hostsaccess.Parse("/etc/hosts.allow", []byte(allow)), hostsaccess.Parse("/etc/hosts.deny", []byte(deny)), o)
}

func network(source string) *Origin {
	return &Origin{
		Channel: Network, NetID: rpcbind.UDP,
		Source: netip.AddrPortFrom(netip.MustParseAddr(source), 700),
		Local:  netip.MustParseAddrPort("10.255.0.1:111"),
	}
}

func TestDecide(t *testing.T) {
	const howto = "portmap : 192.168.1.0/255.255.255.0\nsshd : ALL\n"
	tests := []struct {
		name, allow, deny string
		def               Default
		origin            *Origin
		want              string // verdict, listed, rule, why
	}{
		{"listed", howto, "", Closed, network("192.168.1.7"), "answer listed hosts.allow:1: matched hosts.allow"},
		{"listed, mapped", howto, "", Closed, network("::ffff:192.168.1.7"), "answer listed hosts.allow:1: matched hosts.allow"},
		{"not listed", howto, "", Closed, network("192.168.2.7"), "refuse: no rule matched: closed until opened"},
		{"not listed, open", howto, "", Allow, network("192.168.2.7"), "answer: no rule matched: answered by default"},
		{"refused", howto, "ALL: ALL\n", Closed, network("192.168.2.7"), "refuse hosts.deny:1: matched hosts.deny"},
		{"refused, open", howto, "ALL: ALL\n", Allow, network("192.168.2.7"), "refuse hosts.deny:1: matched hosts.deny"},
		{"no rules", "", "", Closed, network("10.0.0.2"), "refuse: no rule names the port mapper: only this host is answered"},
		{"no rules, open", "", "", Allow, network("10.0.0.2"), "answer: no rule matched: answered by default"},
		{"rules of others", "sshd: ALL\n", "mountd: ALL\n", Closed, network("10.0.0.2"), "refuse: no rule names the port mapper: only this host is answered"},
		{"name in deny, open", "", "portmap: x.example\n", Allow, network("10.0.0.2"), "refuse hosts.deny:1: may match hosts.deny: names and users are never looked up"},
		{"own address from the network", "", "", Closed, network("127.0.0.1"), "refuse: no rule names the port mapper: only this host is answered"},
		{"unix despite rules", "", "ALL: ALL\n", Closed, &Origin{Channel: Unix, NetID: rpcbind.Local, UID: 1000}, "answer: this host"},
		{"loopback despite rules", "", "ALL: ALL\n", Closed, &Origin{Channel: Loopback, Source: netip.MustParseAddrPort("127.0.0.1:700")}, "answer: this host"},
		{"loopback, own network address", "", "ALL: ALL\n", Closed, &Origin{Channel: Loopback, Source: netip.MustParseAddrPort("10.0.0.1:700")}, "answer: this host"},
		{"network, from the address called", "", "ALL: ALL\n", Closed, network("10.255.0.1"), "refuse hosts.deny:1: matched hosts.deny"},
		{"claimed", "", "ALL: ALL\n", Closed, &Origin{Channel: Claimed, Source: netip.MustParseAddrPort("10.255.0.1:700")}, "answer: this host"},
		{"no source", "ALL: ALL\n", "", Closed, &Origin{}, "refuse: the client's address is not known"},
		{"channel of the future", "", "", Closed, &Origin{Channel: 77, Source: netip.MustParseAddrPort("10.0.0.1:700")}, "refuse: no rule names the port mapper: only this host is answered"},
		{"all three names", "rpcward: 10.1.\nrpcbind: 10.2.\nPORTMAP: 10.3.\n", "", Closed, network("10.3.0.2"), "answer listed hosts.allow:3: matched hosts.allow"},
		{"port", "111: 10.\n", "", Closed, network("10.3.0.2"), "answer listed hosts.allow:1: matched hosts.allow"},
		{"address of ours", "portmap@10.255.0.1: 10.\n", "", Closed, network("10.3.0.2"), "answer listed hosts.allow:1: matched hosts.allow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := parse(tt.allow, tt.deny, Options{Default: tt.def})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, describe(p.Decide(tt.origin))); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func describe(d Decision) string {
	s := d.Verdict.String()
	if d.Listed {
		s += " listed"
	}
	if d.Rule != nil {
		s += " " + d.Rule.String()
	}
	return s + ": " + d.Why
}

func TestZeroPolicy(t *testing.T) {
	for name, p := range map[string]*Policy{"zero": {}, "built in": BuiltIn()} {
		if d := p.Decide(network("10.0.0.1")); d.Verdict != Refuse || d.Why == "" {
			t.Errorf("%s policy: a stranger: %v", name, describe(d))
		}
		if d := p.Decide(&Origin{Channel: Unix}); d.Verdict != Answer {
			t.Errorf("%s policy: this host: %v", name, describe(d))
		}
		if got, want := p.Summary(), "this host only (no usable policy)"; got != want {
			t.Errorf("%s policy: summary %q, want %q", name, got, want)
		}
	}
}

func TestNewWithoutFiles(t *testing.T) {
	p, found, err := New(nil, nil, Options{})
	if err != nil || len(found) != 0 {
		t.Fatalf("error %v, findings %v", err, found)
	}
	if d := p.Decide(network("10.0.0.1")); d.Verdict != Refuse {
		t.Errorf("a stranger: %v", describe(d))
	}
}

func TestWrongRules(t *testing.T) {
	tests := []struct{ name, allow, deny, want, hint string }{
		{"about the port mapper", "portmap: 10.1.2.3/24\n", "",
			`/etc/hosts.allow:1:10: "10.1.2.3/24" has bits set behind the network`, "write 10.1.2.0/24 for the network, or the address alone"},
		{"about all", "", "sshd: ALL\nALL: [2001:db8::1\n",
			`/etc/hosts.deny:2:6: unbalanced brackets in "[2001:db8::1"`, "IPv6 addresses are written [2001:db8::1]"},
		{"several", "rpcbind: 10\nportmap ALL\n", "rpcward: 10.1\n",
			`/etc/hosts.allow:1:10: "10" is not a whole IPv4 address (and 2 more wrong rules)`, "write 10.0.0.0/8"},
		{"without colon", "", "rpcbind ALL\n", `/etc/hosts.deny:1:1: no ":" between daemons and clients`, `write "daemons : clients"`},
		{"swallowed by a comment", "", "# all \\\nALL: ALL\n",
			`/etc/hosts.deny:2:1: the comment above ends in "\", which makes this line part of it`, `remove the "\" at the end of the comment`},
		{"a wrong option", "ALL: 10.: frobnicate\n", "",
			`/etc/hosts.allow:1:11: unknown option "frobnicate"`, `options are described in hosts_options(5); write "\:" for a colon in a value`},
		{"excepted, but who knows", "ALL EXCEPT portmap: 10\n", "", `/etc/hosts.allow:1:21: "10" is not a whole IPv4 address`, "write 10.0.0.0/8"},
		{"about another service", "sshd: 10\nportmap: 10.\n", "in.telnetd ALL\nsshd mountd 10.0.0.1 EXCEPT ALL\n", "", ""},
		{"without colon, second name", "", "sshd rpcbind 10.\n", `/etc/hosts.deny:1:1: no ":" between daemons and clients`, `write "daemons : clients"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, found, err := parse(tt.allow, tt.deny, Options{})
			if tt.want == "" {
				if err != nil || p == nil {
					t.Fatalf("error %v", err)
				}
				for _, d := range found {
					if d.Severity != hostsaccess.Warning {
						t.Errorf("%v is no warning", d)
					}
				}
				if len(found) == 0 {
					t.Error("nothing was found")
				}
				return
			}
			var wrong *RuleError
			if p != nil || !errors.As(err, &wrong) {
				t.Fatalf("policy %v, error %v", p, err)
			}
			if diff := cmp.Diff([]string{tt.want, tt.hint}, []string{err.Error(), wrong.Hint}); diff != "" {
				t.Errorf("error and hint (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookalikes(t *testing.T) {
	_, found, err := parse("portmapper: 10.\nsunrpc sshd: ALL\nportmap: 11.\n", "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, fmt.Sprintf("%v [%s] %s", d, d.Code, d.Hint))
	}
	want := []string{
		`/etc/hosts.allow:1:1: warning: "portmapper" does not name the port mapper [lookalike-name] write portmap or rpcbind`,
		`/etc/hosts.allow:2:1: warning: "sunrpc" does not name the port mapper [lookalike-name] write portmap or rpcbind`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestSummary(t *testing.T) {
	tests := []struct {
		name, allow, deny string
		def               Default
		want              string
	}{
		{"nothing", "", "", Closed, "this host only (no rule names the port mapper)"},
		{"others", "sshd: ALL\n", "", Closed, "this host only (no rule names the port mapper)"},
		{"all refused", "", "ALL: ALL\n", Closed, "this host only"},
		{"names only", "portmap: LOCAL .example.com\n", "", Closed, "this host only"},
		{"one network", "# x\n\nportmap: 192.168.1.0/24\n", "", Closed, "this host and 192.168.1.0/24 (hosts.allow:3)"},
		{"everybody", "ALL: ALL\n", "", Closed, "this host and every host (hosts.allow:1)"},
		{"everybody but", "ALL: ALL EXCEPT 10. 11. EXCEPT 10.1.\n", "", Closed, "this host and every host except 10., 11. except 10.1. (hosts.allow:1)"},
		{"a name besides", "ALL: LOCAL, 192.168.0.0/255.255.0.0, u@10.\n", "", Closed, "this host and 192.168.0.0/255.255.0.0 (hosts.allow:1)"},
		{"shadowed", "portmap: 10.\nrpcbind: 10.1.\n", "ALL: 11.: allow\n", Closed, "this host and 10. (hosts.allow:1), 11. (hosts.deny:1)"},
		{"many rules", strings.Repeat("portmap: 10.\n", 1) + "a: ALL\n" + "ALL: 11.\nALL: 12.\nALL: 13.\nALL: 14.\nALL: 15.\n", "", Closed,
			"this host and 10. (hosts.allow:1), 11. (hosts.allow:3), 12. (hosts.allow:4), 13. (hosts.allow:5), and the clients of 2 more rules"},
		{"long rule", "portmap: " + strings.Repeat("10.1.2.3 ", 100) + "\n", "", Closed,
			"this host and 10.1.2.3, 10.1.2.3, 10.1.2.3, 10.1.2.3, 10.1.2.3, 10.1.2.3, 10.1.2.3, ... (hosts.allow:1)"},
		{"open", "portmap: 10.\n", "portmap: 11.\n", Allow, "every host that no rule refuses (by default)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := parse(tt.allow, tt.deny, Options{Default: tt.def})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.Summary()); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p, _, err := parse("portmap: 192.168.1. [2001:db8::]/32\nportmap@10.255.0.1: 10.0.0.3/255.0.0.255\n", "ALL: x.example\n", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*Origin{network("192.168.1.7"), network("10.9.9.3"), network("::ffff:1.2.3.4"), {Channel: Unix}, {}} {
		if n := testing.AllocsPerRun(100, func() { p.Decide(o) }); n != 0 {
			t.Errorf("a decision about %v allocates %v times", o.Source, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p, _, err := parse("portmap: 192.168.1. [2001:db8::]/32\n", "ALL: ALL\n", Options{})
	if err != nil {
		b.Fatal(err)
	}
	o := network("192.168.1.7")
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(o)
	}
}
