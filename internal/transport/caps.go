package transport

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
)

// Caps on open stream connections. What the policy refuses has a small share
// of its own, so that strangers never keep out those who are allowed; those of
// this host have theirs, so that a flood from outside does not keep services
// from registering. The superuser of this host has no cap.
const (
	maxNetwork    = 64 << 10 // of all allowed sources
	maxPerSource  = 512      // of one allowed IPv4 address, or IPv6 /64
	maxRefused    = 1024     // of all refused sources
	maxPerRefused = 64       // of one refused address, or /64
	maxLoopback   = 4096     // over the loopback interface, from ordinary ports
	maxOrdinary   = 8192     // over unix sockets, of all users but root
	maxPerUser    = 1024     // over unix sockets, of one user

	sourcePrefix6 = 64 // bits of an IPv6 source that one customer may vary at will
)

// Descriptors that connections must leave: our sockets, the state folder, the
// policy files and their watches, and one accepted connection for each listener
// before it is counted. rpcward serve holds 24 of them when it is idle.
const reservedDescriptors = 40

// shares are the caps that depend on how many descriptors there are.
type shares struct {
	network, refused, loopback, ordinary int // of all
	perSource, perRefused, perUser       int // of one
}

// sharesOf divides the descriptors of a process: together the shares leave some
// for the superuser.
func sharesOf(descriptors uint64) shares {
	free := max(int(min(descriptors, 2*maxNetwork))-reservedDescriptors, 16)
	return shares{
		network: min(free/2, maxNetwork), perSource: min(free/4, maxPerSource),
		refused: min(free/8, maxRefused), perRefused: min(free/16, maxPerRefused),
		loopback: min(free/8, maxLoopback),
		ordinary: min(free/8, maxOrdinary), perUser: min(free/16, maxPerUser),
	}
}

// connectionCaps counts open connections.
type connectionCaps struct {
	max shares

	mu      sync.Mutex
	now     shares // of all; what is of one is in the maps
	sources map[netip.Addr]int
	users   map[uint32]int
}

func newConnectionCaps() *connectionCaps {
	c := &connectionCaps{max: sharesOf(maxNetwork), sources: map[netip.Addr]int{}, users: map[uint32]int{}}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
		c.max = sharesOf(lim.Cur)
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

// uncapped reports whether the kernel says that o is this host's superuser.
func uncapped(o *policy.Origin) bool {
	return o.Channel == policy.Unix && o.UID == 0 ||
		o.Channel == policy.Loopback && o.Privileged
}

// enter counts a connection and reports whether it may stay; one that may must
// leave at its end, with the same arguments.
func (c *connectionCaps) enter(o *policy.Origin, refused bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !uncapped(o) && !c.room(o, refused) {
		return false
	}
	c.count(o, refused, 1)
	return true
}

func (c *connectionCaps) room(o *policy.Origin, refused bool) bool {
	switch {
	case o.Channel == policy.Unix:
		return c.now.ordinary < c.max.ordinary && c.users[o.UID] < c.max.perUser
	case o.Channel == policy.Loopback:
		return c.now.loopback < c.max.loopback
	case refused:
		return c.now.refused < c.max.refused && c.sources[sourceOf(o)] < c.max.perRefused
	default:
		return c.now.network < c.max.network && c.sources[sourceOf(o)] < c.max.perSource
	}
}

func (c *connectionCaps) leave(o *policy.Origin, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count(o, refused, -1)
}

func (c *connectionCaps) count(o *policy.Origin, refused bool, n int) {
	switch {
	case uncapped(o):
	case o.Channel == policy.Unix:
		c.now.ordinary += n
		add(c.users, o.UID, n)
	case o.Channel == policy.Loopback:
		c.now.loopback += n
	case refused:
		c.now.refused += n
		add(c.sources, sourceOf(o), n)
	default:
		c.now.network += n
		add(c.sources, sourceOf(o), n)
	}
}

// add adds n to a counter, and forgets one that is 0.
func add[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}
