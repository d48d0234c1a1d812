package policy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestSourcePrefix(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7":            "192.0.2.0/24",
		"192.0.2.255":          "192.0.2.0/24",
		"0.0.0.0":              "0.0.0.0/24",
		"255.255.255.255":      "255.255.255.0/24",
		"::ffff:192.0.2.7":     "192.0.2.0/24",
		"::ffff:192.0.2.7%lan": "192.0.2.0/24",
		"2001:db8:1:2ab::7":    "2001:db8:1:200::/56",
		"2001:db8:1:200::":     "2001:db8:1:200::/56",
		"2001:db8:1:300::":     "2001:db8:1:300::/56",
		"fe80::1%lan":          "fe80::/56",
		"::":                   "::/56",
		"::1":                  "::/56",
	} {
		p := SourcePrefixOf(netip.MustParseAddr(addr))
		if p.String() != want || p == 0 {
			t.Errorf("%s is in %v (%d), want %s", addr, p, p, want)
		}
	}
	if p := SourcePrefixOf(netip.Addr{}); p == 0 {
		t.Error("no address has the prefix 0, which stands for a free place")
	}
}

// TestSourcePrefixIsThatOfNetip compares with netip's own way, which says of
// two addresses whether they share a prefix.
func TestSourcePrefixIsThatOfNetip(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
		}
		a := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes")))
		return a.Unmap()
	})
	rapid.Check(t, func(t *rapid.T) {
		a, bits := addr.Draw(t, "address"), sourceBits6
		if a.Is4() {
			bits = sourceBits4
		}
		if want := netip.PrefixFrom(a, bits).Masked(); SourcePrefixOf(a).Prefix() != want {
			t.Fatalf("%v is in %v, want %v", a, SourcePrefixOf(a), want)
		}
	})
}
