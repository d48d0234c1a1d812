package transport

import (
	"net"
	"net/netip"
	"strconv"
	"time"
)

// linkAge is how long what the kernel says of an interface is believed. Anybody
// on a link may make us ask.
const linkAge = 10 * time.Second

// links remembers the interfaces by their indexes. The zero links is empty; one
// is for one goroutine.
type links struct {
	names    map[uint32]string
	unicasts map[uint32]netip.Addr
	emptied  time.Time
}

// refresh forgets what is too old.
func (l *links) refresh() {
	if now := time.Now(); now.Sub(l.emptied) > linkAge {
		*l = links{names: map[uint32]string{}, unicasts: map[uint32]netip.Addr{}, emptied: now}
	}
}

// name returns the name of an interface, which is what scopes are called in
// rules; without one, its number.
func (l *links) name(ifindex uint32) string {
	l.refresh()
	name, known := l.names[ifindex]
	if !known {
		name = strconv.FormatUint(uint64(ifindex), 10)
		if ifi, err := net.InterfaceByIndex(int(ifindex)); err == nil {
			name = ifi.Name
		}
		l.names[ifindex] = name
	}
	return name
}

// unicast returns this host's address on an interface, for calls that came to a
// group: the one to answer from, and to name in answers.
func (l *links) unicast(ifindex uint32) netip.Addr {
	l.refresh()
	addr, known := l.unicasts[ifindex]
	if !known {
		addr = linkLocal(int(ifindex))
		l.unicasts[ifindex] = addr
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
