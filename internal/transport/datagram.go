package transport

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/rpcbind"
)

// datagramSocket is one UDP socket. It is not one of net's: the runtime would
// be woken for every datagram that comes while others are answered.
type datagramSocket struct {
	fd     int
	netid  rpcbind.NetID
	listed netip.AddrPort // where it is bound
	device string         // interface that it is bound to, if any
	dual   bool           // an IPv6 socket that gets IPv4 too
	worker int            // which worker reads it

	// The rest is its worker's alone.
	links    links
	ifindex  uint32 // that the datagram stamped last came in on
	received uint64 // datagrams
	refused  floodMeter
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

// stamp fills in where datagram i of b came from, and reports whether this
// socket is the one to answer it. Ports below reserved are root's.
func (d *datagramSocket) stamp(o *policy.Origin, b *batch, i int, reserved uint16) bool {
	from, scope := b.from[i].addrPort()
	source := from.Addr().Unmap()
	info := readPacketInfo(b.control(i))
	if d.worker > 0 && info.toGroup() {
		return false // the kernel gives a copy to each worker
	}
	if source.IsLinkLocalUnicast() && source.Is6() {
		source = source.WithZone(d.links.name(scope))
	}
	local := info.local
	d.ifindex = info.ifindex
	if local.IsMulticast() {
		local = d.links.unicast(info.ifindex)
	}
	*o = policy.Origin{
		Channel: policy.Network,
		NetID:   d.netid,
		Source:  netip.AddrPortFrom(source, from.Port()),
		Local:   netip.AddrPortFrom(local.Unmap(), d.listed.Port()),
	}
	switch {
	case info.ifindex == loopbackIndex:
		o.Channel = policy.Loopback
		o.Privileged = from.Port() < reserved
	case source.WithZone("") == o.Local.Addr() && !o.Local.Addr().IsLoopback():
		o.Channel = policy.Claimed
	}
	if d.dual && source.Is4() {
		o.NetID = rpcbind.UDP
	}
	return true
}

// send sends one reply from the address local, which is on the given interface.
func (d *datagramSocket) send(reply []byte, to unix.Sockaddr, local netip.Addr, ifindex uint32) error {
	return unix.Sendmsg(d.fd, reply, sourceControl(nil, local, ifindex, d.netid.Is6()), to, unix.MSG_DONTWAIT)
}

func (d *datagramSocket) control(f func(fd int)) { f(d.fd) }

func (d *datagramSocket) close() { unix.Close(d.fd) }

// detachFilter lets all packets through again, if a filter was attached.
func (d *datagramSocket) detachFilter() {
	unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

// packetInfo is what the kernel tells of where a datagram came to.
type packetInfo struct {
	local   netip.Addr // the address to answer from, for a broadcast the interface's own
	to      netip.Addr // the address in the packet
	ifindex uint32
}

// toGroup reports whether the datagram was sent to more hosts than this one.
func (p *packetInfo) toGroup() bool { return p.local != p.to || p.local.IsMulticast() }

// readPacketInfo finds the packet information in control messages, cmsg(3).
// IP_PKTINFO counts more than IPV6_PKTINFO, which a socket of both families gets
// as well.
func readPacketInfo(control []byte) (info packetInfo) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			break
		}
		data := control[min(unix.CmsgLen(0), size):size]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return packetInfo{
				ifindex: binary.NativeEndian.Uint32(data),
				local:   netip.AddrFrom4([4]byte(data[4:8])),
				to:      netip.AddrFrom4([4]byte(data[8:12])),
			}
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info.local, info.ifindex = netip.AddrFrom16([16]byte(data[:16])), binary.NativeEndian.Uint32(data[16:])
			info.to = info.local
		}
		control = control[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(control)):]
	}
	return info
}

// sourceControl appends the control message that makes an answer leave from
// local, the address that was asked. Multicast addresses are no source. The
// kernel takes a link-local one together with its interface only.
func sourceControl(b []byte, local netip.Addr, ifindex uint32, is6 bool) []byte {
	if !local.IsValid() || local.IsMulticast() || local.IsUnspecified() {
		return nil
	}
	if is6 {
		b, data := appendCmsg(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := local.As16()
		copy(data, a[:]) // in6_pktinfo: address, interface
		if local.Is6() && local.IsLinkLocalUnicast() {
			binary.NativeEndian.PutUint32(data[len(a):], ifindex)
		}
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
