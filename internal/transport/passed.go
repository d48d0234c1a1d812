package transport

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

// FromFiles takes the sockets that a service manager passed, as
// sd_listen_fds(3) describes, and closes the files. Nothing is opened beside
// them. A file that is no socket of ours is named in Skipped.
func FromFiles(files []*os.File) (*Sockets, error) {
	s := &Sockets{}
	for _, f := range files {
		if err := s.adopt(f); err != nil {
			s.Skipped = append(s.Skipped, fmt.Sprintf("passed socket %s: %v", f.Name(), err))
		}
		f.Close()
	}
	if len(s.datagrams)+len(s.streams) == 0 {
		return nil, fmt.Errorf("none of the %d sockets passed by the service manager can be used: %v", len(files), s.Skipped)
	}
	return s, nil
}

func (s *Sockets) adopt(f *os.File) error {
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return rootCause(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return rootCause(err)
	}
	switch a := name.(type) {
	case *unix.SockaddrUnix:
		if kind != unix.SOCK_STREAM {
			return fmt.Errorf("unix socket %q is not a stream", a.Name)
		}
		return s.adoptUnix(f, a.Name)
	case *unix.SockaddrInet4:
		return s.adoptIP(f, kind, netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), false)
	case *unix.SockaddrInet6:
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return rootCause(err)
		}
		return s.adoptIP(f, kind, netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), only == 0)
	}
	return fmt.Errorf("address family not supported")
}

func (s *Sockets) adoptUnix(f *os.File, path string) error {
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s.streams = append(s.streams, &streamSocket{listener: l, netid: rpcbind.Local, path: path})
	return nil
}

// adoptIP takes a socket of IPv4 or IPv6; dual means that an IPv6 one serves
// IPv4 too.
func (s *Sockets) adoptIP(f *os.File, kind int, at netip.AddrPort, dual bool) error {
	is6 := at.Addr().Is6()
	switch kind {
	case unix.SOCK_DGRAM:
		if err := wantPacketInfo(int(f.Fd()), is6, true); err != nil {
			return rootCause(err)
		}
		if dual {
			if err := wantPacketInfo(int(f.Fd()), false, true); err != nil {
				return rootCause(err)
			}
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d := &datagramSocket{fd: fd, netid: pick(is6, rpcbind.UDP, rpcbind.UDP6), listed: at, dual: dual}
		d.detachFilter() // that of a shield whose process was killed
		s.datagrams = append(s.datagrams, d)
		return nil
	case unix.SOCK_STREAM:
		l, err := net.FileListener(f)
		if err != nil {
			return err
		}
		s.streams = append(s.streams, &streamSocket{
			listener: l, netid: pick(is6, rpcbind.TCP, rpcbind.TCP6), listed: at, dual: dual})
		return nil
	}
	return fmt.Errorf("socket type %d not supported", kind)
}

func pick(is6 bool, n4, n6 rpcbind.NetID) rpcbind.NetID {
	if is6 {
		return n6
	}
	return n4
}
