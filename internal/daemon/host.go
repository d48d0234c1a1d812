package daemon

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// host answers the port mapper's questions about this machine by asking the
// kernel. It implements portmapper.Host.
type host struct{ own atomic.Pointer[ownAddrs] }

// ownAddrs are the addresses of this host at one time, without scopes.
type ownAddrs struct {
	at  time.Time
	set map[netip.Addr]bool
}

// ownAddrsAge is how long they are believed.
const ownAddrsAge = time.Second

// Knows remembers the addresses of the interfaces for a moment. Asking the
// kernel takes longer than the rest of a look-up, and callers may make us ask.
func (h *host) Knows(addr netip.Addr) bool {
	if addr.Unmap().IsLoopback() {
		return true
	}
	own := h.own.Load()
	if now := time.Now(); own == nil || now.Sub(own.at) > ownAddrsAge {
		own = &ownAddrs{now, map[netip.Addr]bool{}}
		addrs, _ := net.InterfaceAddrs() // without any, none is ours
		for _, a := range addrs {
			if addr, ok := plain(a); ok {
				own.set[addr] = true
			}
		}
		h.own.Store(own)
	}
	return own.set[addr.Unmap().WithZone("")]
}

// plain returns the address of an interface.
func plain(a net.Addr) (netip.Addr, bool) {
	n, ok := a.(*net.IPNet)
	if !ok {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	return addr.Unmap(), ok
}

func (*host) Now() int64 { return time.Now().Unix() }

// HasAddr looks at the addresses of the interfaces. Binding a socket would be
// quicker, but the kernel binds to broadcast and multicast addresses too, and
// with ip_nonlocal_bind to any.
func (*host) HasAddr(addr netip.Addr) bool {
	if addr.Unmap().IsLoopback() {
		return true // all of 127.0.0.0/8, and ::1
	}
	addrs, err := interfaceAddrs(addr.Zone())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		ours, ok := plain(a)
		return ok && ours == addr.Unmap().WithZone("")
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

func (*host) Bound(n rpcbind.NetID, ap netip.AddrPort) bool {
	ok, err := sockdiag.Bound(n, ap)
	return ok && err == nil
}
