package daemon

import (
	"net"
	"net/netip"
	"testing"

	"rpcward/test/lab"
)

// TestHasAddr asks for what bind(2) would take, and is not ours.
func TestHasAddr(t *testing.T) {
	n := lab.NewNet(t)
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"10.99.0.1", true},
		{"::ffff:10.99.0.1", true},
		{"fd99::1", true},
		{"127.0.0.1", true},
		{"127.9.9.9", true},
		{"::1", true},
		{"10.99.0.2", false},
		{"10.99.0.255", false},
		{"255.255.255.255", false},
		{"224.0.0.1", false},
		{"ff02::202", false},
		{"0.0.0.0", false},
		{"::", false},
		{"8.8.8.8", false},
		{"fe80::1%nosuch", false},
		{"fd99::1%nosuch", false},
	} {
		var got bool
		if err := n.Server.Do(func() error {
			got = new(host).HasAddr(netip.MustParseAddr(tt.addr))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got != tt.want {
			t.Errorf("HasAddr(%s) = %v, want %v", tt.addr, got, tt.want)
		}
	}
}

// What look-ups are told is what SET is told, for nothing.
func TestKnows(t *testing.T) {
	h := new(host)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if addr, ok := plain(a); !ok || !h.Knows(addr) || !h.HasAddr(addr) {
			t.Errorf("%v is not known", a)
		}
	}
	stranger := netip.MustParseAddr("192.0.2.77")
	if h.Knows(stranger) {
		t.Errorf("%v is known", stranger)
	}
	if allocs := testing.AllocsPerRun(100, func() { h.Knows(stranger) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
