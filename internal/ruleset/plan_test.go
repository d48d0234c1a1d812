package ruleset

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/internal/rpcnames"
	"rpcward/rpcbind"
)

func parsePolicy(t interface{ Fatal(...any) }, allow, deny string, d policy.Default) *Policy {
	p, _, err := NewPolicy(hostsaccess.Parse("/etc/hosts.allow", []byte(allow)), hostsaccess.Parse("/etc/hosts.deny", []byte(deny)),
		PolicyOptions{Default: d, Names: rpcnames.Names})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func at(program uint32, n rpcbind.NetID, port uint16) Registration {
	ip := netip.IPv4Unspecified()
	if n.Is6() {
		ip = netip.IPv6Unspecified()
	}
	return Registration{program, n, netip.AddrPortFrom(ip, port)}
}

// nfsHost is what an NFSv3 server registers.
var nfsHost = []Registration{
	at(100000, rpcbind.UDP, 111), at(100000, rpcbind.TCP, 111), at(100000, rpcbind.TCP6, 111), at(100000, rpcbind.UDP6, 111),
	at(100003, rpcbind.TCP, 2049), at(100003, rpcbind.TCP6, 2049), at(100227, rpcbind.TCP, 2049),
	at(100005, rpcbind.TCP, 20048), at(100005, rpcbind.UDP, 20048), at(100005, rpcbind.UDP6, 20049),
	at(100021, rpcbind.TCP, 4001), at(100024, rpcbind.UDP, 4002), at(100011, rpcbind.UDP, 875),
	{100000, rpcbind.Local, netip.AddrPort{}}, at(100003, rpcbind.TCP, 0),
}

// portsOf describes who gets where: "tcp 111: 10.0.0.0/8", by line.
func portsOf(s *State) string {
	var lines []string
	for _, p := range s.SortedPorts() {
		a, _ := s.Allowed(p)
		lines = append(lines, p.String()+" "+s.Chains[s.Ports[p]].Services+": "+a.String())
	}
	return strings.Join(lines, "\n")
}

func TestDesired(t *testing.T) {
	lan := "portmap: 10.1.0.0/16 [2001:db8::]/32\n"
	tests := []struct {
		name, allow, deny string
		def               policy.Default
		list              []Registration
		want              string
	}{
		{"nothing configured, nothing registered", "", "", policy.Closed, nil, "tcp 111 portmap: nobody\nudp 111 portmap: nobody"},
		{"by default", "", "portmap: 10.\n", policy.Allow, nil, "tcp 111 portmap: 0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3 and 3 more\n" +
			"udp 111 portmap: 0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3 and 3 more"},
		{"all follow the port mapper", lan, "", policy.Closed, nfsHost, `tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
tcp 2049 nfs, nfs_acl: 10.1.0.0/16 and 2001:db8::/32
tcp 4001 nlockmgr: 10.1.0.0/16 and 2001:db8::/32
tcp 20048 mountd: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 875 rquotad: 10.1.0.0/16 and 2001:db8::/32
udp 4002 status: 10.1.0.0/16 and 2001:db8::/32
udp 20048 mountd: 10.1.0.0/16 and 2001:db8::/32
udp 20049 mountd: 10.1.0.0/16 and 2001:db8::/32`},
		{"narrower and wider ones", lan + "rpc.mountd: 10.1.1.\nlockd: 10.1. 10.2.\nnfsd: 10.3.\n100024: 10.4.\n", "rquotad: ALL\n", policy.Closed, nfsHost,
			`tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
tcp 2049 nfs, nfs_acl: 10.3.0.0/16
tcp 4001 nlockmgr: 10.1.0.0/16 and 10.2.0.0/16
tcp 20048 mountd: 10.1.1.0/24
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 875 rquotad: nobody
udp 4002 status: 10.4.0.0/16
udp 20048 mountd: 10.1.1.0/24
udp 20049 mountd: 10.1.1.0/24`},
		{"ALL names each", lan, "ALL: ALL\n", policy.Closed, []Registration{at(100005, rpcbind.UDP, 700)}, `tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 700 mountd: nobody`},
		{"a shared port", lan + "mountd: 10.1.1. 10.7.\nnfs: 10.1.\n", "", policy.Closed, []Registration{at(100005, rpcbind.UDP, 700), at(100003, rpcbind.UDP6, 700)}, `tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 700 nfs, mountd: 10.1.1.0/24`},
		{"a port in the rules", "700: 10.7.\n" + lan, "", policy.Closed, []Registration{at(100005, rpcbind.UDP, 700), at(100005, rpcbind.TCP, 701)}, `tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
tcp 701 mountd: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 700 mountd: 10.7.0.0/16`},
		{"a broken rule", "mountd: 10.1.1.\nmountd: 10\nmountd: 10.1.2.\n" + lan, "", policy.Closed, []Registration{at(100005, rpcbind.UDP, 700), at(395183, rpcbind.SCTP, 701)}, `tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 700 mountd: 10.1.1.0/24 and 10.1.2.0/24
sctp 701 vxi11: 10.1.0.0/16 and 2001:db8::/32`},
		{"a broken rule that refuses", "mountd: 10.1.1.\n" + lan, "mountd: 10\n", policy.Allow, []Registration{at(100005, rpcbind.UDP, 700)}, `tcp 111 portmap: 0.0.0.0/0 and ::/0
udp 111 portmap: 0.0.0.0/0 and ::/0
udp 700 mountd: 10.1.1.0/24`},
		{"a name, and one address of ours", "mountd: .example.com\nlockd@10.0.0.1: 10.\n" + lan, "", policy.Closed, []Registration{at(100005, rpcbind.UDP, 700), at(100021, rpcbind.UDP, 701)},
			`tcp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 111 portmap: 10.1.0.0/16 and 2001:db8::/32
udp 700 mountd: nobody
udp 701 nlockmgr: nobody`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := parsePolicy(t, tt.allow, tt.deny, tt.def).Desired(tt.list, Options{})
			if got := portsOf(s); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestDesiredFindings(t *testing.T) {
	p := parsePolicy(t, "mountd: .example.com\nlockd@10.0.0.1: 10.\nstatd: x.example\nportmap: 10.\n", "", policy.Closed)
	_, found := p.Desired([]Registration{at(100005, rpcbind.UDP, 700), at(100005, rpcbind.TCP, 700), at(100021, rpcbind.UDP, 701), at(100003, rpcbind.RDMA, 20049)}, Options{})
	var codes []string
	for _, d := range found {
		codes = append(codes, string(d.Code))
	}
	slices.Sort(codes)
	if got, want := strings.Join(codes, " "), "beyond-address name-pattern unguardable"; got != want {
		t.Errorf("found %q, want %q: %v", got, want, found)
	}
}

func TestTombstones(t *testing.T) {
	p := parsePolicy(t, "portmap: 10.\n", "", policy.Closed)
	dead, again := Port{UDP, 700}, Port{TCP, 701}
	s, _ := p.Desired([]Registration{at(100005, rpcbind.TCP, 701)}, Options{Tombstones: []Port{dead, again}})
	if a, guarded := s.Allowed(dead); !guarded || a.Len() != 0 {
		t.Errorf("tombstone: %v %v", a, guarded)
	}
	if a, _ := s.Allowed(again); a.Len() != 1 {
		t.Errorf("registered again: %v", a)
	}
}

func TestNewPolicyRefusesMistakes(t *testing.T) {
	var wrong *policy.RuleError
	_, _, err := NewPolicy(hostsaccess.Parse("hosts.allow", []byte("portmap: 10\n")), nil, PolicyOptions{})
	if !errors.As(err, &wrong) {
		t.Errorf("error %v", err)
	}
	s, _ := BuiltIn(rpcnames.Names).Desired(nfsHost, Options{})
	for _, p := range s.SortedPorts() {
		if a, _ := s.Allowed(p); a.Len() > 0 {
			t.Errorf("built in: %v is open to %v", p, a)
		}
	}
}

// Sets and chains with the same content have the same names, on each start,
// and are there once.
func TestNamesAreStable(t *testing.T) {
	make := func(order ...Registration) *State {
		s, _ := parsePolicy(t, "portmap: 10. [2001:db8::]/32\n", "", policy.Closed).Desired(order, Options{})
		return s
	}
	a, b := make(at(100005, rpcbind.UDP, 700), at(100003, rpcbind.UDP, 701)), make(at(100003, rpcbind.UDP, 701), at(100005, rpcbind.UDP, 700))
	if a.String() != b.String() {
		t.Errorf("%v\nand\n%v", a, b)
	}
	if len(a.Sets) != 1 || len(a.Chains) != 3 {
		t.Errorf("not shared:\n%v", a)
	}
	for name := range a.Chains {
		if n := IPTablesChain(name); len(n) > 28 {
			t.Errorf("%s is too long for iptables", n)
		}
	}
	if got, want := a.SortedChains()[0], "mountd_"; !strings.HasPrefix(got, want) {
		t.Errorf("chain %s", got)
	}
	for id := range a.Sets {
		if n := IPSet(id, true); len(n) > 31 {
			t.Errorf("%s is too long for ipset", n)
		}
	}
}

// drawRules draws a policy about a few services and networks that overlap.
func drawRules(t *rapid.T, label string) string {
	daemons := rapid.SampledFrom([]string{"portmap", "mountd", "rpc.mountd", "nfs", "100003", "ALL", "ALL EXCEPT mountd", "700", "lockd"})
	clients := rapid.SampledFrom([]string{"ALL", "10.1.", "10.1.1.", "10.1.0.0/17", "10.1.1.7", "10.1. EXCEPT 10.1.1.", "[2001:db8::]/32", "[2001:db8:1::]/48", "192.168.0.0/16", ".example.com"})
	var b strings.Builder
	for range rapid.IntRange(0, 4).Draw(t, label) {
		b.WriteString(daemons.Draw(t, "daemon") + ": " + clients.Draw(t, "client") + "\n")
	}
	return b.String()
}

var probes = func() (list []netip.Addr) {
	for _, s := range []string{"10.1.0.0", "10.1.1.7", "10.1.1.8", "10.1.127.255", "10.1.128.0", "10.1.255.255", "10.2.0.0", "9.255.255.255", "0.0.0.0",
		"255.255.255.255", "192.168.3.4", "2001:db8::1", "2001:db8:1::", "2001:db9::", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::1"} {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}()

// TestDesiredAgreesWithTwin decides for each probe by the rules themselves, and
// for the port mapper by the policy that serve has.
func TestDesiredAgreesWithTwin(t *testing.T) {
	programs := []uint32{100003, 100005, 100021, 4711}
	rapid.Check(t, func(t *rapid.T) {
		allow := hostsaccess.Parse("/etc/hosts.allow", []byte(drawRules(t, "allow")))
		deny := hostsaccess.Parse("/etc/hosts.deny", []byte(drawRules(t, "deny")))
		d := rapid.SampledFrom([]policy.Default{policy.Closed, policy.Allow}).Draw(t, "default")
		own, _, err := policy.New(allow, deny, policy.Options{Default: d})
		if err != nil {
			t.Fatal(err)
		}
		p, _, _ := NewPolicy(allow, deny, PolicyOptions{Default: d, Names: rpcnames.Names})
		var list []Registration
		on := map[Port][]uint32{{TCP, 111}: {100000}, {UDP, 111}: {100000}}
		for range rapid.IntRange(0, 5).Draw(t, "registrations") {
			r := at(rapid.SampledFrom(programs).Draw(t, "program"), rapid.SampledFrom([]rpcbind.NetID{rpcbind.TCP, rpcbind.UDP6}).Draw(t, "netid"), rapid.Uint16Range(700, 702).Draw(t, "port"))
			list = append(list, r)
			key, _ := r.Key()
			on[key] = append(on[key], r.Program)
		}
		s, _ := p.Desired(list, Options{})
		if len(s.Ports) != len(on) {
			t.Fatalf("%d ports, want %d", len(s.Ports), len(on))
		}
		for port, programs := range on {
			set, _ := s.Allowed(port)
			for _, a := range probes {
				want := true
				for _, program := range programs {
					want = want && slowAllowed(own, allow, deny, d, program, port.Port, a)
				}
				if got := set.Contains(a); got != want {
					t.Fatalf("%v, programs %v: %v allowed %v, want %v\n%s---\n%s", port, programs, a, got, want, allow.Source, deny.Source)
				}
			}
		}
	})
}

func slowAllowed(own *policy.Policy, allow, deny *hostsaccess.File, d policy.Default, program uint32, port uint16, a netip.Addr) bool {
	asOwn := func() bool {
		return own.Decide(&policy.Origin{Channel: policy.Network, Source: netip.AddrPortFrom(a, 700)}).Verdict == policy.Answer
	}
	if program == rpcbind.Program {
		return asOwn()
	}
	m, _ := hostsaccess.Compile(allow, deny, hostsaccess.Options{Names: rpcnames.Names(program), Port: port})
	if !m.Named() {
		return asOwn()
	}
	v := m.Decide(a, netip.Addr{}).Verdict
	return v == hostsaccess.Allow || v == hostsaccess.NoRule && d == policy.Allow
}

// Programs that the same rules name share what was compiled, others don't.
func TestProgramsShareRules(t *testing.T) {
	p := parsePolicy(t, "ALL: 10.\nALL EXCEPT mountd: 10.\nnfs: 11.\n700: 12.\n", "", policy.Closed)
	for i, tt := range []struct {
		program uint32
		port    uint16
		want    string
	}{
		{200001, 9, "10.0.0.0/8"}, {100005, 9, "10.0.0.0/8"}, {100003, 9, "10.0.0.0/7"}, {200002, 9, "10.0.0.0/8"}, {200002, 700, "10.0.0.0/8 and 12.0.0.0/8"},
		{200003, 700, "10.0.0.0/8 and 12.0.0.0/8"}, {100003, 700, "10.0.0.0/7 and 12.0.0.0/8"},
	} {
		if got := p.Service(tt.program, tt.port).Allowed.String(); got != tt.want {
			t.Errorf("%d: %d on %d: %s, want %s", i, tt.program, tt.port, got, tt.want)
		}
	}
	q := parsePolicy(t, "ALL: 10.\nmountd: 11.\n", "", policy.Closed)
	for program := range uint32(100) {
		q.Service(200000+program, 9)
	}
	if len(q.compiled) != 1 {
		t.Errorf("compiled %d times", len(q.compiled))
	}
}
