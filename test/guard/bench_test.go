package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rpcward/internal/control"
	"rpcward/test/lab"
)

// BenchmarkSet times SETs over the unix socket, each of another program and port
// and answered when the port is guarded, with 10,000 allowed prefixes in the firewall. "alone" is
// the port mapper without a guard.
func BenchmarkSet(b *testing.B) {
	lab.NeedRoot(b)
	var allow strings.Builder // of prefixes that are no halves of another
	for i := range 10_000 {
		fmt.Fprintf(&allow, "portmap: 172.%d.%d.%d/27\n", 16+i>>10, i>>2&255, i&3<<6)
	}
	for _, backend := range append([]string{"alone"}, backends...) {
		b.Run(backend, func(b *testing.B) {
			n, _ := serve(b, allow.String())
			if backend != "alone" {
				startGuard(b, n.Server, backend).WaitLog(beside)
				waitStatus(b, n.Server, control.GuardInStep)
			}
			conn, err := lab.DialAs(n.Server, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				at := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(20000+i))
				begin := time.Now()
				set(b, conn, program+uint32(i), "udp", at)
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			for _, q := range []int{50, 99} {
				b.ReportMetric(float64(took[len(took)*q/100].Microseconds()), fmt.Sprintf("us/p%d", q))
			}
			if s := status(b, n.Server); backend != "alone" && s.Guard == control.GuardNone {
				b.Errorf("the guard is %s", s.Guard)
			}
		})
	}
}
