package transport

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// servePassed serves a UDP socket as a service manager on h passes it.
func servePassed(t *testing.T, h *lab.Host, network, address string, prepare func(fd int) error) *testServer {
	t.Helper()
	var socks *Sockets
	err := h.Do(func() error {
		var failed error
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			c.Control(func(fd uintptr) { failed = prepare(int(fd)) })
			return failed
		}}
		pc, err := lc.ListenPacket(context.Background(), network, address)
		if err != nil {
			return err
		}
		defer pc.Close()
		f, err := pc.(*net.UDPConn).File()
		if err != nil {
			return err
		}
		socks, err = FromFiles([]*os.File{f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, "portmap: ALL", socks.Own(), portmapper.Options{})
	s.start(t, socks)
	return s
}

// A broadcast to a socket of both families is answered from the interface's own
// address, too.
func TestDualStackBroadcast(t *testing.T) {
	n := lab.NewNet(t)
	servePassed(t, n.Server, "udp", "[::]:111", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	})
	conn, err := n.Inside.ListenPacket("udp4", "10.99.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := getTime
	c.Program = rpcbind.Program
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.99.0.255:111"))
	if _, err := conn.WriteTo(oncrpc.AppendCall(nil, &c), to); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, from, err := conn.ReadFrom(make([]byte, 1500)); err != nil || from.String() != "10.99.0.1:111" {
		t.Errorf("answer from %v, %v; want it from 10.99.0.1:111", from, err)
	}
}

// A socket that tells more of each packet than we want, as Timestamping= of
// systemd.socket(5) makes it, still tells the interface.
func TestPassedWithTimestamps(t *testing.T) {
	h := lab.NewHost(t, "server")
	s := servePassed(t, h, "udp6", "[::]:111", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	conn, err := h.Dial("udp", "[::1]:111")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := call(conn, getTime); err != nil {
		t.Fatal(err)
	}
	if o := s.seen.all()[0]; o.Channel != policy.Loopback || o.Local.Addr() != netip.IPv6Loopback() {
		t.Errorf("a call over the loopback interface counts as %v to %v", o.Channel, o.Local)
	}
}

// A filter that a killed process has left on a passed socket is removed: the
// policy may have changed since.
func TestPassedWithFilter(t *testing.T) {
	h := lab.NewHost(t, "server")
	servePassed(t, h, "udp4", "127.0.0.1:111", func(fd int) error {
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
	if err := answered(t, h, "127.0.0.1:111"); err != nil {
		t.Error(err)
	}
}
