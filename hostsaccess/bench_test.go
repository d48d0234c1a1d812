package hostsaccess

import (
	"fmt"
	"runtime"
	"testing"

	"rpcward/test/ruleset"
)

// BenchmarkMatcher asks the matcher of the port mapper about a client that no
// rule is about. The time should not depend on the number of rules. For Tables
// and for libwrap, test/libwrap does the same.
func BenchmarkMatcher(b *testing.B) {
	for _, kind := range ruleset.Kinds {
		if kind.Host != unknown || kind.Name == "mixed" {
			continue
		}
		for _, n := range ruleset.Sizes {
			b.Run(fmt.Sprintf("%s/%d", kind.Name, n), func(b *testing.B) {
				m, _ := Compile(nil, Parse("hosts.deny", kind.File(n)), testService)
				from, local := client(kind.Addr), client("10.0.0.1")
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
		for _, kind := range ruleset.Kinds {
			b.Run(how+"/"+kind.Name, func(b *testing.B) {
				data := kind.File(n)
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
