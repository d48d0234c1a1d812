package hostsaccess

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testService = Options{Names: []string{"portmap", "rpcbind", "rpcward"}, Port: 111}

// client returns the address written, or the zero one for "".
func client(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestDecide(t *testing.T) {
	const v4mapped = "::ffff:192.168.1.9"
	tests := []struct {
		name        string
		allow, deny string
		want        map[string]string // client, or client>local: verdict, rule
	}{
		{"no files", "", "", map[string]string{"10.0.0.1": "no rule", "::1": "no rule"}},
		{"howto", "portmap : 192.168.1.0/255.255.255.0\nsshd : ALL\n", "", map[string]string{
			"192.168.1.0": "allow hosts.allow:1", "192.168.1.255": "allow hosts.allow:1", v4mapped: "allow hosts.allow:1",
			"192.168.0.255": "no rule", "192.168.2.0": "no rule", "2001:db8::1": "no rule"}},
		{"net prefix", "portmap: 192.168.1.\n", "", map[string]string{"192.168.1.9": "allow hosts.allow:1", "192.168.10.9": "no rule"}},
		{"all services", "rpcbind mountd nfsd : 10.0.0.0/8\n", "ALL: ALL\n", map[string]string{"10.2.3.4": "allow hosts.allow:1", "11.0.0.1": "deny hosts.deny:1"}},
		{"LOCAL and a network", "ALL: LOCAL, 192.168.0.0/255.255.0.0\n", "", map[string]string{"192.168.3.4": "allow hosts.allow:1", "10.0.0.1": "no rule"}},
		{"LOCAL in deny", "", "ALL: LOCAL\n", map[string]string{"10.0.0.1": "deny hosts.deny:1"}},
		{"everybody", "ALL : ALL\n", "", map[string]string{"10.0.0.1": "allow hosts.allow:1", "2001:db8::1": "allow hosts.allow:1"}},
		{"all except a network", "portmap: ALL EXCEPT 192.168.1.0/24\n", "", map[string]string{
			"10.0.0.1": "allow hosts.allow:1", "::1": "allow hosts.allow:1", "192.168.1.7": "no rule", v4mapped: "no rule"}},
		{"nested except", "portmap: 10. EXCEPT 10.1. EXCEPT 10.1.2.\n", "", map[string]string{
			"10.1.2.3": "allow hosts.allow:1", "10.1.9.9": "no rule", "10.9.9.9": "allow hosts.allow:1"}},
		{"first match", "portmap: 10.1.0.0/16: deny\nportmap: 10.0.0.0/8\n", "portmap: ALL\n", map[string]string{
			"10.1.0.1": "deny hosts.allow:1", "10.2.0.1": "allow hosts.allow:2", "9.0.0.1": "deny hosts.deny:1"}},
		{"allow in hosts.deny", "", "portmap: 10.1.: allow\nportmap: 10.\n", map[string]string{
			"10.1.0.1": "allow hosts.deny:1", "10.2.0.1": "deny hosts.deny:2", "9.0.0.1": "no rule"}},
		{"hosts.allow first", "portmap: 10.\n", "portmap: 10.\n", map[string]string{"10.1.0.1": "allow hosts.allow:1"}},

		// The names are aliases of one thing.
		{"any case", "PortMap: ALL\n", "", map[string]string{"10.0.0.1": "allow hosts.allow:1"}},
		{"other service", "sshd: ALL\n", "mountd: ALL\n", map[string]string{"10.0.0.1": "no rule"}},
		{"except one alias in allow", "ALL EXCEPT portmap : 10.0.0.0/8\n", "", map[string]string{"10.0.0.1": "no rule"}},
		{"except one alias in deny", "", "ALL EXCEPT portmap: ALL\n", map[string]string{"10.0.0.1": "no rule"}},
		{"except another service", "ALL EXCEPT sshd: ALL\n", "", map[string]string{"10.0.0.1": "allow hosts.allow:1"}},
		{"except of except", "ALL EXCEPT rpc* EXCEPT portmap: ALL\n", "", map[string]string{"10.0.0.1": "allow hosts.allow:1"}},
		{"glob, suffix, prefix, port, known", "r*d: 10.1.\n.ward: 10.2.\nport.: 10.3.\n111: 10.4.\nKNOWN: 10.5.\n?ortmap: 10.6.\n112: 10.7.\n", "", map[string]string{
			"10.1.0.1": "allow hosts.allow:1", "10.2.0.1": "no rule", "10.3.0.1": "no rule",
			"10.4.0.1": "allow hosts.allow:4", "10.5.0.1": "allow hosts.allow:5", "10.6.0.1": "allow hosts.allow:6", "10.7.0.1": "no rule"}},

		// Numbers are meant as written.
		{"zero and full masks", "portmap: 10.1.2.3/255.255.255.255 10.1.2.4/32\n", "portmap: 0.0.0.0/0\n", map[string]string{
			"10.1.2.3": "allow hosts.allow:1", "10.1.2.4": "allow hosts.allow:1", "10.1.2.5": "deny hosts.deny:1", "::1": "no rule"}},
		{"every IPv6 is not IPv4", "", "portmap: [::]/0\n", map[string]string{
			"2001:db8::1": "deny hosts.deny:1", "10.0.0.1": "no rule", v4mapped: "no rule"}},
		{"mapped pattern", "portmap: [::ffff:192.168.1.0]/120\n", "", map[string]string{"192.168.1.9": "allow hosts.allow:1", v4mapped: "allow hosts.allow:1", "192.168.2.1": "no rule"}},
		{"mask with holes", "portmap: 10.0.0.3/255.0.0.255\nportmap: 10.9.\n", "portmap: 10.1.\n", map[string]string{
			"10.1.2.3": "allow hosts.allow:1", "10.1.2.4": "deny hosts.deny:1", "10.9.0.3": "allow hosts.allow:1", "10.9.0.4": "allow hosts.allow:2", "11.1.2.3": "no rule", "a00::3": "no rule"}},
		{"mask with holes behind a network", "portmap: 10.9.: deny\nportmap: 10.0.0.3/255.0.0.255\n", "", map[string]string{
			"10.9.0.3": "deny hosts.allow:1", "10.8.0.3": "allow hosts.allow:2"}},
		{"IPv6 network", "portmap: [2001:db8::]/32 EXCEPT [2001:db8::bad]\n", "", map[string]string{
			"2001:db8::1": "allow hosts.allow:1", "2001:db8::bad": "no rule", "2001:db9::1": "no rule"}},
		{"scope", "portmap: [fe80::1%eth0]\n", "", map[string]string{
			"fe80::1%eth0": "allow hosts.allow:1", "fe80::1%eth1": "no rule", "fe80::1%2": "no rule", "fe80::1": "no rule", "fe80::2%eth0": "no rule"}},
		{"scope in deny", "", "portmap: [fe80::1%eth0]\n", map[string]string{
			"fe80::1%eth0": "deny hosts.deny:1", "fe80::1%eth1": "no rule", "fe80::1%2": "deny hosts.deny:1", "fe80::1": "deny hosts.deny:1", "fe80::2%eth0": "no rule"}},
		{"pattern without scope", "portmap: [fe80::]/10\n", "", map[string]string{"fe80::1%eth0": "allow hosts.allow:1", "fe80::1": "allow hosts.allow:1"}},

		// What is not known closes.
		{"name in allow", "portmap: good.example.com\nportmap: 10.\n", "", map[string]string{"10.0.0.1": "allow hosts.allow:2", "9.0.0.1": "no rule"}},
		{"name in deny", "", "portmap: evil.example.com\n", map[string]string{"10.0.0.1": "deny hosts.deny:1"}},
		{"name excepted in allow", "portmap: ALL EXCEPT .evil.example.com\n", "", map[string]string{"10.0.0.1": "no rule"}},
		{"name excepted in deny", "", "portmap: ALL EXCEPT .good.example.com\n", map[string]string{"10.0.0.1": "deny hosts.deny:1"}},
		{"name excepted twice in allow", "portmap: 10. EXCEPT 10.1. EXCEPT good.example.com\n", "", map[string]string{
			"10.2.0.1": "allow hosts.allow:1", "10.1.0.1": "no rule"}},
		{"name excepted twice in deny", "", "portmap: 10. EXCEPT 10.1. EXCEPT evil.example.com\n", map[string]string{
			"10.2.0.1": "deny hosts.deny:1", "10.1.0.1": "deny hosts.deny:1", "9.0.0.1": "no rule"}},
		{"name with deny in allow", "portmap: evil.example.com: deny\nportmap: 10.\n", "", map[string]string{"10.0.0.1": "deny hosts.allow:1"}},
		{"name with allow in deny", "", "portmap: good.example.com: allow\nportmap: 10.\n", map[string]string{"10.0.0.1": "deny hosts.deny:2", "9.0.0.1": "no rule"}},
		{"glob over addresses", "portmap: 10.* *\n", "", map[string]string{"10.0.0.1": "no rule"}},
		{"user in allow", "portmap: root@10.0.0.1 ALL@10.0.0.2\n", "", map[string]string{"10.0.0.1": "no rule", "10.0.0.2": "allow hosts.allow:1"}},
		{"user in deny", "", "portmap: root@10.0.0.1\n", map[string]string{"10.0.0.1": "deny hosts.deny:1", "10.0.0.2": "no rule"}},
		{"file, netgroup, known", "portmap: /etc/x @ng KNOWN UNKNOWN PARANOID\n", "", map[string]string{"10.0.0.1": "no rule"}},
		{"broken rule in allow", "portmap: 10.0.0.0/8 10.1.2.3/24\n", "", map[string]string{"10.0.0.1": "no rule"}},
		{"broken rule in deny", "", "portmap: 10.1.2.3/24\n", map[string]string{"10.0.0.1": "deny hosts.deny:1"}},
		{"broken rule of another service", "sshd: 10.1.2.3/24\nportmap: ALL\n", "sshd\n", map[string]string{"10.0.0.1": "allow hosts.allow:2"}},
		{"command in allow", "portmap: 10.1.: spawn echo\nportmap: 10.\n", "", map[string]string{"10.1.0.1": "deny hosts.allow:1", "10.2.0.1": "allow hosts.allow:2"}},
		{"command and allow in deny", "", "portmap: 10.1.: spawn echo: allow\n", map[string]string{"10.1.0.1": "deny hosts.deny:1", "10.2.0.1": "no rule"}},
		{"harmless options", "portmap: ALL: severity info: setenv A B: keepalive: banners /x: rfc931\n", "", map[string]string{"10.1.0.1": "allow hosts.allow:1"}},

		// Addresses of this host.
		{"daemon at address", "portmap@10.0.0.1: 10.\n", "portmap@[2001:db8::1]: ALL\n", map[string]string{
			"10.0.0.9>10.0.0.1": "allow hosts.allow:1", "10.0.0.9>::ffff:10.0.0.1": "allow hosts.allow:1", "10.0.0.9>10.0.0.2": "no rule",
			"10.0.0.9>": "deny hosts.deny:1", "9.0.0.9>10.0.0.1": "no rule", "9.0.0.9>2001:db8::1": "deny hosts.deny:1"}},
		{"daemon at any", "portmap@ALL: 10.\n", "", map[string]string{"10.0.0.9": "allow hosts.allow:1"}},
		{"daemon at name", "portmap@www.example.com: 10.\n", "portmap@www.example.com: 11.\n", map[string]string{
			"10.0.0.9>10.0.0.1": "no rule", "11.0.0.9>10.0.0.1": "deny hosts.deny:1"}},
		{"except daemon at network", "ALL EXCEPT portmap@10.0.0.0/8: ALL\n", "", map[string]string{
			"1.2.3.4>10.0.0.1": "no rule", "1.2.3.4>11.0.0.1": "allow hosts.allow:1", "1.2.3.4>": "no rule"}},
		{"other daemon at address", "sshd@10.0.0.1: ALL\n", "", map[string]string{"1.2.3.4>10.0.0.1": "no rule"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := Compile(Parse("/etc/hosts.allow", []byte(tt.allow)), Parse("/etc/hosts.deny", []byte(tt.deny)), testService)
			got := make(map[string]string)
			for caller := range tt.want {
				from, local, ok := cutString(caller, '>')
				if !ok {
					local = "10.255.255.1"
				}
				d := m.Decide(client(from), client(local))
				got[caller] = d.Verdict.String()
				if d.Rule != nil {
					got[caller] += " " + d.Rule.String()
				}
				if d.Why == "" {
					t.Errorf("%s: no reason", caller)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("decisions (-want +got):\n%s", diff)
			}
		})
	}
}

func cutString(s string, sep byte) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func TestDaemonPatterns(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"ypserv", "ypserv", true}, {"ypserv", "YPSERV", true}, {"ypserv", "ypserv2", false},
		{".d", "rpc.d", true}, {".D", "rpc.d", true}, {".d", ".d", false}, {".d", "d", false}, // longer than the pattern, as in libwrap
		{"rpc.", "rpc.statd", true}, {"RPC.", "rpc.", true}, {"rpc.", "rpc", false},
		{"*d", "statd", true}, {"?tatd", "statd", true}, {"?statd", "statd", false}, {"*", "x", true},
		{"2049", "x", true}, {"2048", "x", false},
		{"100005", "100005", true}, {"100005", "100003", false},
		{"ALL", "x", true}, {"KNOWN", "x", true}, {"LOCAL", "x", false},
	}
	for _, tt := range tests {
		t.Run(tt.pattern+" "+tt.name, func(t *testing.T) {
			f := Parse("hosts.allow", []byte(tt.pattern+": ALL\n"))
			m, _ := Compile(f, nil, Options{Names: []string{tt.name}, Port: 2049})
			if m.Named() != tt.want {
				t.Errorf("names the service: %v, want %v", m.Named(), tt.want)
			}
		})
	}
}

func TestDecideWhy(t *testing.T) {
	tests := []struct{ name, allow, deny, want string }{
		{"nothing", "", "", "no rule names the service"},
		{"others only", "sshd: ALL\n", "", "no rule names the service"},
		{"no match", "portmap: 11.\n", "", "no rule matched"},
		{"allow", "portmap: 10.\n", "", "matched hosts.allow"},
		{"deny", "", "portmap: 10.\n", "matched hosts.deny"},
		{"deny in allow", "portmap: 10.: deny\n", "", "matched hosts.allow, option deny"},
		{"allow in deny", "", "portmap: 10.: allow\n", "matched hosts.deny, option allow"},
		{"doubt in deny", "", "portmap: x.example\n", "may match hosts.deny: names and users are never looked up"},
		{"doubt in allow", "portmap: x.example: deny\n", "", "may match a refusing rule in hosts.allow: names and users are never looked up"},
		{"command", "portmap: ALL: spawn x\n", "", "matched a rule that would run a command or change the user"},
		{"broken", "", "portmap: 10\n", "a wrong rule may have meant this client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := Compile(Parse("hosts.allow", []byte(tt.allow)), Parse("hosts.deny", []byte(tt.deny)), testService)
			if got := m.Decide(client("10.0.0.1"), client("10.0.0.2")).Why; got != tt.want {
				t.Errorf("why is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDecideWithoutAddress(t *testing.T) {
	m, _ := Compile(Parse("hosts.allow", []byte("ALL: ALL\n")), nil, testService)
	if d := m.Decide(netip.Addr{}, netip.Addr{}); d.Verdict != Deny {
		t.Errorf("a client without address: %v", d)
	}
}

func TestZeroMatcher(t *testing.T) {
	var m Matcher
	if d := m.Decide(client("10.0.0.1"), client("10.0.0.2")); d.Verdict != NoRule || m.Named() {
		t.Errorf("zero matcher decided %v", d)
	}
}

func TestCompileFindings(t *testing.T) {
	tests := []struct {
		name, allow, deny string
		want              []string
	}{
		{"clean", "portmap: 10.\nsshd: .example.com: spawn x\n", "ALL: ALL\n", nil},
		{"names", "portmap: LOCAL, 10. EXCEPT a.example\n", "portmap: *.example\n", []string{
			"hosts.allow:1:10: name-pattern: it counts as matching no client, so that doubt never opens",
			"hosts.allow:1:28: name-pattern: it counts as matching every client, so that doubt never opens",
			"hosts.deny:1:10: name-pattern: it counts as matching every client, so that doubt never opens"}},
		{"user", "portmap: root@10.\n", "", []string{
			"hosts.allow:1:10: user-pattern: it counts as matching no client, so that doubt never opens"}},
		{"command", "portmap: 10.: twist /bin/echo\n", "", []string{
			"hosts.allow:1:15: runs-command: the rule refuses the clients it matches"}},
		{"name of ours", "portmap@host.example: 10.\n", "", []string{
			"hosts.allow:1:9: name-pattern: it counts as matching no client, so that doubt never opens"}},
		{"shadowed", "portmap: 10.\nALL: 10.1. 10.2.0.1\n", "ALL: ALL\nportmap: 10.\n", []string{
			"hosts.allow:2:1: never-acts: earlier rules decide for all its clients, or it excepts them all",
			"hosts.deny:2:1: never-acts: earlier rules decide for all its clients, or it excepts them all"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, found := Compile(Parse("hosts.allow", []byte(tt.allow)), Parse("hosts.deny", []byte(tt.deny)), testService)
			var got []string
			for _, d := range found {
				got = append(got, fmt.Sprintf("%s: %s: %s", d.Place(), d.Code, d.Consequence))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompileNames(t *testing.T) {
	allow := Parse("hosts.allow", []byte("portmap: 10.\nrpcbind: 10.1.\nportmap: a.example\nportmap: 10\nsshd: 10\nportmap: 11.: deny\n"))
	m, _ := Compile(allow, nil, testService)
	var openers, broken []string
	for r := range m.Openers() {
		openers = append(openers, r.String())
	}
	for r := range m.Broken() {
		broken = append(broken, r.String())
	}
	if diff := cmp.Diff([]string{"hosts.allow:1"}, openers); diff != "" {
		t.Errorf("openers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"hosts.allow:4"}, broken); diff != "" {
		t.Errorf("broken rules (-want +got):\n%s", diff)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	files := []struct{ name, allow, deny string }{
		{"table", "portmap: 192.168.1.0/24 [2001:db8::]/32\n", "ALL: ALL\n"},
		{"side list", "portmap@10.0.0.1: 10.0.0.3/255.0.0.255 EXCEPT [fe80::1%eth0] u@10.\n", "portmap: [fe80::%eth0]/10\n"},
	}
	clients := []netip.Addr{client("192.168.1.9"), client("::ffff:10.0.0.3"), client("fe80::1%eth0"), client("2001:db8::1"), {}}
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			m, _ := Compile(Parse("hosts.allow", []byte(f.allow)), Parse("hosts.deny", []byte(f.deny)), testService)
			local := client("10.0.0.1")
			for _, c := range clients {
				if n := testing.AllocsPerRun(100, func() { m.Decide(c, local) }); n != 0 {
					t.Errorf("a decision about %v allocates %v times", c, n)
				}
			}
		})
	}
}
