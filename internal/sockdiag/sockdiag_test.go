package sockdiag_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// onFreePort calls open with ports until it can bind one. They are below those
// that the kernel gives to sockets that don't ask for one, so that no other
// test has the same port in the other family.
func onFreePort(t *testing.T, open func(port uint16) error) uint16 {
	t.Helper()
	for {
		port := 12000 + rand.N[uint16](20000)
		err := open(port)
		if err == nil {
			return port
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// listen opens a socket that waits and returns its port.
func listen(t *testing.T, network, host string, v6only bool) uint16 {
	t.Helper()
	port, closer := listenUntil(t, network, host, v6only)
	t.Cleanup(func() { closer.Close() })
	return port
}

func listenUntil(t *testing.T, network, host string, v6only bool) (port uint16, c io.Closer) {
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
	port = onFreePort(t, func(port uint16) (err error) {
		address := net.JoinHostPort(host, fmt.Sprint(port))
		if strings.HasPrefix(network, "udp") {
			c, err = lc.ListenPacket(t.Context(), network, address)
		} else {
			c, err = lc.Listen(t.Context(), network, address)
		}
		return err
	})
	return port, c
}

// bind binds a socket and does no more with it, which Go's net does not.
func bind(t *testing.T, kind int, addr netip.Addr) uint16 {
	t.Helper()
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if addr.Is4In6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			t.Fatal(err)
		}
	}
	return onFreePort(t, func(port uint16) error {
		if addr.Is4() {
			return unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()})
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()})
	})
}

var (
	any4, any6  = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	lo4, other4 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	lo6, other6 = netip.IPv6Loopback(), netip.MustParseAddr("2001:db8::1")
)

// Each socket, asked for in all ways.
func TestBound(t *testing.T) {
	type question struct {
		n  rpcbind.NetID
		at netip.Addr
	}
	u4any, u4lo, u4other := question{rpcbind.UDP, any4}, question{rpcbind.UDP, lo4}, question{rpcbind.UDP, other4}
	u6any, u6lo, u6other := question{rpcbind.UDP6, any6}, question{rpcbind.UDP6, lo6}, question{rpcbind.UDP6, other6}
	t4any, t4lo, t4other := question{rpcbind.TCP, any4}, question{rpcbind.TCP, lo4}, question{rpcbind.TCP, other4}
	t6any, t6lo, t6other := question{rpcbind.TCP6, any6}, question{rpcbind.TCP6, lo6}, question{rpcbind.TCP6, other6}
	all := []question{u4any, u4lo, u4other, u6any, u6lo, u6other, t4any, t4lo, t4other, t6any, t6lo, t6other}

	tests := []struct {
		name string
		open func(t *testing.T) uint16
		yes  []question // all others no
	}{
		{"udp", func(t *testing.T) uint16 { return listen(t, "udp4", "0.0.0.0", false) },
			[]question{u4any, u4lo, u4other}},
		{"udp of one address", func(t *testing.T) uint16 { return listen(t, "udp4", "127.0.0.1", false) },
			[]question{u4any, u4lo}},
		{"udp6 for IPv6 only", func(t *testing.T) uint16 { return listen(t, "udp6", "::", true) },
			[]question{u6any, u6lo, u6other}},
		{"udp6 for both", func(t *testing.T) uint16 { return listen(t, "udp6", "::", false) },
			[]question{u6any, u6lo, u6other, u4any, u4lo, u4other}},
		{"udp6 of one address", func(t *testing.T) uint16 { return listen(t, "udp6", "::1", false) },
			[]question{u6any, u6lo}},
		{"udp6 of one IPv4 address", func(t *testing.T) uint16 { return bind(t, unix.SOCK_DGRAM, netip.AddrFrom16(lo4.As16())) },
			[]question{u4any, u4lo}},
		{"tcp", func(t *testing.T) uint16 { return listen(t, "tcp4", "0.0.0.0", false) },
			[]question{t4any, t4lo, t4other}},
		{"tcp of one address", func(t *testing.T) uint16 { return listen(t, "tcp4", "127.0.0.1", false) },
			[]question{t4any, t4lo}},
		{"tcp6 for IPv6 only", func(t *testing.T) uint16 { return listen(t, "tcp6", "::", true) },
			[]question{t6any, t6lo, t6other}},
		{"tcp6 for both", func(t *testing.T) uint16 { return listen(t, "tcp6", "::", false) },
			[]question{t6any, t6lo, t6other, t4any, t4lo, t4other}},
		{"tcp6 of one address", func(t *testing.T) uint16 { return listen(t, "tcp6", "::1", false) },
			[]question{t6any, t6lo}},
		{"udp, connected", connected, nil},
		{"tcp, bound but not listening", func(t *testing.T) uint16 { return bind(t, unix.SOCK_STREAM, lo4) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port := tt.open(t)
			want := map[question]bool{}
			for _, q := range tt.yes {
				want[q] = true
			}
			for _, q := range all {
				got, err := sockdiag.Bound(q.n, netip.AddrPortFrom(q.at, port))
				if err != nil || got != want[q] {
					t.Errorf("Bound(%v, %v) = %v, %v; want %v", q.n, q.at, got, err, want[q])
				}
			}
		})
	}
}

// connected opens a UDP socket that hears one peer only.
func connected(t *testing.T) uint16 {
	return onFreePort(t, func(port uint16) error {
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lo4, port))
		c, err := net.DialUDP("udp4", local, &net.UDPAddr{IP: local.IP, Port: 9})
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
}

// An address with a zone, as universal addresses of link-local services have.
func TestBoundZone(t *testing.T) {
	port := listen(t, "udp6", "::1", true)
	if got, err := sockdiag.Bound(rpcbind.UDP6, netip.AddrPortFrom(lo6.WithZone("lo"), port)); !got || err != nil {
		t.Errorf("Bound = %v, %v", got, err)
	}
}

func TestNotBound(t *testing.T) {
	port, l := listenUntil(t, "tcp4", "127.0.0.1", false)
	l.Close()
	if got, err := sockdiag.Bound(rpcbind.TCP, netip.AddrPortFrom(lo4, port)); got || err != nil {
		t.Errorf("Bound on a closed port = %v, %v", got, err)
	}
}

func TestUnsupported(t *testing.T) {
	for _, n := range []rpcbind.NetID{rpcbind.NoNetID, rpcbind.Local, rpcbind.SCTP, rpcbind.RDMA6} {
		if got, err := sockdiag.Bound(n, netip.AddrPortFrom(any4, 1)); got || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Bound(%v) = %v, %v", n, got, err)
		}
		if who, ok := sockdiag.Holder(n, 1); ok {
			t.Errorf("Holder(%v) = %q", n, who)
		}
	}
}

// Only the sockets of the asked port are listed, among many.
func TestSockets(t *testing.T) {
	var ports []uint16
	for range 300 { // more than one netlink message holds
		ports = append(ports, listen(t, "udp4", "127.0.0.1", false))
	}
	for _, port := range ports[290:] {
		list, err := sockdiag.Sockets(rpcbind.UDP, port)
		want := netip.AddrPortFrom(lo4, port)
		if err != nil || len(list) != 1 || list[0].Local != want || list[0].UID != uint32(os.Geteuid()) || list[0].Inode == 0 {
			t.Errorf("Sockets(%d) = %+v, %v", port, list, err)
		}
	}
}

func TestHolder(t *testing.T) {
	us := fmt.Sprintf("(process %d)", os.Getpid())
	for _, tt := range []struct {
		network, address string
		n                rpcbind.NetID
	}{
		{"tcp4", "127.0.0.1", rpcbind.TCP},
		{"tcp6", "::", rpcbind.TCP}, // an IPv6 socket keeps an IPv4 one away
		{"tcp4", "0.0.0.0", rpcbind.TCP6},
		{"udp6", "::1", rpcbind.UDP6},
		{"udp4", "127.0.0.1", rpcbind.UDP6},
	} {
		port := listen(t, tt.network, tt.address, false)
		if got, ok := sockdiag.Holder(tt.n, port); !ok || !strings.HasSuffix(got, us) {
			t.Errorf("%s %s: Holder(%v) = %q, %v; want this process %s", tt.network, tt.address, tt.n, got, ok, us)
		}
	}
	port, l := listenUntil(t, "tcp4", "127.0.0.1", false)
	l.Close()
	if got, ok := sockdiag.Holder(rpcbind.TCP, port); ok {
		t.Errorf("Holder of a free port = %q", got)
	}
}

// A socket that a service manager passed on has two holders, and a name is
// what a process gave itself.
func TestHolders(t *testing.T) {
	port, l := listenUntil(t, "tcp4", "127.0.0.1", false)
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", `printf 'bad\033[2J' >/proc/$$/comm && echo ready && read end`)
	cmd.ExtraFiles = []*os.File{f}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	got, ok := sockdiag.Holder(rpcbind.TCP, port)
	for _, want := range []string{
		fmt.Sprintf("(process %d)", os.Getpid()), " and ", fmt.Sprintf("bad?[2J (process %d)", cmd.Process.Pid),
	} {
		if !ok || !strings.Contains(got, want) {
			t.Errorf("Holder = %q, %v; want %q in it", got, ok, want)
		}
	}
}

// The distribution's rpcbind, as an admin will meet it.
func TestHolderIsRpcbind(t *testing.T) {
	h := lab.NewHost(t, "holder")
	lab.StartPortMapper(t, h, lab.Stock(t))
	err := h.Do(func() error {
		for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP, rpcbind.UDP6, rpcbind.TCP6} {
			if got, ok := sockdiag.Holder(n, rpcbind.Port); !ok || !strings.HasPrefix(got, "rpcbind (process ") {
				t.Errorf("Holder(%v) = %q, %v", n, got, ok)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An ordinary user can't look into the processes of others, but is told whose
// they are.
func TestHolderUnseen(t *testing.T) {
	h := lab.NewHost(t, "unseen")
	lab.StartPortMapper(t, h, lab.Stock(t))
	err := h.Do(func() error {
		// For this thread alone, which ends with Do.
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345); e != 0 {
			return e
		}
		if ok, err := sockdiag.Bound(rpcbind.UDP, netip.AddrPortFrom(any4, rpcbind.Port)); !ok || err != nil {
			t.Errorf("Bound = %v, %v", ok, err)
		}
		if got, ok := sockdiag.Holder(rpcbind.UDP, rpcbind.Port); !ok || got != "a process of user 0" {
			t.Errorf("Holder = %q, %v", got, ok)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
