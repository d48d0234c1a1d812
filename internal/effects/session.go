package effects

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inherit finds out about the connection that inetd left in a descriptor. A
// datagram that started the service stays there for it. What can't be found
// out is left zero; the error says why, and the session can be used all the same.
func Inherit(socket int) (*Session, error) {
	s := &Session{Socket: socket}
	kind, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return s, os.NewSyscallError("getsockopt SO_TYPE", err)
	}
	s.Stream = kind == unix.SOCK_STREAM
	peer, err := unix.Getpeername(socket)
	if errors.Is(err, unix.ENOTCONN) && !s.Stream {
		s.unread = true
		_, peer, err = unix.Recvfrom(socket, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}
	if err != nil {
		return s, fmt.Errorf("can't get client address: %w", err)
	}
	own, err := unix.Getsockname(socket)
	if err != nil {
		return s, os.NewSyscallError("getsockname", err)
	}
	s.Client, s.Server = addrPort(peer), addrPort(own)
	return s, nil
}

// addrPort is zero for what is not of the Internet, such as a unix socket.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(zone(sa.ZoneId))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func zone(index uint32) string {
	i, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return fmt.Sprint(index)
	}
	return i.Name
}

// Refuse ends the conversation: the client is told at once that nobody speaks
// to it, and its datagram is dropped, lest inetd start a service for it again.
func (s *Session) Refuse() {
	if s.unread {
		unix.Recvfrom(s.Socket, make([]byte, 1), unix.MSG_DONTWAIT)
		return
	}
	unix.Shutdown(s.Socket, unix.SHUT_RDWR)
}

// mostIPOptions is the longest list of options that a packet can have,
// RFC 791, Section 3.1: the longest header less what comes before.
const mostIPOptions = 40

// IPOptions returns the IP options that came with a TCP connection, with which
// an answer would go out: RFC 1122, Section 4.2.3.8. nil for none.
func (s *Session) IPOptions() []byte {
	if !s.Stream || !s.Client.Addr().Unmap().Is4() {
		return nil
	}
	var b [mostIPOptions]byte
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.Socket), unix.IPPROTO_IP, unix.IP_OPTIONS,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 || n == 0 {
		return nil
	}
	return b[:n]
}

// ClearIPOptions makes answers go without IP options.
func (s *Session) ClearIPOptions() error {
	return os.NewSyscallError("setsockopt IP_OPTIONS NULL", unix.SetsockoptString(s.Socket, unix.IPPROTO_IP, unix.IP_OPTIONS, ""))
}

// The IP options of RFC 791, Section 3.1, that matter here.
const (
	endOfOptions = 0
	noOperation  = 1
	looseRoute   = 131
	strictRoute  = 137
)

// SourceRouted says whether the options hold a source route: the client tells
// which way answers go, so its address proves nothing. Options that can't be
// read are taken for one.
func SourceRouted(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case endOfOptions:
			return false
		case noOperation:
			options = options[1:]
			continue
		case looseRoute, strictRoute:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}
