package transport

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
)

// Caps on open stream connections. What the policy refuses has a small share
// of its own, so that strangers never keep out those who are allowed; this
// host's connections are bounded per user only.
const (
	maxPerSource        = 512  // of one allowed IPv4 address, or IPv6 /64
	maxPerRefusedSource = 64   // of a refused one
	maxRefused          = 1024 // of all refused ones
	maxPerUser          = 1024 // over unix sockets, of a user other than root
	maxNetwork          = 64 << 10
	sparedDescriptors   = 256 // kept for this host's connections and for files
	sourcePrefix6       = 64  // bits of an IPv6 source that one customer may vary at will
)

// connectionCaps counts open connections.
type connectionCaps struct {
	mu      sync.Mutex
	sources map[netip.Addr]int
	users   map[uint32]int
	network int // allowed ones from the network
	refused int
	max     int // for network
}

func newConnectionCaps() *connectionCaps {
	c := &connectionCaps{sources: map[netip.Addr]int{}, users: map[uint32]int{}, max: maxNetwork}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < maxNetwork {
		c.max = max(int(lim.Cur)-sparedDescriptors-maxRefused, int(lim.Cur)/2)
	}
	return c
}

func sourceOf(o *policy.Origin) netip.Addr {
	addr := o.Source.Addr().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(sourcePrefix6); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// enter counts a connection and reports whether it may stay; one that may must
// leave at its end, with the same arguments.
func (c *connectionCaps) enter(o *policy.Origin, refused bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case o.Channel == policy.Unix:
		if o.UID != 0 && c.users[o.UID] >= maxPerUser {
			return false
		}
		c.users[o.UID]++
		return true
	case o.Channel == policy.Loopback:
		return true
	case refused && (c.refused >= maxRefused || c.sources[sourceOf(o)] >= maxPerRefusedSource):
		return false
	case !refused && (c.network >= c.max || c.sources[sourceOf(o)] >= maxPerSource):
		return false
	}
	c.sources[sourceOf(o)]++
	if refused {
		c.refused++
	} else {
		c.network++
	}
	return true
}

func (c *connectionCaps) leave(o *policy.Origin, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o.Channel {
	case policy.Unix:
		drop(c.users, o.UID)
	case policy.Network:
		drop(c.sources, sourceOf(o))
		if refused {
			c.refused--
		} else {
			c.network--
		}
	}
}

func drop[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}
