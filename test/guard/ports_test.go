package guard

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"rpcward/internal/firewall"
	"rpcward/oncrpc"
	"rpcward/test/lab"
)

// waitReach waits until a host is answered at all targets.
func waitReach(t *testing.T, what string, h *lab.Host, targets ...target) {
	t.Helper()
	lab.Eventually(t, what, func() error {
		for _, a := range targets {
			if err := a.try(h, netip.Addr{}, silence); err != nil {
				return err
			}
		}
		return nil
	})
}

// listen opens a datagram socket on a port that was closed just now: a process
// that is being started by another test may have a copy until it runs.
func listen(t *testing.T, h *lab.Host, network string, at netip.AddrPort) (c net.PacketConn) {
	t.Helper()
	lab.Eventually(t, "a socket on "+at.String(), func() (err error) {
		c, err = h.ListenPacket(network, at.String())
		return err
	})
	return c
}

// What is not registered any more stays closed until the service's sockets are
// gone, and then is open to whoever gets the number.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	n, guard := guarded(t, firewall.BackendNFT, lan)
	s := start(t, n.Server, program, 0)
	other := start(t, n.Server, program+1, 0)
	p := probed(t, n, s)
	wantShut(t, n, other)
	s.unregister()
	lab.Eventually(t, "the port closed to all", func() error {
		if s.targets(lab.ServerIP)[0].try(n.Inside, netip.Addr{}, silence) == nil {
			return errNotYet
		}
		return nil
	})
	for range 3 { // longer than the guard takes to look
		check(t, n.Inside, netip.Addr{}, false, s.targets(lab.ServerIP)...)
	}
	wantNoArrivals(t, s, p)

	// An ordinary program gets the port: a client that waits for answers there.
	port := s.udpPort()
	s.close()
	c := listen(t, n.Server, "udp4", netip.AddrPortFrom(lab.ServerWAN, port))
	defer c.Close()
	c.SetDeadline(time.Now().Add(comes))
	if _, _, err := c.ReadFrom(make([]byte, 100)); err != nil {
		t.Errorf("what is sent to a port that was freed does not arrive: %v\n%s", err, guard.Log())
	}
	wantShut(t, n, other)
}

// A port is closed also while the owner is dead and the registration is left
// behind, and when the service comes back to it.
func TestOwnerDied(t *testing.T) {
	t.Parallel()
	n, _ := guarded(t, firewall.BackendNFT, lan)
	s := start(t, n.Server, program, 0)
	p := probed(t, n, s)
	wantShutByProbe(t, n, s, p)
	udp := s.udpPort()
	s.close()
	time.Sleep(silence) // while the guard looks
	again := listen(t, n.Server, "udp", netip.AddrPortFrom(netip.IPv6Unspecified(), udp))
	defer again.Close()
	again.SetDeadline(time.Now().Add(silence))
	if _, from, err := again.ReadFrom(make([]byte, 100)); !os.IsTimeout(err) {
		t.Errorf("from %v: %v, want silence", from, err)
	}
	wantNoArrivals(t, s, p)
}

// Open connections end with the right to have them; others stay, and this
// host's own.
func TestCut(t *testing.T) {
	t.Parallel()
	n, guard := guarded(t, firewall.BackendNFT, lan+" 10.98.0.2 [fd98::2]")
	s := start(t, n.Server, program, 0)
	dial := func(h *lab.Host, to netip.Addr) net.Conn {
		t.Helper()
		c, err := h.Dial("tcp", netip.AddrPortFrom(to, s.tcpPort()).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	call := func(c net.Conn) error {
		_, err := lab.Call(c, oncrpc.Call{Program: program, Version: 1}, comes)
		return err
	}
	cut := []net.Conn{dial(n.Stranger, lab.ServerWAN), dial(n.Stranger, lab.ServerWAN6)}
	kept := []net.Conn{
		dial(n.Inside, lab.ServerIP), dial(n.Inside, lab.ServerIP6), dial(n.Server, netip.MustParseAddr("127.0.0.1")),
		dial(n.Server, netip.IPv6Loopback()), dial(n.Server, lab.ServerWAN), dial(n.Server, lab.ServerWAN6),
	}
	for _, c := range slices.Concat(cut, kept) {
		if err := call(c); err != nil {
			t.Fatalf("%v: %v", c.RemoteAddr(), err)
		}
	}
	n.Server.Allow(lan)
	for _, c := range cut {
		// The server's end sends a reset, which is let out.
		c.SetReadDeadline(time.Now().Add(comes))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
			t.Errorf("the stranger's connection to %v: %v, want its end", c.RemoteAddr(), err)
		}
	}
	for _, c := range kept {
		if err := call(c); err != nil {
			t.Errorf("from %v: %v", c.LocalAddr(), err)
		}
	}
	guard.WaitLog("ended a connection that is not allowed from=10.98.0.2:")

	// Who was connected before the service registered is cut as well.
	late := bind(t, n.Server, program+1, 0)
	defer late.close()
	c, err := n.Stranger.Dial("tcp", netip.AddrPortFrom(lab.ServerWAN, late.tcpPort()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	late.answer()
	late.register()
	c.SetReadDeadline(time.Now().Add(comes))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
		t.Errorf("a connection from before the registration: %v, want its end", err)
	}
}

// A policy that can't be right changes nothing.
func TestBrokenPolicy(t *testing.T) {
	t.Parallel()
	n, guard := guarded(t, firewall.BackendNFT, lan)
	s := start(t, n.Server, program, 0)
	p := probed(t, n, s)
	n.Server.Allow("portmap: 10.99.0.0/24 [fd99::", "ALL: ALL")
	guard.WaitLog("the last good one stays in force")
	wantShutByProbe(t, n, s, p)
	other := start(t, n.Server, program+1, 0)
	wantShut(t, n, other)
	n.Server.Allow(lan, "300101: 10.98.0.2")
	waitReach(t, "the stranger let in", n.Stranger, other.targets(lab.ServerWAN)...)
	wantShutByProbe(t, n, s, p)
}

// Users of the tests, who need no account.
const (
	alice = 4001
	bob   = 4002
)

// claimPort registers a UDP and a TCP port as a user who has bound nothing.
func claimPort(t *testing.T, h *lab.Host, uid int, program uint32, udp, tcp uint16) {
	t.Helper()
	conn, err := lab.DialAs(h, uid)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	set(t, conn, program, "udp", netip.AddrPortFrom(netip.IPv4Unspecified(), udp))
	set(t, conn, program, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), tcp))
}

// Nobody shuts out the clients of somebody else's service by registering its port.
func TestForeignPort(t *testing.T) {
	t.Parallel()
	n, guard := guarded(t, firewall.BackendNFT, lan)
	for i, uid := range []int{0, bob} {
		web := bind(t, n.Server, program, uid)
		web.answer()
		claimPort(t, n.Server, alice, program+uint32(i), web.udpPort(), web.tcpPort())
		check(t, n.Stranger, netip.Addr{}, true, web.targets(lab.ServerWAN)...)
		guard.WaitLog("not guarded")
		web.close()
	}
	// Their own ones are guarded, from the start.
	s := start(t, n.Server, program+2, alice)
	wantShut(t, n, s)
	// Root is believed: its services drop their rights.
	dropped := bind(t, n.Server, program+3, bob)
	defer dropped.close()
	dropped.answer()
	dropped.uid = 0
	dropped.register()
	wantShut(t, n, dropped)
}

// A port that a user registered before anybody bound it is the one's who binds it.
func TestForeignPortLater(t *testing.T) {
	t.Parallel()
	n, _ := guarded(t, firewall.BackendNFT, lan)
	free := bind(t, n.Server, program, 0)
	udp, tcp := free.udpPort(), free.tcpPort()
	free.close()
	claimPort(t, n.Server, alice, program, udp, tcp)
	web := bindTo(t, n.Server, program, bob, udp, tcp)
	web.answer()
	waitReach(t, "the clients of bob's service", n.Stranger, web.targets(lab.ServerWAN)...)
	web.close()
	// Then alice comes.
	s := bindTo(t, n.Server, program, alice, udp, tcp)
	defer s.close()
	s.answer()
	lab.Eventually(t, "alice's service guarded", func() error {
		if s.targets(lab.ServerWAN)[0].try(n.Stranger, netip.Addr{}, silence) == nil {
			return errNotYet
		}
		return nil
	})
	check(t, n.Stranger, netip.Addr{}, false, s.targets(lab.ServerWAN)...)
}
