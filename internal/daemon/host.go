package daemon

import (
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// host answers the port mapper's questions about this machine by asking the
// kernel. It implements portmapper.Host.
type host struct{}

func (host) Now() int64 { return time.Now().Unix() }

// HasAddr asks the kernel to bind a socket there, which it does for addresses
// of this host only, those of whole local networks (127.0.0.0/8) included.
func (host) HasAddr(addr netip.Addr) bool {
	family, sa := sockaddr(addr)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sa) == nil
}

func sockaddr(addr netip.Addr) (family int, sa unix.Sockaddr) {
	addr = addr.Unmap()
	if addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: addr.As4()}
	}
	sa6 := &unix.SockaddrInet6{Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		if ifi, err := net.InterfaceByName(zone); err == nil {
			sa6.ZoneId = uint32(ifi.Index)
		}
	}
	return unix.AF_INET6, sa6
}

func (host) Bound(n rpcbind.NetID, ap netip.AddrPort) bool {
	ok, err := sockdiag.Bound(n, ap)
	return ok && err == nil
}
