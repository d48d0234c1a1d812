package hostsaccess

import (
	"fmt"
	"net/netip"
	"testing"
)

// The kinds of rules that reference measurements of libwrap were made with.
var benchRules = []struct {
	name, near string // near is an address beside those of the rules
	rule       func(b []byte, i int) []byte
}{
	{"address", "11.0.5.8", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: 11.%d.%d.7\n", i/256, i%256) }},
	{"network", "10.255.3.4", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: %d.%d.0.0/16\n", 11+i/256, i%256) }},
	{"IPv6", "2001:db9::1", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: [2001:db8:%x::]/48\n", i) }},
	{"except", "11.0.5.7", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: 11.%d.%d.0/24 EXCEPT 11.%[1]d.%[2]d.7\n", i/256, i%256)
	}},
	{"otherDaemon", "10.1.2.3", func(b []byte, i int) []byte { return fmt.Appendf(b, "daemon%d: ALL\n", i) }},
}

func benchFile(n int, rule func([]byte, int) []byte) []byte {
	var b []byte
	for i := range n {
		b = rule(b, i)
	}
	return b
}

// BenchmarkDecide asks about a client that no rule matches, the worst case of
// a scan. The time should not depend on the number of rules.
func BenchmarkDecide(b *testing.B) {
	for _, kind := range benchRules {
		for _, n := range []int{10, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				m, _ := Compile(nil, Parse("hosts.deny", benchFile(n, kind.rule)), testService)
				from, local := netip.MustParseAddr(kind.near), netip.MustParseAddr("10.0.0.1")
				if d := m.Decide(from, local); d.Verdict != NoRule {
					b.Fatalf("%v matches %v", from, d.Rule)
				}
				b.ReportAllocs()
				for b.Loop() {
					m.Decide(from, local)
				}
			})
		}
	}
}

// BenchmarkLoad is all that happens when a file has changed.
func BenchmarkLoad(b *testing.B) {
	for _, kind := range benchRules {
		b.Run(kind.name+"/10000", func(b *testing.B) {
			data := benchFile(10_000, kind.rule)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				Compile(nil, Parse("hosts.deny", data), testService)
			}
		})
	}
}
