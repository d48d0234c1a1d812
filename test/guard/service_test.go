package guard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// service is a program that answers each call with success, on a port of UDP
// and one of TCP, over IPv4 and IPv6. It registers as libtirpc does: UNSET, then
// a SET for each transport, over the unix socket.
type service struct {
	t       testing.TB
	host    *lab.Host
	program uint32
	uid     int
	mute    bool // answers no datagrams
	udp     *net.UDPConn
	tcp     *net.TCPListener
	workers sync.WaitGroup

	strangers   atomic.Int64 // datagrams of the stranger
	connections atomic.Int64 // of the stranger
	lastArrival atomic.Int64 // of a datagram of the stranger at the kernel, Unix time in ns
	insiders    atomic.Int64 // datagrams of the inside host
}

// bind binds a service's sockets as a user, to any ports.
func bind(t testing.TB, h *lab.Host, program uint32, uid int) *service {
	t.Helper()
	return bindTo(t, h, program, uid, 0, 0)
}

func bindTo(t testing.TB, h *lab.Host, program uint32, uid int, udp, tcp uint16) *service {
	t.Helper()
	s := &service{t: t, host: h, program: program, uid: uid}
	lab.Eventually(t, "sockets of a service", func() error { // see listen
		return h.DoAs(uid, func() error {
			u, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(udp)})
			if err != nil {
				return err
			}
			if s.tcp, err = net.ListenTCP("tcp", &net.TCPAddr{Port: int(tcp)}); err != nil {
				u.Close()
			}
			s.udp = u
			return err
		})
	})
	raw, _ := s.udp.SyscallConn()
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	return s
}

// start binds, answers and registers.
func start(t testing.TB, h *lab.Host, program uint32, uid int) *service {
	t.Helper()
	s := bind(t, h, program, uid)
	s.answer()
	s.register()
	t.Cleanup(s.close)
	return s
}

func (s *service) udpPort() uint16 { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port() }
func (s *service) tcpPort() uint16 { return s.tcp.Addr().(*net.TCPAddr).AddrPort().Port() }

// targets are its ports at an address of the server.
func (s *service) targets(to netip.Addr) []target {
	return []target{
		{"udp", netip.AddrPortFrom(to, s.udpPort()), s.program, 1},
		{"tcp", netip.AddrPortFrom(to, s.tcpPort()), s.program, 1},
	}
}

// answer begins to answer.
func (s *service) answer() {
	s.workers.Go(s.answerUDP)
	s.workers.Go(s.answerTCP)
}

// close gives the ports up.
func (s *service) close() {
	s.udp.Close()
	s.tcp.Close()
	s.workers.Wait()
}

func isStranger(a netip.Addr) bool {
	a = a.Unmap()
	return a == lab.StrangerIP || a == lab.StrangerIP6
}

func (s *service) answerUDP() {
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		n, oobn, _, from, err := s.udp.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		if isStranger(from.Addr()) {
			s.strangers.Add(1)
			s.lastArrival.Store(arrival(oob[:oobn]))
		} else {
			s.insiders.Add(1)
		}
		if n >= 4 && !s.mute {
			s.udp.WriteToUDPAddrPort(oncrpc.AppendAccepted(nil, binary.BigEndian.Uint32(buf), oncrpc.Success), from)
		}
	}
}

// arrival returns the time at which the kernel got a datagram.
func arrival(oob []byte) int64 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < int(unsafe.Sizeof(unix.Timespec{})) {
		return time.Now().UnixNano()
	}
	ts := (*unix.Timespec)(unsafe.Pointer(&messages[0].Data[0]))
	return ts.Nano()
}

func (s *service) answerTCP() {
	for {
		c, err := s.tcp.AcceptTCP()
		if err != nil {
			return
		}
		if isStranger(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
			s.connections.Add(1)
		}
		s.workers.Go(func() { converse(c) })
	}
}

// converse answers the calls on a connection.
func converse(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	for {
		call, err := oncrpc.ReadRecord(c, nil, 1<<16)
		if err != nil || len(call) < 4 {
			return
		}
		reply := oncrpc.AppendAccepted(oncrpc.BeginRecord(nil), binary.BigEndian.Uint32(call), oncrpc.Success)
		if _, err := c.Write(oncrpc.EndRecord(reply, 0)); err != nil {
			return
		}
	}
}

// drain takes the connections that are complete, without waiting, ends the
// stranger's and answers the others. It returns how many were the stranger's.
func (s *service) drain() (strangers int) {
	raw, err := s.tcp.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	raw.Control(func(listener uintptr) {
		for {
			fd, _, err := unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err == unix.ECONNABORTED {
				strangers++
				continue
			}
			if err != nil {
				return
			}
			file := os.NewFile(uintptr(fd), "")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil || c.RemoteAddr() == nil || isStranger(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
				strangers++
				if err == nil {
					c.Close()
				}
				continue
			}
			s.workers.Go(func() { converse(c) })
		}
	})
	return strangers
}

// register registers the service as its user, after an UNSET.
func (s *service) register() {
	s.t.Helper()
	conn := s.dial()
	defer conn.Close()
	s.unset(conn)
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, r := range []struct {
		netid string
		at    netip.AddrPort
	}{
		{"udp", netip.AddrPortFrom(any4, s.udpPort())}, {"tcp", netip.AddrPortFrom(any4, s.tcpPort())},
		{"udp6", netip.AddrPortFrom(any6, s.udpPort())}, {"tcp6", netip.AddrPortFrom(any6, s.tcpPort())},
	} {
		set(s.t, conn, s.program, r.netid, r.at)
	}
}

// set registers one transport.
func set(t testing.TB, conn net.Conn, program uint32, netid string, at netip.AddrPort) {
	t.Helper()
	m := rpcbind.RPCB[string]{Program: program, Version: 1, NetID: netid, Addr: rpcbind.UAddr(at)}
	if ok, err := lab.Change(conn, lab.ProcSet, &m); err != nil || !ok {
		t.Fatalf("SET %+v: %v, %v", m, ok, err)
	}
}

// unregister removes what register registered.
func (s *service) unregister() {
	s.t.Helper()
	conn := s.dial()
	defer conn.Close()
	s.unset(conn)
}

func (s *service) dial() net.Conn {
	s.t.Helper()
	conn, err := lab.DialAs(s.host, s.uid)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func (s *service) unset(conn net.Conn) {
	s.t.Helper()
	if ok, err := lab.Change(conn, lab.ProcUnset, &rpcbind.RPCB[string]{Program: s.program, Version: 1}); err != nil || !ok {
		s.t.Fatal("UNSET:", ok, err)
	}
}
