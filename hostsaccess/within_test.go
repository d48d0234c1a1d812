package hostsaccess

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestWithin(t *testing.T) {
	allow := Parse("hosts.allow", []byte("portmap: 10.1.2.3 : deny\nportmap: 10.1.0.0/16 [2001:db8::]/32\nportmap@10.0.0.1: 172.16.\nportmap: 10.0.0.7/255.0.0.255\n"))
	deny := Parse("hosts.deny", []byte("portmap: 192.168.\n"))
	m, _ := Compile(allow, deny, testService)
	tests := []struct{ network, want string }{
		{"10.1.0.0/16", "allow hosts.allow:2, deny hosts.allow:1"},
		{"10.1.2.0/24", "allow hosts.allow:2, deny hosts.allow:1"},
		{"10.1.3.0/24", "allow hosts.allow:2"},
		{"10.1.2.3/32", "deny hosts.allow:1"},
		{"10.0.0.0/8", "no rule <nil>, allow hosts.allow:2, deny hosts.allow:1, allow hosts.allow:4"},
		{"172.16.9.9/32", "no rule <nil>, allow hosts.allow:3"},
		{"10.9.9.7/32", "no rule <nil>, allow hosts.allow:4"},
		{"10.9.9.0/24", "no rule <nil>, allow hosts.allow:4"},
		{"192.168.1.0/24", "deny hosts.deny:1"},
		{"::ffff:192.168.1.0/120", "deny hosts.deny:1"},
		{"2001:db8:7::/48", "allow hosts.allow:2"},
		{"::/0", "no rule <nil>, allow hosts.allow:2"},
	}
	for _, tt := range tests {
		var got []string
		for _, d := range m.Within(netip.MustParsePrefix(tt.network)) {
			got = append(got, fmt.Sprintf("%v %v", d.Verdict, d.Rule))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.network, diff)
		}
	}
	if d := new(Matcher).Within(netip.MustParsePrefix("10.0.0.0/8")); len(d) != 1 || d[0].Verdict != NoRule {
		t.Errorf("without rules: %v", d)
	}
}

// TestWithinHasAll compares with deciding about addresses of the network.
func TestWithinHasAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		octet := rapid.IntRange(0, 3)
		var text strings.Builder
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			bits := rapid.SampledFrom([]int{0, 30, 31, 32}).Draw(t, "bits")
			n := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(octet.Draw(t, "octet"))}), bits).Masked()
			fmt.Fprintf(&text, "portmap: %v%s\n", n, rapid.SampledFrom([]string{"", " : deny", " EXCEPT 10.0.0.2", " EXCEPT .x"}).Draw(t, "rest"))
		}
		m, _ := Compile(Parse("hosts.allow", []byte(text.String())), nil, testService)
		n := netip.MustParsePrefix("10.0.0.0/30")
		within := m.Within(n)
		for last := range 4 {
			d := m.Decide(netip.AddrFrom4([4]byte{10, 0, 0, byte(last)}), netip.Addr{})
			if !slices.ContainsFunc(within, func(w Decision) bool { return w.Verdict == d.Verdict && w.Rule == d.Rule }) {
				t.Errorf("%s10.0.0.%d: %v %v is not among %v", text.String(), last, d.Verdict, d.Rule, within)
			}
		}
	})
}

func TestNearRules(t *testing.T) {
	allow := Parse("hosts.allow", []byte(`sshd: 192.168.1.
portmap: 192.168.2.0/24 10.
rpcbind: .example.com
portmap: 192.168.0.0/16 EXCEPT 192.168.1.
portmap@10.0.0.1: ALL
portmap: ALL : deny
portmap: 192.168.1.7
`))
	client := netip.MustParseAddr("192.168.1.7")
	m, _ := Compile(allow, nil, testService)
	d := m.Decide(client, netip.Addr{})
	var got []string
	for _, n := range NearRules(allow, nil, testService, client, netip.Addr{}, d, 10) {
		got = append(got, fmt.Sprintf("%v %s", n.Rule, n.Why))
	}
	want := []string{
		"hosts.allow:7 matches too, but hosts.allow:6 comes first",
		"hosts.allow:3 may match by what is never looked up: host names, netgroups, pattern files, users",
		"hosts.allow:4 its EXCEPT leaves the client out",
		"hosts.allow:5 is for calls to one address of this host, and it is not known which was called",
		"hosts.allow:2 192.168.2.0/24 does not hold 192.168.1.7",
		"hosts.allow:1 is for sshd only",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("near rules (-want +got):\n%s", diff)
	}
}
