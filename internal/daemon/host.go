package daemon

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// host answers the port mapper's questions about this machine by asking the
// kernel. It implements portmapper.Host.
type host struct{}

func (host) Now() int64 { return time.Now().Unix() }

// HasAddr looks at the addresses of the interfaces. Binding a socket would be
// quicker, but the kernel binds to broadcast and multicast addresses too, and
// with ip_nonlocal_bind to any.
func (host) HasAddr(addr netip.Addr) bool {
	if addr.Unmap().IsLoopback() {
		return true // all of 127.0.0.0/8, and ::1
	}
	addrs, err := interfaceAddrs(addr.Zone())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ours, ok := netip.AddrFromSlice(n.IP)
		return ok && ours.Unmap() == addr.Unmap().WithZone("")
	})
}

// interfaceAddrs returns the addresses of the interface of that name, of all
// interfaces if it is "".
func interfaceAddrs(name string) ([]net.Addr, error) {
	if name == "" {
		return net.InterfaceAddrs()
	}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	return ifi.Addrs()
}

func (host) Bound(n rpcbind.NetID, ap netip.AddrPort) bool {
	ok, err := sockdiag.Bound(n, ap)
	return ok && err == nil
}
