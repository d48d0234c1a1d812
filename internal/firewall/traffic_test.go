package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// echo serves UDP and TCP on a port of all addresses of a host: what comes is
// sent back. It returns how many datagrams came from each source.
func echo(t testing.TB, h *lab.Host, port uint16) *atomic.Int64 {
	t.Helper()
	address := fmt.Sprintf("[::]:%d", port)
	l, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.UDPConn).SetReadBuffer(8 << 20)
	t.Cleanup(func() { l.Close(); c.Close() })
	var strangers atomic.Int64
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := from.(*net.UDPAddr).AddrPort().Addr().Unmap(); a == lab.StrangerIP || a == lab.StrangerIP6 {
				strangers.Add(1)
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1<<16)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					c.Write(buf[:n])
				}
			}()
		}
	}()
	return &strangers
}

// How long an answer is waited for that comes, and one that does not.
const (
	comes      = 5 * time.Second
	comesNever = 150 * time.Millisecond
)

// ping sends size bytes and waits until they come back.
func ping(c net.Conn, size int, wait time.Duration) error {
	c.SetDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	if _, err := c.Write(buf[:size]); err != nil {
		return err
	}
	for got := 0; got < size; {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

// reach tries a port over UDP, with a datagram that fits a packet and one that
// is sent in fragments, and TCP, and reports whether all come through, or none.
func reach(h *lab.Host, to netip.Addr, port uint16, want bool) error {
	wait := comesNever
	if want {
		wait = comes
	}
	address := netip.AddrPortFrom(to, port).String()
	for _, size := range []int{10, 5000} {
		c, err := h.Dial("udp", address)
		if err != nil {
			return err
		}
		err = ping(c, size, wait)
		c.Close()
		if (err == nil) != want || err != nil && !os.IsTimeout(err) {
			return fmt.Errorf("from %s to udp %s, %d bytes: %v, want reach %v", h.Name, address, size, err, want)
		}
	}
	var c net.Conn
	var err error
	err = h.Do(func() error {
		d := net.Dialer{Timeout: wait}
		c, err = d.Dial("tcp", address)
		return err
	})
	if err == nil {
		err = ping(c, 10, wait)
		c.Close()
	}
	if (err == nil) != want || err != nil && !os.IsTimeout(err) {
		return fmt.Errorf("from %s to tcp %s: %v, want reach %v", h.Name, address, err, want)
	}
	return nil
}

// check tries a port of the server from a host over both families.
func checkReach(t *testing.T, from *lab.Host, port uint16, want bool, to ...netip.Addr) {
	t.Helper()
	if len(to) == 0 {
		to = []netip.Addr{lab.ServerIP, lab.ServerIP6}
		if from.Name == "stranger" { // answers come from the address on its side
			to = []netip.Addr{lab.ServerWAN, lab.ServerWAN6}
		}
	}
	for _, a := range to {
		if err := reach(from, a, port, want); err != nil {
			t.Error(err)
		}
	}
}

func tcpUDP(program uint32, port uint16) []ruleset.Registration {
	return []ruleset.Registration{at(program, rpcbind.UDP, port), at(program, rpcbind.TCP, port)}
}

func TestPackets(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		n := lab.NewNet(t)
		fw := b.on(t, n.Server)
		for _, port := range []uint16{111, 700, 701, 7} {
			echo(t, n.Server, port)
		}
		ours := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), lab.ServerIP, lab.ServerIP6, lab.ServerWAN, lab.ServerWAN6}
		apply(t, fw, desired(t, lan+"mountd: 10.98.0.2 [fd98::2]\n", ruleset.Options{}, tcpUDP(100005, 700)...))
		checkReach(t, n.Inside, 111, true)
		checkReach(t, n.Stranger, 111, false)
		checkReach(t, n.Inside, 700, false)
		checkReach(t, n.Stranger, 700, true)
		checkReach(t, n.Stranger, 7, true)
		checkReach(t, n.Server, 111, true, ours...)
		checkReach(t, n.Server, 700, true, ours...)
		ownBroadcast(t, n.Server)
		wantCounts(t, fw, "mountd_")

		open, err := n.Stranger.Dial("tcp", netip.AddrPortFrom(lab.ServerWAN, 700).String())
		if err != nil || ping(open, 10, comes) != nil {
			t.Fatal("a connection of a client", err)
		}
		defer open.Close()
		// The service moves; its old port is a tombstone.
		apply(t, fw, desired(t, lan, ruleset.Options{Tombstones: []ruleset.Port{{Proto: ruleset.UDP, Port: 700}, {Proto: ruleset.TCP, Port: 700}}}, tcpUDP(100005, 701)...))
		if err := ping(open, 10, comesNever); !os.IsTimeout(err) {
			t.Errorf("an open connection to a port that closed: %v", err)
		}
		checkReach(t, n.Inside, 701, true)
		checkReach(t, n.Stranger, 701, false)
		checkReach(t, n.Inside, 700, false)
		checkReach(t, n.Server, 700, true, ours...)
		// Another policy, and no tombstone any more.
		apply(t, fw, desired(t, allIn, ruleset.Options{}, tcpUDP(100005, 701)...))
		checkReach(t, n.Stranger, 701, true)
		checkReach(t, n.Stranger, 700, true)
		spoofed(t, n, fw)
		if err := fw.Remove(); err != nil {
			t.Fatal(err)
		}
		checkReach(t, n.Stranger, 111, true)
	})
}

// wantCounts wants packets of both verdicts on the chain of a service.
func wantCounts(t *testing.T, fw Firewall, prefix string) {
	t.Helper()
	counts, err := fw.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range counts {
		if strings.HasPrefix(name, prefix) {
			if c.Allowed.Packets < 10 || c.Allowed.Bytes < 5000 || c.Dropped.Packets < 4 {
				t.Errorf("%s counted %+v", name, c)
			}
			return
		}
	}
	t.Errorf("no counters for %s in %v", prefix, counts)
}

// ownBroadcast sends a broadcast to a guarded port and wants the copy that the
// host gets itself.
func ownBroadcast(t *testing.T, h *lab.Host) {
	t.Helper()
	c, err := h.ListenPacket("udp4", netip.AddrPortFrom(lab.ServerIP, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rc, _ := c.(*net.UDPConn).SyscallConn()
	rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
	c.SetDeadline(time.Now().Add(comes))
	if _, err := c.WriteTo([]byte("to all"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.99.0.255:111"))); err != nil {
		t.Fatal(err)
	}
	if _, from, err := c.ReadFrom(make([]byte, 100)); err != nil {
		t.Errorf("own broadcast: %v %v", from, err)
	}
}

// spoofed sends datagrams to a guarded port that claim to be the server's own.
// They must not arrive, though everybody else's would be dropped for want of a
// rule, and the server's own pass.
func spoofed(t *testing.T, n *lab.Net, fw Firewall) {
	t.Helper()
	apply(t, fw, desired(t, "", ruleset.Options{}))
	c, err := n.Server.ListenPacket("udp", "[::]:9111")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func() {
		for _, addrs := range [][2]netip.Addr{{lab.ServerWAN, lab.ServerWAN}, {lab.ServerIP, lab.ServerWAN}, {lab.ServerWAN6, lab.ServerWAN6}, {lab.ServerIP6, lab.ServerWAN6}, {netip.IPv6Loopback(), lab.ServerWAN6}} {
			if err := n.Stranger.Do(func() error { return sendRaw(addrs[0], addrs[1], 9111) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() (got int) {
		for c.SetDeadline(time.Now().Add(comesNever)); ; got++ {
			if _, _, err := c.ReadFrom(make([]byte, 100)); err != nil {
				return got
			}
		}
	}
	send()
	if got := count(); got != 2 {
		t.Errorf("%d spoofed datagrams arrived at a port that is not guarded, want 2 over IPv6 with addresses that the link could have", got)
	}
	apply(t, fw, desired(t, "", ruleset.Options{}, at(100005, rpcbind.UDP, 9111)))
	send()
	if got := count(); got != 0 {
		t.Errorf("%d spoofed datagrams got through", got)
	}
}

// sendRaw sends a UDP datagram with a source of one's choice.
func sendRaw(from, to netip.Addr, port uint16) error {
	packet, dst := rawDatagram(from, to, port, []byte("spoofed!"))
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, packet, 0, dst)
}

// rawDatagram makes an IP packet and the address to send it to.
func rawDatagram(from, to netip.Addr, port uint16, payload []byte) (packet []byte, dst unix.Sockaddr) {
	udp := binary.BigEndian.AppendUint16(nil, 999)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, unix.IPPROTO_UDP, 0, byte(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if to.Is6() {
		dst = &unix.SockaddrInet6{Addr: to.As16()}
		packet = append(packet, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
	} else {
		dst = &unix.SockaddrInet4{Addr: to.As4()}
		packet = append(packet, 0x45, 0, 0, byte(20+len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	}
	return append(append(append(packet, from.AsSlice()...), to.AsSlice()...), udp...), dst
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// flood sends datagrams one after another, with some under way at once, and
// counts those that don't come back.
type flood struct {
	sent, lost atomic.Int64
	stop, done chan struct{}
}

const underWay = 32

func startFlood(t *testing.T, h *lab.Host, to netip.AddrPort) *flood {
	t.Helper()
	c, err := h.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	f := &flood{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer c.Close()
		buf := make([]byte, 64)
		for {
			select {
			case <-f.stop:
				return
			default:
			}
			for range underWay {
				c.Write(buf[:20])
			}
			f.sent.Add(underWay)
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			for range underWay {
				if _, err := c.Read(buf); err != nil {
					f.lost.Add(1)
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						return
					}
				}
			}
		}
	}()
	return f
}

func (f *flood) end() { close(f.stop); <-f.done }

// TestSwapUnderTraffic changes the policy again and again while an allowed
// client and a stranger send: not one packet of the client is lost, and none
// of the stranger arrives. RPCWARD_SWAP_SECONDS makes it run for longer.
func TestSwapUnderTraffic(t *testing.T) {
	length := 3 * time.Second
	if s := os.Getenv("RPCWARD_SWAP_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		length = time.Duration(n) * time.Second
	}
	each(t, func(t *testing.T, b backend) {
		n := lab.NewNet(t)
		fw := b.on(t, n.Server)
		strangers := echo(t, n.Server, 700)
		states := []*ruleset.State{
			desired(t, lan+lots(200), ruleset.Options{}, tcpUDP(100005, 700)...),
			desired(t, "mountd: 10.99.0.2 [fd99::2]\n"+lots(40), ruleset.Options{}, append(tcpUDP(100005, 700), tcpUDP(100003, 2049)...)...),
			desired(t, "ALL: ALL EXCEPT 10.98.0.0/16 [fd98::]/16\n", ruleset.Options{Mark: ruleset.Mark{Value: 1, Mask: 1}}, tcpUDP(100005, 700)...),
		}
		apply(t, fw, states[0])
		stop := make(chan struct{})
		for _, to := range []netip.Addr{lab.ServerIP, lab.ServerIP6} {
			c, err := n.Stranger.Dial("udp", netip.AddrPortFrom(to, 700).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				for {
					select {
					case <-stop:
						return
					default:
						for range 50 {
							c.Write([]byte("let me in"))
						}
						time.Sleep(time.Millisecond)
					}
				}
			}()
		}
		four := startFlood(t, n.Inside, netip.AddrPortFrom(lab.ServerIP, 700))
		six := startFlood(t, n.Inside, netip.AddrPortFrom(lab.ServerIP6, 700))
		rounds := 0
		for start := time.Now(); time.Since(start) < length; rounds++ {
			apply(t, fw, states[rounds%len(states)])
		}
		four.end()
		six.end()
		close(stop)
		sent, lost := four.sent.Load()+six.sent.Load(), four.lost.Load()+six.lost.Load()
		if sent < 1000 || lost > 0 || strangers.Load() > 0 {
			t.Errorf("%d changes: of %d packets of the client %d were dropped, of the stranger's %d passed", rounds, sent, lost, strangers.Load())
		}
		t.Logf("%d changes, %d packets", rounds, sent)
	})
}
