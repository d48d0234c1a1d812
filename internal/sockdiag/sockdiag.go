// Package sockdiag asks the kernel which sockets wait on a port, sock_diag(7),
// and finds the processes that hold them, proc(5).
//
// It sees the network namespace of the calling thread. Asking needs no rights;
// looking into the processes of others does.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

// Numbers of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sizeofRequest    = 56 // struct inet_diag_req_v2
	sizeofMessage    = 72 // struct inet_diag_msg
	attrV6Only       = 11 // INET_DIAG_SKV6ONLY, told of sockets in the states below

	// States of a socket, as bits; net/tcp_states.h.
	stateListen = 1 << 10 // TCP_LISTEN
	stateClose  = 1 << 7  // TCP_CLOSE, which an unconnected UDP socket is in
)

// Socket is a socket that waits for others, as the kernel describes it.
type Socket struct {
	Local  netip.AddrPort // of the socket's family, without a zone
	V6Only bool           // IPV6_V6ONLY, ipv6(7)
	UID    uint32         // of the user who made it
	Inode  uint32
}

// Sockets lists the sockets of one family and protocol that wait on a port:
// listening ones for the netids tcp and tcp6, unconnected ones for udp and
// udp6. Other netids are errors.ErrUnsupported.
func Sockets(n rpcbind.NetID, port uint16) ([]Socket, error) {
	var list []Socket
	err := dump(n, port, 0, func(b []byte) error {
		s, err := parse(b)
		if err == nil && s.Local.Port() == port { // the kernel should have seen to that
			list = append(list, s)
		}
		return err
	})
	return list, err
}

// request makes a struct inet_diag_req_v2 for the sockets that wait.
func request(n rpcbind.NetID, port uint16) ([]byte, error) {
	b := make([]byte, sizeofRequest)
	states := uint32(stateListen)
	switch n {
	case rpcbind.TCP, rpcbind.TCP6:
		b[1] = unix.IPPROTO_TCP
	case rpcbind.UDP, rpcbind.UDP6:
		b[1], states = unix.IPPROTO_UDP, stateClose
	default:
		return nil, fmt.Errorf("sockets of netid %q: %w", n, errors.ErrUnsupported)
	}
	b[0] = unix.AF_INET
	if n.Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], port) // id.idiag_sport
	return b, nil
}

// parse reads a struct inet_diag_msg and its attributes.
func parse(b []byte) (Socket, error) {
	if len(b) < sizeofMessage {
		return Socket{}, fmt.Errorf("message of %d bytes", len(b))
	}
	s := Socket{UID: binary.NativeEndian.Uint32(b[64:]), Inode: binary.NativeEndian.Uint32(b[68:])}
	port := binary.BigEndian.Uint16(b[4:])
	switch b[0] {
	case unix.AF_INET:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), port)
	case unix.AF_INET6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	default:
		return Socket{}, fmt.Errorf("socket of family %d", b[0])
	}
	attrs, err := netlink.NewAttributeDecoder(b[sizeofMessage:])
	if err != nil {
		return Socket{}, err
	}
	for attrs.Next() {
		if attrs.Type() == attrV6Only {
			s.V6Only = attrs.Uint8() != 0
		}
	}
	return s, attrs.Err()
}

// Bound reports whether a socket of transport n waits on at's port and takes
// what is sent to at's address. A socket of one address counts for a wildcard
// too, since that is how services register whose library knows only a port.
// IPv4 may be served by an IPv6 socket, unless that is for IPv6 only.
func Bound(n rpcbind.NetID, at netip.AddrPort) (bool, error) {
	for _, family := range families(n) {
		list, err := Sockets(family, at.Port())
		if err != nil {
			return false, err
		}
		for _, s := range list {
			if s.covers(n, at.Addr().Unmap().WithZone("")) {
				return true, nil
			}
		}
	}
	return false, nil
}

// families lists the transports whose sockets may serve n.
func families(n rpcbind.NetID) []rpcbind.NetID {
	switch n {
	case rpcbind.TCP:
		return []rpcbind.NetID{rpcbind.TCP, rpcbind.TCP6}
	case rpcbind.UDP:
		return []rpcbind.NetID{rpcbind.UDP, rpcbind.UDP6}
	}
	return []rpcbind.NetID{n}
}

// covers reports whether s takes what is sent to an address of n.
func (s *Socket) covers(n rpcbind.NetID, addr netip.Addr) bool {
	local := s.Local.Addr()
	if local.Is6() && local.IsUnspecified() {
		return n.Is6() || !s.V6Only
	}
	if local.Unmap().Is6() != n.Is6() {
		return false
	}
	return local.IsUnspecified() || addr.IsUnspecified() || local.Unmap() == addr
}
