package sockdiag

import (
	"net/netip"

	"rpcward/rpcbind"
)

// Table is which ports were taken at one moment, for those who ask about many.
type Table struct {
	sockets map[place][]Socket
}

// place is where the sockets of a family, a protocol and a port are kept.
type place struct {
	netid rpcbind.NetID
	port  uint16
}

// Waiting asks the kernel for all sockets of this network namespace that wait
// for others, over TCP and UDP.
func Waiting() (*Table, error) {
	t := &Table{sockets: map[place][]Socket{}}
	for _, n := range []rpcbind.NetID{rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.UDP6} {
		err := dump(n, 0, 0, func(b []byte) error {
			s, err := parse(b)
			if err == nil {
				at := place{n, s.Local.Port()}
				t.sockets[at] = append(t.sockets[at], s)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Bound reports what the function Bound does. Transports of which the kernel
// does not tell count as bound.
func (t *Table) Bound(n rpcbind.NetID, at netip.AddrPort) bool {
	switch n {
	case rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.UDP6:
	default:
		return true
	}
	for _, family := range families(n) {
		for _, s := range t.sockets[place{family, at.Port()}] {
			if s.covers(n, at.Addr().Unmap().WithZone("")) {
				return true
			}
		}
	}
	return false
}
