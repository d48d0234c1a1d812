package transport

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

var ipTransports = []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP, rpcbind.UDP6, rpcbind.TCP6}

// prepareOn opens the sockets of c on h, to be served in this process.
func prepareOn(t *testing.T, h *lab.Host, allow string, c Config, opt portmapper.Options) *testServer {
	t.Helper()
	c.Port, c.NetIDs = cmp.Or(c.Port, rpcbind.Port), ipTransports
	var socks *Sockets
	err := h.Do(func() (err error) {
		socks, err = Listen(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, allow, socks.Own(), opt)
	s.socks = socks
	t.Cleanup(func() {
		if n := s.counts.writeErrors.Load(); n > 0 {
			t.Errorf("%d answers could not be sent", n)
		}
	})
	return s
}

// serveOn opens the sockets of c on h and serves them.
func serveOn(t *testing.T, h *lab.Host, allow string, c Config, opt portmapper.Options) *testServer {
	t.Helper()
	s := prepareOn(t, h, allow, c, opt)
	s.start(t, s.socks)
	return s
}

// call makes a call, and over UDP makes it again: a link that has just been set
// up may lose a datagram.
func call(conn net.Conn, c oncrpc.Call) (reply oncrpc.Reply, err error) {
	c.Program = rpcbind.Program
	if _, isUDP := conn.(*net.UDPConn); !isUDP {
		return lab.Call(conn, c, patience)
	}
	for range 3 {
		if reply, err = lab.Call(conn, c, patience/5); !os.IsTimeout(err) {
			break
		}
	}
	return reply, err
}

// getTime calls GETTIME, which everybody may who may anything.
var getTime = oncrpc.Call{Version: rpcbind.Version4, Procedure: uint32(rpcbind.ProcGetTime)}

// set is a SET of a program over TCP.
func set(program uint32) oncrpc.Call {
	return oncrpc.Call{Version: rpcbind.Version4, Procedure: uint32(rpcbind.ProcSet),
		Args: rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: program, Version: 1, NetID: "tcp", Addr: "0.0.0.0.80.1"})}
}

// dialFrom connects from a privileged port, which is the superuser's, if the
// caller names one.
func dialFrom(h *lab.Host, network string, port uint16, to string) (net.Conn, error) {
	if port == 0 {
		return h.Dial(network, to)
	}
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	if netip.MustParseAddrPort(to).Addr().Is6() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	}
	return h.DialFrom(network, local, to)
}

// Which channel the kernel says that a call came in on, for each transport, and
// who may register over it.
func TestChannels(t *testing.T) {
	n := lab.NewNet(t)
	s := serveOn(t, n.Server, "portmap: ALL", Config{}, portmapper.Options{})
	type over map[string]policy.Channel
	var (
		viaLoopback = over{"udp": policy.Loopback, "tcp": policy.Loopback}
		viaNetwork  = over{"udp": policy.Network, "tcp": policy.Network}
		// Of a datagram to another of its addresses this host's kernel says that it
		// came over the interface that has the address, where it may be forged.
		viaOwn = over{"udp": policy.Claimed, "tcp": policy.Loopback}
	)
	program := uint32(400000)
	for _, tt := range []struct {
		name string
		from *lab.Host
		to   string
		over over
	}{
		{"loopback", n.Server, "127.0.0.1:111", viaLoopback},
		{"another loopback address", n.Server, "127.1.2.3:111", viaLoopback},
		{"loopback, IPv6", n.Server, "[::1]:111", viaLoopback},
		{"own address", n.Server, "10.99.0.1:111", viaOwn},
		{"own address, IPv6", n.Server, "[fd99::1]:111", viaOwn},
		{"network", n.Inside, "10.99.0.1:111", viaNetwork},
		{"network, IPv6", n.Inside, "[fd99::1]:111", viaNetwork},
		{"network, the other address", n.Inside, "10.98.0.1:111", viaNetwork},
	} {
		for _, network := range []string{"udp", "tcp"} {
			for _, port := range []uint16{0, 700} {
				t.Run(fmt.Sprintf("%s over %s from port %d", tt.name, network, port), func(t *testing.T) {
					program++
					conn, err := dialFrom(tt.from, network, port, tt.to)
					if err != nil {
						t.Fatal(err)
					}
					defer func() {
						if tc, ok := conn.(*net.TCPConn); ok {
							tc.SetLinger(0) // so that the port is free for the next one
						}
						conn.Close()
					}()
					reply, err := call(conn, set(program))
					if err != nil {
						t.Fatal(err)
					}
					r := xdr.NewReader(reply.Results)
					done := reply.Stat == oncrpc.MsgAccepted && r.Bool()
					if done != (tt.over[network] == policy.Loopback && port > 0) {
						t.Errorf("SET was done: %v (%+v)", done, reply)
					}
					all := s.seen.all()
					o := all[len(all)-1]
					if o.Source.Port() != netip.MustParseAddrPort(conn.LocalAddr().String()).Port() {
						t.Fatalf("the last call seen is from %v", o.Source)
					}
					if o.Channel != tt.over[network] {
						t.Errorf("channel %v, want %v", o.Channel, tt.over[network])
					}
					if o.Local != netip.MustParseAddrPort(tt.to) {
						t.Errorf("came to %v, want %v", o.Local, tt.to)
					}
					if o.NetID.Is6() != o.Local.Addr().Is6() {
						t.Errorf("transport %v to %v", o.NetID, o.Local)
					}
				})
			}
		}
	}
}

// The answer leaves from the address and the port that was asked, whichever of
// the host's it is: a connected socket takes no other.
func TestAnswersLeaveFromAddressAsked(t *testing.T) {
	n := lab.NewNet(t)
	n.Server.AddAddr("lan", netip.MustParsePrefix("10.99.0.10/24"), netip.MustParsePrefix("fd99::10/64"))
	n.Server.MustRun("ip", "addr", "add", "fe80::99/64", "dev", "lan")
	serveOn(t, n.Server, "portmap: ALL", Config{}, portmapper.Options{})
	for _, to := range []string{
		"10.99.0.1:111", "10.99.0.10:111", "10.98.0.1:111",
		"[fd99::1]:111", "[fd99::10]:111", "[fd98::1]:111", "[fe80::99%eth0]:111",
	} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := n.Inside.Dial(network, to)
			if err != nil {
				t.Errorf("%s to %s: %v", network, to, err)
				continue
			}
			defer conn.Close()
			if _, err := call(conn, getTime); err != nil {
				t.Errorf("%s to %s: %v", network, to, err)
			}
		}
	}
}

// A link-local address that is asked from another kind of address: the client's
// does not tell the interface to answer on.
func TestAnswerLeavesFromLinkLocal(t *testing.T) {
	n := lab.NewNet(t)
	n.Server.MustRun("ip", "addr", "add", "fe80::99/64", "dev", "lan", "nodad")
	serveOn(t, n.Server, "portmap: ALL", Config{}, portmapper.Options{})
	for _, tt := range []struct {
		from      *lab.Host
		local, to string
	}{
		{n.Inside, "[fd99::2]:0", "[fe80::99%eth0]:111"},
		{n.Server, "[fd99::1]:0", "[fe80::99%lan]:111"},
		{n.Server, "[::]:0", "[fe80::99%lan]:111"},
	} {
		conn, err := tt.from.DialFrom("udp", netip.MustParseAddrPort(tt.local), tt.to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := call(conn, getTime); err != nil {
			t.Errorf("%s from %s to %s: %v", tt.from.Name, tt.local, tt.to, err)
		}
	}
}

// A broadcast is answered from the interface's own address, port 111, and once,
// though the kernel gives it to each worker.
func TestBroadcastIsAnsweredFromOwnAddress(t *testing.T) {
	n := lab.NewNet(t)
	serveOn(t, n.Server, "portmap: ALL", Config{Workers: 3}, portmapper.Options{})
	conn, err := n.Inside.ListenPacket("udp4", "10.99.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, to := range []string{"10.99.0.255:111", "255.255.255.255:111"} {
		c := getTime
		c.Program = rpcbind.Program
		if _, err := conn.WriteTo(oncrpc.AppendCall(nil, &c), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Errorf("to %s: %v", to, err)
			continue
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, from, err := conn.ReadFrom(make([]byte, 1500)); err != nil || from.String() != "10.99.0.1:111" {
			t.Errorf("answer to %s from %v, %v; want it from 10.99.0.1:111", to, from, err)
		}
		conn.SetReadDeadline(time.Now().Add(patience / 20))
		if _, from, err := conn.ReadFrom(make([]byte, 1500)); err == nil {
			t.Errorf("another answer to %s, from %v", to, from)
		}
	}
}

// The kernel divides the callers among the workers, and each is answered.
func TestWorkersShareCallers(t *testing.T) {
	n := lab.NewNet(t)
	s := serveOn(t, n.Server, "portmap: ALL", Config{Workers: 3}, portmapper.Options{})
	for _, to := range []string{"10.99.0.1:111", "[fd99::1]:111"} {
		for range 30 {
			conn, err := n.Inside.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := call(conn, getTime); err != nil {
				t.Errorf("%v to %s: %v", conn.LocalAddr(), to, err)
			}
			conn.Close()
		}
	}
	if got := len(s.seen.all()); got < 60 {
		t.Errorf("%d calls were seen, want 60", got)
	}
	s.stop()
	for _, d := range s.socks.datagrams {
		if d.listed.Addr().IsUnspecified() && d.received == 0 {
			t.Errorf("worker %d got none of 30 calls over %v", d.worker, d.netid)
		}
	}
}

// A passed socket of both families tells them apart and answers both.
func TestDualStackSocket(t *testing.T) {
	n := lab.NewNet(t)
	var socks *Sockets
	err := n.Server.Do(func() error {
		var files []*os.File
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) })
		}}
		pc, err := lc.ListenPacket(context.Background(), "udp", "[::]:111")
		if err != nil {
			return err
		}
		defer pc.Close()
		l, err := lc.Listen(context.Background(), "tcp", "[::]:111")
		if err != nil {
			return err
		}
		defer l.Close()
		for _, s := range []interface{ File() (*os.File, error) }{pc.(*net.UDPConn), l.(*net.TCPListener)} {
			f, err := s.File()
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		socks, err = FromFiles(files)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, "portmap: ALL", socks.Own(), portmapper.Options{})
	s.start(t, socks)
	for _, tt := range []struct {
		from    *lab.Host
		network string
		to      string
		netid   rpcbind.NetID
		channel policy.Channel
	}{
		{n.Inside, "udp", "10.99.0.1:111", rpcbind.UDP, policy.Network},
		{n.Inside, "udp", "[fd99::1]:111", rpcbind.UDP6, policy.Network},
		{n.Inside, "udp", "10.98.0.1:111", rpcbind.UDP, policy.Network},
		{n.Inside, "tcp", "10.99.0.1:111", rpcbind.TCP, policy.Network},
		{n.Inside, "tcp", "[fd99::1]:111", rpcbind.TCP6, policy.Network},
		{n.Server, "udp", "127.0.0.1:111", rpcbind.UDP, policy.Loopback},
		{n.Server, "tcp", "127.0.0.1:111", rpcbind.TCP, policy.Loopback},
		{n.Server, "tcp", "[::1]:111", rpcbind.TCP6, policy.Loopback},
	} {
		conn, err := tt.from.Dial(tt.network, tt.to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := call(conn, getTime); err != nil {
			t.Errorf("%s to %s: %v", tt.network, tt.to, err)
			continue
		}
		all := s.seen.all()
		o := all[len(all)-1]
		if o.NetID != tt.netid || o.Channel != tt.channel {
			t.Errorf("%s to %s: %v, %v; want %v, %v", tt.network, tt.to, o.NetID, o.Channel, tt.netid, tt.channel)
		}
	}
}

// Nobody can put a socket of theirs beside ours and so get a share of the
// calls, as SO_REUSEPORT lets a user do with sockets of the same user.
func TestPortIsNotShared(t *testing.T) {
	const port = 11111
	h := lab.NewHost(t, "server")
	serveOn(t, h, "", Config{Port: port}, portmapper.Options{})
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
	}}
	listen := map[string]func(string) (io.Closer, error){
		"udp": func(at string) (io.Closer, error) { return lc.ListenPacket(context.Background(), "udp", at) },
		"tcp": func(at string) (io.Closer, error) { return lc.Listen(context.Background(), "tcp", at) },
	}
	for _, tt := range []struct {
		network string
		user    uintptr // ours is 0
	}{
		// Not of the same user over TCP: the kernel remembers that the port was
		// shared (struct inet_bind_bucket, fastreuseport) when our sockets don't.
		{"udp", 0}, {"udp", 1000}, {"tcp", 1000},
	} {
		for _, addr := range []string{"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"} {
			err := h.Do(func() error {
				// This thread only, which ends with this function.
				if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, tt.user, tt.user, tt.user); err != 0 {
					return err
				}
				l, err := listen[tt.network](net.JoinHostPort(addr, strconv.Itoa(port)))
				if err == nil {
					l.Close()
				}
				return err
			})
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("user %d on %s %s: %v, want it in use", tt.user, tt.network, addr, err)
			}
		}
	}
}

// datagram is an IPv4 packet with an UDP datagram, RFC 791 and RFC 768, as a
// forger makes it: with any source.
func datagram(from, to netip.AddrPort, payload []byte) []byte {
	src, dst := from.Addr().As4(), to.Addr().As4()
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(b[2:], uint16(20+8+len(payload)))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...) // no checksum
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// forge sends an IPv4 packet from h's link to the machine with the given
// hardware address, past all that h's own kernel thinks of it: packet(7).
func forge(h *lab.Host, link string, to net.HardwareAddr, packet []byte) error {
	return h.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		const ipv4 = uint16(unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(ipv4))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: ifi.Index, Halen: 6}
		copy(sa.Addr[:], to)
		return unix.Sendto(fd, packet, 0, sa)
	})
}

// Packets with a source of this host that come in over a link are not local,
// whatever the kernel has been told to let through.
func TestForgedSourcesAreNotLocal(t *testing.T) {
	n := lab.NewNet(t)
	for _, setting := range []string{"rp_filter=0", "route_localnet=1", "accept_local=1"} {
		n.Server.MustRun("sysctl", "-qw", "net.ipv4.conf.all."+setting, "net.ipv4.conf.wan."+setting)
	}
	mac := regexp.MustCompile(`link/ether ([0-9a-f:]{17})`).FindStringSubmatch(n.Server.MustRun("ip", "-o", "link", "show", "wan"))
	wan, err := net.ParseMAC(mac[1])
	if err != nil {
		t.Fatal(err)
	}
	// Answered by the policy, so that nothing but the channel stands in the way.
	s := serveOn(t, n.Server, "portmap: ALL", Config{}, portmapper.Options{InsecureLocal: true})
	program := uint32(400000)
	for _, tt := range []struct{ name, from, to string }{
		{"loopback to our address", "127.0.0.1:700", "10.98.0.1:111"},
		{"loopback to loopback", "127.0.0.1:700", "127.0.0.1:111"},
		{"loopback to another loopback address", "127.0.0.1:700", "127.0.0.9:111"},
		{"our address to itself", "10.98.0.1:700", "10.98.0.1:111"},
		{"our other address", "10.99.0.1:700", "10.98.0.1:111"},
		{"loopback to broadcast", "127.0.0.1:700", "255.255.255.255:111"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program++
			c := set(program)
			c.XID, c.Program = program, rpcbind.Program
			from, to := netip.MustParseAddrPort(tt.from), netip.MustParseAddrPort(tt.to)
			before := len(s.seen.all())
			if err := forge(n.Stranger, "eth0", wan, datagram(from, to, oncrpc.AppendCall(nil, &c))); err != nil {
				t.Fatal(err)
			}
			lab.Eventually(t, "arrival of the packet", func() error {
				if len(s.seen.all()) == before {
					return errors.New("the kernel dropped it, so that this test proves nothing")
				}
				return nil
			})
			want := policy.Network
			if from.Addr() == to.Addr() && !from.Addr().IsLoopback() {
				want = policy.Claimed // as this host's own would be
			}
			if o := s.seen.all()[before]; o.Channel != want || o.Source != from {
				t.Errorf("came over %v from %v, want %v and %v", o.Channel, o.Source, want, from)
			}
			for reg := range s.registry.Snapshot().Services() {
				t.Errorf("a forged SET was taken: %v", reg)
			}
		})
	}
}
