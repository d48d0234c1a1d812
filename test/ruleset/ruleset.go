// Package ruleset makes access control files of any size for benchmarks, the
// same ones for this program and for others.
package ruleset

import "fmt"

// Kind is one kind of rule, and a client that none of them is about: the worst
// case of a scan.
type Kind struct {
	Name string
	Addr string // of the client
	Host string // its name; "unknown" if it has none
	rule func(b []byte, i int) []byte
}

// Kinds are the kinds of rules that people write. No two rules of a file are
// about the same client.
var Kinds = []Kind{
	{"address", "11.0.5.8", "unknown", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: %d.%d.%d.7\n", 11+i>>16, i>>8&255, i&255) }},
	{"network", "10.255.3.4", "unknown", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: %d.%d.%d.0/24\n", 11+i>>16, i>>8&255, i&255)
	}},
	{"IPv6", "2001:db9::1", "unknown", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: [2001:db8:%x:%x::]/64\n", i>>16, i&0xffff)
	}},
	{"except", "11.0.5.7", "unknown", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: %d.%d.%d.0/24 EXCEPT %[1]d.%[2]d.%[3]d.7\n", 11+i>>16, i>>8&255, i&255)
	}},
	{"name", "10.1.2.3", "host5x.example.com", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: host%d.example.com\n", i) }},
	{"suffix", "10.1.2.3", "www.dom5x.example", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: .dom%d.example\n", i) }},
	{"glob", "10.1.2.3", "host5.example.org", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: host%d*.example.com\n", i) }},
	{"otherDaemon", "10.1.2.3", "unknown", func(b []byte, i int) []byte { return fmt.Appendf(b, "daemon%d: ALL\n", i) }},
	{"mixed", "10.1.2.3", "www.example.org", func(b []byte, i int) []byte {
		switch i % 5 {
		case 0:
			return fmt.Appendf(b, "ALL: %d.%d.%d.7\n", 11+i>>16, i>>8&255, i&255)
		case 1:
			return fmt.Appendf(b, "ALL: %d.%d.%d.0/24\n", 21+i>>16, i>>8&255, i&255)
		case 2:
			return fmt.Appendf(b, "ALL: .dom%d.example EXCEPT www.dom%[1]d.example\n", i)
		case 3:
			return fmt.Appendf(b, "ALL: [2001:db8:%x:%x::]/64\n", i>>16, i&0xffff)
		}
		return fmt.Appendf(b, "portmap: host%d.example.com: severity info\n", i)
	}},
}

// Sizes are the numbers of rules to measure with.
var Sizes = []int{10, 1_000, 10_000, 130_000}

// File returns a file of n rules.
func (k *Kind) File(n int) []byte {
	var b []byte
	for i := range n {
		b = k.rule(b, i)
	}
	return b
}
