package hostsaccess

import (
	"fmt"
	"net/netip"
	"reflect"
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

func TestAddressOnly(t *testing.T) {
	tests := []struct{ name, allow, deny, allowed string }{
		{"a mask with holes that refuses closes its prefix", "", "portmap: 10.0.0.1/255.0.0.255\nportmap: ALL: allow", "0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/1"},
		{"one that allows allows nothing", "portmap: 10.0.0.1/255.0.0.255\nportmap: 10.1.", "", "10.1.0.0/16"},
		{"one that refuses what was allowed before", "portmap: 10.1.", "portmap: 10.0.0.1/255.0.0.255\nportmap: ALL", "10.1.0.0/16"},
		{"one address of this host allows nothing", "portmap@10.0.0.1: 10.", "", ""},
		{"and refuses all that it may", "portmap@10.0.0.1: 10.1.: deny\nportmap: 10.1. 10.2.", "", "10.2.0.0/16"},
		{"excepting a mask with holes", "portmap: 10.1. EXCEPT 10.1.0.1/255.255.0.255\nportmap: 10.2.", "", "10.2.0.0/16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := testService
			o.AddressOnly = true
			m, found := Compile(Parse("hosts.allow", []byte(tt.allow+"\n")), Parse("hosts.deny", []byte(tt.deny+"\n")), o)
			sets := m.Addresses()
			if got := fmt.Sprint(sets.IPv4[Allow]); got != "["+tt.allowed+"]" {
				t.Errorf("allowed %v, want %v", got, tt.allowed)
			}
			if len(sets.Beside) != 0 {
				t.Errorf("beside %v", sets.Beside)
			}
			if !slices.ContainsFunc(found, func(d Diagnostic) bool { return d.Code == BeyondAddress }) {
				t.Errorf("nothing was said: %v", found)
			}
		})
	}
}

// TestAddressOnlyNeverOpens: whom the sets allow, Decide allows, whatever
// address was called; and without rules that need more, they say the same.
func TestAddressOnlyNeverOpens(t *testing.T) {
	locals := []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	rapid.Check(t, func(t *rapid.T) {
		allow, deny := drawFile(t, "hosts.allow"), drawFile(t, "hosts.deny")
		o := testService
		exact, _ := Compile(allow, deny, o)
		o.AddressOnly = true
		only, _ := Compile(allow, deny, o)
		sets := only.Addresses()
		for _, p := range append(sets.IPv4[Allow], sets.IPv6[Allow]...) {
			for _, a := range slices.DeleteFunc(edges(p), func(a netip.Addr) bool { return !p.Contains(a) }) {
				for _, local := range locals {
					if d := exact.Decide(a, local); d.Verdict != Allow {
						t.Fatalf("%v, calling %v, is in the set, but %v by %v", a, local, d.Verdict, d.Rule)
					}
				}
			}
		}
		for _, p := range append(sets.IPv4[NoRule], sets.IPv6[NoRule]...) {
			for _, a := range slices.DeleteFunc(edges(p), func(a netip.Addr) bool { return !p.Contains(a) }) {
				if d := exact.Decide(a, netip.Addr{}); d.Verdict == Deny {
					t.Fatalf("%v is in the set of those without a rule, but denied by %v", a, d.Rule)
				}
			}
		}
		if e := exact.Addresses(); len(e.Beside) == 0 && !reflect.DeepEqual(e, sets) {
			t.Fatalf("the sets differ: %v and %v", e, sets)
		}
	})
}
