package peers

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// window is how many look-ups are under way at once.
const window = 32

// BenchmarkLookups asks for a port over UDP from another host, with and without
// rules, by turns: what the rules cost is the difference.
func BenchmarkLookups(b *testing.B) {
	lab.NeedRoot(b)
	var rules strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&rules, "sshd%d : 10.%d.%d.0/24\n", i, 100+i>>8&63, i&255)
	}
	for i := range 1_000 {
		fmt.Fprintf(&rules, "portmap : 172.%d.%d.0/24\n", 16+i>>8, i&255)
	}
	one := "portmap : 10.99.0.0/24\n"
	for round := range 3 {
		for _, tt := range []struct{ name, allow string }{{"1-rule", one}, {"11001-rules", rules.String() + one}} {
			b.Run(fmt.Sprintf("%s-round-%d", tt.name, round+1), func(b *testing.B) {
				n := lab.NewNet(b)
				n.Server.Allow(strings.TrimSuffix(tt.allow, "\n"))
				lab.StartPortMapper(b, n.Server, lab.Rpcward(b))
				conn, err := n.Inside.Dial("udp", "10.99.0.1:111")
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				b.ResetTimer()
				lookUp(b, conn, b.N)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
			})
		}
	}
}

// lookUp makes count look-ups, window of them at a time.
func lookUp(b *testing.B, conn net.Conn, count int) {
	call := oncrpc.AppendCall(nil, &oncrpc.Call{
		Program: rpcbind.Program, Version: rpcbind.Version2, Procedure: uint32(rpcbind.ProcGetAddr),
		Args: rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: rpcbind.Program, Version: 2, Prot: rpcbind.ProtTCP}),
	})
	buf := make([]byte, 64)
	sent := 0
	for answered := 0; answered < count; answered++ {
		for ; sent < count && sent-answered < window; sent++ {
			if _, err := conn.Write(call); err != nil {
				b.Fatal(err)
			}
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(buf); err != nil {
			b.Fatalf("after %d answers: %v", answered, err)
		}
	}
}
