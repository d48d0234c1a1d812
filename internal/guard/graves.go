package guard

import (
	"maps"
	"slices"

	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
)

// graves are the ports that were registered and are not any more, with the
// sockets that were there then: they stay closed to other hosts as long as one
// of them is left. A socket made later is not the service's, unless the service
// registers it.
type graves struct {
	inodes map[ruleset.Port]map[uint32]bool // nil until they are listed
}

func newGraves() graves { return graves{map[ruleset.Port]map[uint32]bool{}} }

// bury closes a port, and reports whether it was not closed before.
func (g *graves) bury(port ruleset.Port) bool {
	if _, buried := g.inodes[port]; buried {
		return false
	}
	g.inodes[port] = nil
	return true
}

// raise says that a port is registered.
func (g *graves) raise(port ruleset.Port) { delete(g.inodes, port) }

// ports returns the ports that are kept closed, in order.
func (g *graves) ports() []ruleset.Port {
	return slices.SortedFunc(maps.Keys(g.inodes), ruleset.Port.Compare)
}

// dig forgets the ports that none of the service's sockets was seen on, and
// returns them.
func (g *graves) dig(seen sighting) (free []ruleset.Port) {
	for port, list := range seen {
		inodes, buried := g.inodes[port]
		if !buried {
			continue
		}
		if inodes == nil {
			inodes = map[uint32]bool{}
			for _, s := range list {
				inodes[s.Inode] = true
			}
			g.inodes[port] = inodes
		}
		if !slices.ContainsFunc(list, func(s sockdiag.Socket) bool { return inodes[s.Inode] }) {
			delete(g.inodes, port)
			free = append(free, port)
		}
	}
	return free
}

// bury closes the guarded ports that are registered no more.
func (g *Guard) bury(list []ruleset.Registration) {
	registered := map[ruleset.Port]bool{}
	for _, r := range list {
		if port, ok := r.Key(); ok {
			registered[port] = true
			g.graves.raise(port)
		}
	}
	for port := range g.state.Ports {
		if !registered[port] && port.Port != g.Own && !g.claims.lost(port) && g.graves.bury(port) {
			g.todo.look(port)
		}
	}
}

// forget makes bury leave a port alone.
func (g *Guard) forget(port ruleset.Port) {
	g.state = g.state.Clone()
	delete(g.state.Ports, port)
}
