// Package transport carries calls between the network and the port mapper:
// datagrams and streams over IPv4 and IPv6, unix sockets, and sockets that a
// service manager passes.
//
// It stamps each call with an Origin. What counts as local is decided here and
// nowhere else, by the kind of socket and by the interface that a packet came
// in on, never by a source address. Sockets for this host and for the network
// are separate where we open them, so that a flood from outside fills only its
// own queue.
//
// Datagrams are read, answered and written in batches by a few workers, each
// with sockets of its own; each stream connection has a goroutine of its own.
// Server.Serve owns them all.
package transport

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

// loopbackIndex is the index of the loopback interface, the same in each
// network namespace (LOOPBACK_IFINDEX in the kernel's include/net/flow.h).
const loopbackIndex = 1

// Config says which sockets Listen opens. The zero value opens nothing.
type Config struct {
	// Port is the port for datagrams and streams, 111 for a real port mapper.
	Port uint16
	// Hosts are the addresses and interface names to serve; none means all.
	// The loopback addresses are always served.
	Hosts []string
	// LoopbackOnly serves the loopback addresses alone.
	LoopbackOnly bool
	// NetIDs are the IP transports to open.
	NetIDs []rpcbind.NetID
	// Workers is how many goroutines share the datagrams, each with sockets of its
	// own, among which the kernel divides the callers; 0 means one.
	Workers int
	// Unix are paths of unix sockets; one that begins with "@" is in the
	// abstract name space (unix(7)).
	Unix []string
}

// Sockets are open and bound, but not read yet.
type Sockets struct {
	datagrams []*datagramSocket
	streams   []*streamSocket
	// Skipped tells of what could not be opened and is not needed.
	Skipped []string
	// paths of unix sockets to remove at the end.
	paths []string
}

// ownOrder is the order in which rpcbind lists its own transports.
var ownOrder = []rpcbind.NetID{rpcbind.TCP6, rpcbind.UDP6, rpcbind.TCP, rpcbind.UDP, rpcbind.Local}

// Own returns the registrations of the port mapper itself on these sockets, in
// rpcbind's order: version 2 is listed only where its clients can come.
func (s *Sockets) Own() []registry.Registration {
	addrs := s.addresses()
	var own []registry.Registration
	for _, n := range ownOrder {
		a, ok := addrs[n]
		if !ok {
			continue
		}
		low := rpcbind.Version3
		if n.Transport().IP != 0 {
			low = rpcbind.Version2
		}
		for v := rpcbind.Version4; v >= low; v-- {
			a.Key = registry.Key{Program: rpcbind.Program, Version: v, NetID: n}
			a.Owner = registry.Superuser
			own = append(own, a)
		}
	}
	return own
}

// addresses maps each transport to the address to list for it: the wildcard if
// it is served, else the first one.
func (s *Sockets) addresses() map[rpcbind.NetID]registry.Registration {
	addrs := map[rpcbind.NetID]registry.Registration{}
	add := func(n rpcbind.NetID, ap netip.AddrPort) {
		if old, ok := addrs[n]; ok && !ap.Addr().IsUnspecified() && old.IP.IsValid() {
			return
		}
		if ap.Addr().Is6() && !n.Is6() { // a socket of both families
			ap = netip.AddrPortFrom(wildcard(n), ap.Port())
		}
		addrs[n] = registry.Registration{Addr: rpcbind.UAddr(ap), IP: ap}
	}
	for _, d := range s.datagrams {
		for _, n := range d.netids() {
			add(n, d.listed)
		}
	}
	for _, l := range s.streams {
		if l.path == "" {
			for _, n := range l.netids() {
				add(n, l.listed)
			}
		} else if old := addrs[rpcbind.Local].Addr; old == "" || old[0] == '@' {
			addrs[rpcbind.Local] = registry.Registration{Addr: l.path}
		}
	}
	return addrs
}

// Describe says in a few words what is bound: "UDP and TCP port 111".
func (s *Sockets) Describe() string {
	ports := map[string][]string{} // "port 111 of 10.0.0.1" to protocols
	var order []string
	add := func(proto string, at netip.AddrPort, device string) {
		if at.Addr().IsLoopback() && s.everywhere(at.Port()) {
			return
		}
		where := fmt.Sprintf("port %d", at.Port())
		switch {
		case device != "":
			where += " on " + device
		case !at.Addr().IsUnspecified():
			where += " of " + at.Addr().String()
		}
		if ports[where] == nil {
			order = append(order, where)
		}
		if !slices.Contains(ports[where], proto) {
			ports[where] = append(ports[where], proto)
		}
	}
	for _, d := range s.datagrams {
		add("UDP", d.listed, d.device)
	}
	var list []string
	for _, l := range s.streams {
		if l.path != "" {
			list = append(list, l.path)
		} else {
			add("TCP", l.listed, l.device)
		}
	}
	for i := len(order) - 1; i >= 0; i-- {
		list = slices.Insert(list, 0, strings.Join(ports[order[i]], " and ")+" "+order[i])
	}
	return strings.Join(list, ", ")
}

// everywhere reports whether port is served on all addresses.
func (s *Sockets) everywhere(port uint16) bool {
	return slices.ContainsFunc(s.datagrams, func(d *datagramSocket) bool {
		return d.device == "" && d.listed.Addr().IsUnspecified() && d.listed.Port() == port
	})
}

// Close closes sockets that Serve was not called on.
func (s *Sockets) Close() {
	for _, d := range s.datagrams {
		d.close()
	}
	for _, l := range s.streams {
		l.listener.Close()
	}
}
