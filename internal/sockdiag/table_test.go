package sockdiag

import (
	"net"
	"net/netip"
	"testing"

	"rpcward/rpcbind"
)

// The table says of each socket what asking about it alone says.
func TestTableAgreesWithBound(t *testing.T) {
	type bound struct {
		n    rpcbind.NetID
		at   netip.AddrPort
		want bool
	}
	var cases []bound
	add := func(network, address string, n rpcbind.NetID, others ...bound) {
		var addr net.Addr
		if network[:3] == "tcp" {
			l, err := net.Listen(network, address)
			if err != nil {
				t.Skipf("missing: %s: %v", network, err)
			}
			t.Cleanup(func() { l.Close() })
			addr = l.Addr()
		} else {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				t.Skipf("missing: %s: %v", network, err)
			}
			t.Cleanup(func() { c.Close() })
			addr = c.LocalAddr()
		}
		ap := netip.MustParseAddrPort(addr.String())
		cases = append(cases, bound{n, ap, true}, bound{n, netip.AddrPortFrom(wild(n), ap.Port()), true})
		for _, o := range others {
			cases = append(cases, bound{o.n, netip.AddrPortFrom(o.at.Addr(), ap.Port()), o.want})
		}
	}
	other := netip.MustParseAddrPort("127.0.0.9:0")
	add("tcp4", "127.0.0.1:0", rpcbind.TCP, bound{rpcbind.TCP, other, false}, bound{rpcbind.UDP, other, false})
	add("udp4", "127.0.0.1:0", rpcbind.UDP, bound{rpcbind.UDP, other, false})
	add("tcp6", "[::1]:0", rpcbind.TCP6)
	add("udp", "[::]:0", rpcbind.UDP6, bound{rpcbind.UDP, other, true}) // of both families
	cases = append(cases, bound{rpcbind.SCTP, netip.MustParseAddrPort("127.0.0.1:9"), true})
	table, err := Waiting()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if got := table.Bound(c.n, c.at); got != c.want {
			t.Errorf("%v %v: %v, want %v", c.n, c.at, got, c.want)
		}
		if c.n == rpcbind.SCTP {
			continue
		}
		if alone, err := Bound(c.n, c.at); err != nil || alone != c.want {
			t.Errorf("%v %v asked alone: %v, %v; want %v", c.n, c.at, alone, err, c.want)
		}
	}
}

func wild(n rpcbind.NetID) netip.Addr {
	if n.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
