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
		d.stamp(&origin, from, control[:oobn])
		reply, outcome := worker.Answer(out[:0], in[:n], &origin)
		switch outcome {
		case portmapper.Reply:
			d.send(s, reply, from, sourceControl(control[:0], origin.Local.Addr(), d.netid.Is6()))
		case portmapper.Forward:
			s.forward(&worker.Forwarded, d, from)
		}
	}
}

// stamp fills in where a datagram came from.
func (d *datagramSocket) stamp(o *policy.Origin, from netip.AddrPort, control []byte) {
	local, ifindex := packetInfo(control)
	*o = policy.Origin{
		Channel: policy.Network,
		NetID:   d.netid,
		Source:  netip.AddrPortFrom(from.Addr().Unmap(), from.Port()),
		Local:   netip.AddrPortFrom(local.Unmap(), d.listed.Port()),
	}
	if ifindex == loopbackIndex {
		o.Channel = policy.Loopback
	}
	if d.dual && o.Source.Addr().Is4() {
		o.NetID = rpcbind.UDP
	}
}

func (d *datagramSocket) send(s *Server, reply []byte, to netip.AddrPort, control []byte) {
	// A reply that can't be sent is lost, as any datagram may be.
	if _, _, err := d.conn.WriteMsgUDPAddrPort(reply, control, to); err != nil {
		s.counts.writeErrors.Add(1)
	}
}

// Sizes of struct cmsghdr and of the packet information that follows it.
const (
	cmsgHeader     = unix.SizeofCmsghdr
	sizeofPktinfo4 = unix.SizeofInet4Pktinfo
	sizeofPktinfo6 = unix.SizeofInet6Pktinfo
)

// packetInfo finds the local address and the interface of a packet in its
// control messages, cmsg(3). The address of an IPv4 packet is the one to answer
// from: for a broadcast, the interface's own.
func packetInfo(control []byte) (local netip.Addr, ifindex uint32) {
	for len(control) >= cmsgHeader {
		size := binary.NativeEndian.Uint64(control)
		level := binary.NativeEndian.Uint32(control[8:])
		kind := binary.NativeEndian.Uint32(control[12:])
		if size < cmsgHeader || size > uint64(len(control)) {
			break
		}
		data := control[cmsgHeader:size]
		switch {
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= sizeofPktinfo4:
			return netip.AddrFrom4([4]byte(data[4:8])), binary.NativeEndian.Uint32(data)
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= sizeofPktinfo6:
			return netip.AddrFrom16([16]byte(data[:16])), binary.NativeEndian.Uint32(data[16:])
		}
		control = control[min(align(size), uint64(len(control))):]
	}
	return netip.Addr{}, 0
}

func align(n uint64) uint64 {
	const word = uint64(unsafe.Sizeof(uintptr(0)))
	return (n + word - 1) &^ (word - 1)
}

// sourceControl appends the control message that makes an answer leave from
// local, the address that was asked. Multicast addresses are no source.
func sourceControl(b []byte, local netip.Addr, is6 bool) []byte {
	if !local.IsValid() || local.IsMulticast() || local.IsUnspecified() {
		return nil
	}
	if is6 {
		b = appendCmsgHeader(b, sizeofPktinfo6, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO)
		a := local.As16()
		b = append(b, a[:]...)
		return append(b, 0, 0, 0, 0)
	}
	b = appendCmsgHeader(b, sizeofPktinfo4, unix.IPPROTO_IP, unix.IP_PKTINFO)
	a := local.As4()
	b = append(b, 0, 0, 0, 0)
	b = append(b, a[:]...)
	b = append(b, 0, 0, 0, 0)
	return append(b, 0, 0, 0, 0) // in_pktinfo is 12 bytes, padded to whole words
}

func appendCmsgHeader(b []byte, size, level, kind int) []byte {
	b = binary.NativeEndian.AppendUint64(b, uint64(cmsgHeader+size))
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	return binary.NativeEndian.AppendUint32(b, uint32(kind))
}
