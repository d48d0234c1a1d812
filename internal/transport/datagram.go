package transport

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

// datagramSocket is one UDP socket.
type datagramSocket struct {
	conn   *net.UDPConn
	netid  rpcbind.NetID
	listed netip.AddrPort // where it is bound
	device string         // interface that it is bound to, if any
	dual   bool           // an IPv6 socket that gets IPv4 too

	unicasts   map[uint32]netip.Addr // of interfaces, for unicast
	remembered time.Time             // when unicasts was emptied
}

func (d *datagramSocket) netids() []rpcbind.NetID { return netids(d.netid, d.dual) }

// netids lists the transports of a socket: two if it is of both families.
func netids(n rpcbind.NetID, dual bool) []rpcbind.NetID {
	switch {
	case dual && n == rpcbind.UDP6:
		return []rpcbind.NetID{n, rpcbind.UDP}
	case dual && n == rpcbind.TCP6:
		return []rpcbind.NetID{n, rpcbind.TCP}
	}
	return []rpcbind.NetID{n}
}

const (
	// maxUDP is more than any datagram has.
	maxUDP = 64 << 10
	// controlSize holds the packet information of either family, ip(7) and ipv6(7).
	controlSize = 64
	// errorPause keeps a socket that only gives errors from taking a processor.
	errorPause = time.Millisecond
)

// serve answers datagrams until the socket is closed. Everything it needs is
// allocated before the loop.
func (d *datagramSocket) serve(s *Server) {
	var (
		in      = make([]byte, maxUDP)
		out     = make([]byte, 0, maxUDP)
		control = make([]byte, controlSize)
		worker  = s.mapper.NewWorker()
		origin  policy.Origin
	)
	for {
		n, oobn, _, from, err := d.conn.ReadMsgUDPAddrPort(in, control)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			s.counts.readErrors.Add(1)
			time.Sleep(errorPause)
			continue
		}
		d.stamp(&origin, from, control[:oobn], s.reserved)
		origin.At = clock()
		reply, outcome := worker.Answer(out[:0], in[:n], &origin)
		switch outcome {
		case portmapper.Reply:
			d.send(s, reply, from, sourceControl(control[:0], origin.Local.Addr(), d.netid.Is6()))
		case portmapper.Forward:
			s.forward(&worker.Forwarded, d, from)
		}
	}
}

// stamp fills in where a datagram came from. Ports below reserved are root's.
func (d *datagramSocket) stamp(o *policy.Origin, from netip.AddrPort, control []byte, reserved uint16) {
	local, ifindex := packetInfo(control)
	if local.IsMulticast() {
		local = d.unicast(ifindex)
	}
	*o = policy.Origin{
		Channel: policy.Network,
		NetID:   d.netid,
		Source:  netip.AddrPortFrom(from.Addr().Unmap(), from.Port()),
		Local:   netip.AddrPortFrom(local.Unmap(), d.listed.Port()),
	}
	switch {
	case ifindex == loopbackIndex:
		o.Channel = policy.Loopback
		o.Privileged = from.Port() < reserved
	case o.Source.Addr().WithZone("") == o.Local.Addr() && !o.Local.Addr().IsLoopback():
		o.Channel = policy.Claimed
	}
	if d.dual && o.Source.Addr().Is4() {
		o.NetID = rpcbind.UDP
	}
}

// multicastAge is how long the addresses of interfaces are remembered for
// datagrams to a group, which anybody on the link may send.
const multicastAge = 10 * time.Second

// unicast returns this host's address on an interface, for calls that came to a
// group: the one to answer from, and to name in answers.
func (d *datagramSocket) unicast(ifindex uint32) netip.Addr {
	if now := time.Now(); now.Sub(d.remembered) > multicastAge {
		d.remembered, d.unicasts = now, map[uint32]netip.Addr{}
	}
	addr, known := d.unicasts[ifindex]
	if !known {
		addr = linkLocal(int(ifindex))
		d.unicasts[ifindex] = addr
	}
	return addr
}

// linkLocal returns the IPv6 address that an interface has on its link, or none.
func linkLocal(ifindex int) netip.Addr {
	ifi, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return netip.Addr{}
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok && addr.Is6() && addr.IsLinkLocalUnicast() {
				return addr
			}
		}
	}
	return netip.Addr{}
}

func (d *datagramSocket) send(s *Server, reply []byte, to netip.AddrPort, control []byte) {
	// A reply that can't be sent is lost, as any datagram may be.
	if _, _, err := d.conn.WriteMsgUDPAddrPort(reply, control, to); err != nil {
		s.counts.writeErrors.Add(1)
	}
}

// packetInfo finds the local address and the interface of a packet in its
// control messages, cmsg(3). The address of an IPv4 packet is the one to answer
// from, for a broadcast the interface's own; that is why IP_PKTINFO counts more
// than IPV6_PKTINFO, which a socket of both families gets as well.
func packetInfo(control []byte) (local netip.Addr, ifindex uint32) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			break
		}
		data := control[min(unix.CmsgLen(0), size):size]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[4:8])), binary.NativeEndian.Uint32(data)
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			local, ifindex = netip.AddrFrom16([16]byte(data[:16])), binary.NativeEndian.Uint32(data[16:])
		}
		control = control[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(control)):]
	}
	return local, ifindex
}

// sourceControl appends the control message that makes an answer leave from
// local, the address that was asked. Multicast addresses are no source.
func sourceControl(b []byte, local netip.Addr, is6 bool) []byte {
	if !local.IsValid() || local.IsMulticast() || local.IsUnspecified() {
		return nil
	}
	if is6 {
		b, data := appendCmsg(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := local.As16()
		copy(data, a[:]) // in6_pktinfo: address, interface
		return b
	}
	b, data := appendCmsg(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	a := local.As4()
	copy(data[4:], a[:]) // in_pktinfo: interface, local address, destination
	return b
}

// appendCmsg appends a control message of size zero bytes, and returns those.
func appendCmsg(b []byte, level, kind int32, size int) (with, data []byte) {
	at := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(size))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return b, b[at+unix.CmsgLen(0) : at+unix.CmsgLen(size)]
}
