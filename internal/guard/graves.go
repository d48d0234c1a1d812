package guard

import (
	"maps"
	"slices"

	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// bury notes which guarded ports are registered no more: they stay closed to
// other hosts as long as a socket may be left there.
func (g *Guard) bury(list []ruleset.Registration) {
	registered := map[ruleset.Port]bool{}
	for _, r := range list {
		if port, ok := r.Key(); ok {
			registered[port] = true
			delete(g.tombstones, port)
		}
	}
	if g.state == nil {
		return
	}
	for port := range g.state.Ports {
		if !registered[port] && port.Port != g.own() {
			g.tombstones[port] = true
		}
	}
}

func (g *Guard) own() uint16 {
	if g.Own == 0 {
		return rpcbind.Port
	}
	return g.Own
}

// graves returns the ports that are kept closed, in order.
func (g *Guard) graves() []ruleset.Port {
	return slices.SortedFunc(maps.Keys(g.tombstones), ruleset.Port.Compare)
}

// dig forgets the ports that no socket is on any more, and reports whether
// there were any.
func (g *Guard) dig() bool {
	found := false
	for port := range g.tombstones {
		n := rpcbind.UDP
		switch port.Proto {
		case ruleset.TCP:
			n = rpcbind.TCP
		case ruleset.SCTP:
			continue // the kernel does not tell of its sockets this way
		}
		if used, err := sockdiag.InUse(n, port.Port); err == nil && !used {
			delete(g.tombstones, port)
			g.free(port)
			found = true
		}
	}
	return found
}

// free makes bury forget a port.
func (g *Guard) free(port ruleset.Port) {
	g.state = g.state.Clone()
	delete(g.state.Ports, port)
}
