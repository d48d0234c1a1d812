package firewall

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"rpcward/hostsaccess"
	"rpcward/internal/rpcnames"
	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// BenchmarkPrefixes applies a policy with 20,000 networks to an empty kernel,
// and reads it back.
func BenchmarkPrefixes(b *testing.B) {
	s := desired(b, lots(20_000), ruleset.Options{}, nfs...)
	for _, k := range backends {
		b.Run(k.name+"/apply", func(b *testing.B) {
			fw := k.on(b, lab.NewHost(b, "server"))
			for b.Loop() {
				b.StopTimer()
				if err := fw.Remove(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				apply(b, fw, s)
			}
		})
		b.Run(k.name+"/read", func(b *testing.B) {
			fw := k.on(b, lab.NewHost(b, "server"))
			apply(b, fw, s)
			for b.Loop() {
				if _, err := fw.Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPort guards one port more, with 10,000 networks in place: from the
// registration to the kernel's answer, planning included. Then the port goes.
func BenchmarkPort(b *testing.B) {
	rules := hostsaccess.Parse("/etc/hosts.allow", []byte(lots(10_000)))
	for _, k := range backends {
		b.Run(k.name, func(b *testing.B) {
			p, _, err := ruleset.NewPolicy(rules, nil, ruleset.PolicyOptions{Names: rpcnames.Names})
			if err != nil {
				b.Fatal(err)
			}
			plan := func(list ...ruleset.Registration) *ruleset.State {
				s, _ := p.Desired(list, ruleset.Options{})
				return s
			}
			fw := k.on(b, lab.NewHost(b, "server"))
			apply(b, fw, plan(nfs...))
			var took []time.Duration
			i := uint16(0)
			for b.Loop() {
				start := time.Now()
				apply(b, fw, plan(append(slices.Clone(nfs), at(100005, rpcbind.UDP, 30000+i%1000))...))
				took = append(took, time.Since(start))
				b.StopTimer()
				apply(b, fw, plan(nfs...))
				b.StartTimer()
				i++
			}
			slices.Sort(took)
			for _, q := range []int{50, 99} {
				b.ReportMetric(float64(took[len(took)*q/100].Microseconds()), fmt.Sprintf("us/p%d", q))
			}
		})
	}
}
