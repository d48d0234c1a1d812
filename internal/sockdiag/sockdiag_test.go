package sockdiag_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// listen opens a socket and returns its port.
func listen(t *testing.T, network, address string, v6only bool) uint16 {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if !strings.HasSuffix(network, "6") {
			return nil
		}
		only := 0
		if v6only {
			only = 1
		}
		var err error
		c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
		})
		return err
	}}
	if strings.HasPrefix(network, "udp") {
		c, err := lc.ListenPacket(context.Background(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	l, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestBound(t *testing.T) {
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	lo4, other4 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	lo6 := netip.IPv6Loopback()
	tests := []struct {
		name             string
		network, address string
		v6only           bool
		netid            rpcbind.NetID
		at               netip.Addr
		want             bool
	}{
		{"udp on all", "udp4", "0.0.0.0:0", false, rpcbind.UDP, any4, true},
		{"udp on all, asked for one", "udp4", "0.0.0.0:0", false, rpcbind.UDP, lo4, true},
		{"udp on one", "udp4", "127.0.0.1:0", false, rpcbind.UDP, lo4, true},
		{"udp on one, asked for any", "udp4", "127.0.0.1:0", false, rpcbind.UDP, any4, true},
		{"udp on another", "udp4", "127.0.0.1:0", false, rpcbind.UDP, other4, false},
		{"udp, asked for tcp", "udp4", "127.0.0.1:0", false, rpcbind.TCP, lo4, false},
		{"tcp on all", "tcp4", "0.0.0.0:0", false, rpcbind.TCP, any4, true},
		{"tcp on another", "tcp4", "127.0.0.1:0", false, rpcbind.TCP, other4, false},
		{"udp6", "udp6", "[::1]:0", false, rpcbind.UDP6, lo6, true},
		{"tcp6", "tcp6", "[::]:0", false, rpcbind.TCP6, any6, true},
		{"both families", "udp6", "[::]:0", false, rpcbind.UDP, any4, true},
		{"v4 is not v6", "udp4", "0.0.0.0:0", false, rpcbind.UDP6, any6, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port := listen(t, tt.network, tt.address, tt.v6only)
			got, err := sockdiag.Bound(tt.netid, netip.AddrPortFrom(tt.at, port))
			if err != nil || got != tt.want {
				t.Errorf("Bound(%v, %v port %d) = %v, %v; want %v", tt.netid, tt.at, port, got, err, tt.want)
			}
		})
	}
}

func TestNotBound(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	if got, err := sockdiag.Bound(rpcbind.TCP, at); got || err != nil {
		t.Errorf("Bound on a closed port = %v, %v", got, err)
	}
}

func TestHolder(t *testing.T) {
	port := listen(t, "tcp4", "127.0.0.1:0", false)
	got, ok := sockdiag.Holder(rpcbind.TCP, port)
	if want := fmt.Sprintf("(process %d)", os.Getpid()); !ok || !strings.Contains(got, want) {
		t.Errorf("Holder = %q, %v; want this process %s", got, ok, want)
	}
	if got, ok := sockdiag.Holder(rpcbind.UDP, 1); ok {
		t.Errorf("Holder of a free port = %q", got)
	}
}
