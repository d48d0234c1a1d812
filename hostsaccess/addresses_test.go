package hostsaccess

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func TestAddresses(t *testing.T) {
	allow := Parse("hosts.allow", []byte("portmap: 10.0.0.0/9, 10.128.0.0/9 EXCEPT 10.0.0.0/30\nportmap: [2001:db8::]/32\n"))
	deny := Parse("hosts.deny", []byte("portmap: 0.0.0.0/1, 10.0.0.1/255.255.0.255\n"))
	m, _ := Compile(allow, deny, testService)
	got := m.Addresses()
	if want := prefixes("2001:db8::/32"); !slices.Equal(got.IPv6[Allow], want) {
		t.Errorf("IPv6 allowed: %v", got.IPv6[Allow])
	}
	want := prefixes("10.0.0.4/30", "10.0.0.8/29", "10.0.0.16/28", "10.0.0.32/27", "10.0.0.64/26", "10.0.0.128/25", "10.0.1.0/24", "10.0.2.0/23", "10.0.4.0/22",
		"10.0.8.0/21", "10.0.16.0/20", "10.0.32.0/19", "10.0.64.0/18", "10.0.128.0/17", "10.1.0.0/16", "10.2.0.0/15", "10.4.0.0/14", "10.8.0.0/13", "10.16.0.0/12", "10.32.0.0/11", "10.64.0.0/10", "10.128.0.0/9")
	if diff := cmp.Diff(want, got.IPv4[Allow], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("IPv4 allowed: -want +got\n%s", diff)
	}
	if len(got.Beside) != 1 || got.Beside[0].String() != "hosts.deny:1" {
		t.Errorf("beside: %v", got.Beside)
	}
	empty := (&Matcher{}).Addresses()
	if !slices.Equal(empty.IPv4[NoRule], prefixes("0.0.0.0/0")) || !slices.Equal(empty.IPv6[NoRule], prefixes("::/0")) {
		t.Errorf("no rules: %v", empty)
	}
}

// TestAddressesAgreeWithDecide takes addresses at the edges of all prefixes and
// looks them up in the sets, and wants each set as small as it can be.
func TestAddressesAgreeWithDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, _ := Compile(drawFile(t, "hosts.allow"), drawFile(t, "hosts.deny"), testService)
		sets := m.Addresses()
		if len(sets.Beside) > 0 {
			t.Skip("not exact")
		}
		for _, family := range []map[Verdict][]netip.Prefix{sets.IPv4, sets.IPv6} {
			for v, set := range family {
				for i, p := range set {
					for _, a := range edges(p) {
						if slices.IndexFunc(set, func(q netip.Prefix) bool { return q.Contains(a) }) >= 0 != (m.Decide(a, netip.Addr{}).Verdict == v) {
							t.Fatalf("%v is %v, the set of %v is %v", a, m.Decide(a, netip.Addr{}).Verdict, v, set)
						}
					}
					if i > 0 && p.Bits() > 0 && p.Bits() == set[i-1].Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() == netip.PrefixFrom(set[i-1].Addr(), p.Bits()-1).Masked() {
						t.Fatalf("%v and %v are one prefix", set[i-1], p)
					}
				}
			}
		}
	})
}
