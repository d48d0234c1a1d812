package hostsaccess

import (
	"fmt"
	"runtime"
	"testing"
)

// The kinds of rules that libwrap was measured with: test/libwrap has the same.
// Near and name are those of a client that no rule is about.
var benchRules = []struct {
	name       string
	near, host string
	rule       func(b []byte, i int) []byte
}{
	{"address", "11.0.5.8", "", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: %d.%d.%d.7\n", 11+i>>16, i>>8&255, i&255) }},
	{"network", "10.255.3.4", "", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: %d.%d.%d.0/24\n", 11+i>>16, i>>8&255, i&255)
	}},
	{"IPv6", "2001:db9::1", "", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: [2001:db8:%x:%x::]/64\n", i>>16, i&0xffff)
	}},
	{"except", "11.0.5.7", "", func(b []byte, i int) []byte {
		return fmt.Appendf(b, "ALL: %d.%d.%d.0/24 EXCEPT %[1]d.%[2]d.%[3]d.7\n", 11+i>>16, i>>8&255, i&255)
	}},
	{"name", "10.1.2.3", "host5x.example.com", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: host%d.example.com\n", i) }},
	{"suffix", "10.1.2.3", "www.dom5x.example", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: .dom%d.example\n", i) }},
	{"glob", "10.1.2.3", "host5.example.org", func(b []byte, i int) []byte { return fmt.Appendf(b, "ALL: host%d*.example.com\n", i) }},
	{"otherDaemon", "10.1.2.3", "", func(b []byte, i int) []byte { return fmt.Appendf(b, "daemon%d: ALL\n", i) }},
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

var benchSizes = []int{10, 1_000, 10_000, 130_000}

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
	for _, m := range []Mode{Strict, Compat} {
		for _, kind := range benchRules {
			for _, n := range benchSizes {
				b.Run(fmt.Sprintf("%v/%s/%d", m, kind.name, n), func(b *testing.B) {
					t := NewTables(m, Source{State: TableMissing}, source("hosts.deny", string(benchFile(n, kind.rule))), Environment{})
					r := Request{Daemon: "portmap", Client: endpoint(kind.near), Server: endpoint("10.0.0.1"), User: unknown}
					r.Client.Name = kind.host
					if kind.host == "" {
						r.Client.Name = unknown
					}
					t.Decide(&r)
					if d := t.Decide(&r); d.Verdict != NoRule {
						b.Fatalf("%v matches %v", kind.near, d.Rule)
					}
					b.ReportAllocs()
					for b.Loop() {
						t.Decide(&r)
					}
				})
			}
		}
	}
}

// BenchmarkMatcher is BenchmarkDecide for one service and addresses alone, the
// way of the port mapper.
func BenchmarkMatcher(b *testing.B) {
	for _, kind := range benchRules {
		if kind.host != "" || kind.name == "mixed" {
			continue
		}
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				m, _ := Compile(nil, Parse("hosts.deny", benchFile(n, kind.rule)), testService)
				from, local := client(kind.near), client("10.0.0.1")
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

// BenchmarkLoad is all that happens when a file of 130,000 rules has changed.
// MB is what is kept of it.
func BenchmarkLoad(b *testing.B) {
	const n = 130_000
	load := map[string]func(data []byte) any{
		"matcher": func(data []byte) any {
			m, _ := Compile(nil, Parse("hosts.deny", data), testService)
			return m
		},
	}
	for _, m := range []Mode{Strict, Compat} {
		load[m.String()] = func(data []byte) any {
			t := NewTables(m, Source{State: TableMissing}, Source{Name: "hosts.deny", Data: data}, Environment{})
			t.view("portmap")
			t.view("portmap")
			return t
		}
	}
	for _, how := range []string{"matcher", "strict", "compat"} {
		for _, kind := range benchRules {
			b.Run(how+"/"+kind.name, func(b *testing.B) {
				data := benchFile(n, kind.rule)
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				before := heap()
				var kept any
				for b.Loop() {
					kept = load[how](data)
				}
				b.ReportMetric(float64(heap()-before)/1e6, "MB")
				runtime.KeepAlive(kept)
			})
		}
	}
}

// heap returns how many bytes are in use.
func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
