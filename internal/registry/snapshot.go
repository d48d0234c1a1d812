package registry

import (
	"iter"
	"net/netip"
	"slices"

	"rpcward/rpcbind"
)

// Key names what is registered at most once.
type Key struct {
	Program, Version uint32
	NetID            rpcbind.NetID
}

// Registration says where a program is served, and who said so.
type Registration struct {
	Key
	Addr  string         // universal address, or path for local netids, as registered
	IP    netip.AddrPort // Addr parsed; zero for local netids
	Owner string         // Superuser, Unknown, or a user's number in decimal
}

// service is what a client asks for when any version will do.
type service struct {
	program uint32
	netid   rpcbind.NetID
}

func (k Key) service() service { return service{k.Program, k.NetID} }

// versions sums up the registrations of a service.
type versions struct {
	last      *Registration // in order of registration
	low, high uint32
}

// Snapshot is the registry at one moment. It never changes, nor do the
// registrations that it hands out; nobody may write to them. The zero Snapshot
// is empty.
type Snapshot struct {
	list     []*Registration // dump order: our own first, then as registered
	exact    map[Key]*Registration
	services map[service]versions
	own      int // how many of list are the port mapper's own
}

// newSnapshot keeps list and exact.
func newSnapshot(list []*Registration, exact map[Key]*Registration, own int) *Snapshot {
	s := &Snapshot{list: list, exact: exact, own: own, services: make(map[service]versions, len(list))}
	for _, r := range list {
		v, ok := s.services[r.service()]
		if !ok {
			v = versions{low: r.Version, high: r.Version}
		}
		v.last, v.low, v.high = r, min(v.low, r.Version), max(v.high, r.Version)
		s.services[r.service()] = v
	}
	return s
}

// Exact returns the registration of k, or nil. It does not allocate.
func (s *Snapshot) Exact(k Key) *Registration { return s.exact[k] }

// Lookup returns the registration of k; without one, the last registered of
// the same program and netid, whose service will tell the client its versions,
// as RFC 1833, Sections 2.2.1 and 3.2 want it; or nil. It does not allocate.
func (s *Snapshot) Lookup(k Key) *Registration {
	if r := s.exact[k]; r != nil {
		return r
	}
	return s.services[k.service()].last
}

// Versions returns the lowest and the highest version of a program on n.
func (s *Snapshot) Versions(program uint32, n rpcbind.NetID) (low, high uint32, ok bool) {
	v, ok := s.services[service{program, n}]
	return v.low, v.high, ok
}

// All yields the registrations in the order of DUMP: the port mapper's own,
// then the services in the order in which they registered.
func (s *Snapshot) All() iter.Seq[*Registration] { return slices.Values(s.list) }

// Services yields the registrations without the port mapper's own.
func (s *Snapshot) Services() iter.Seq[*Registration] { return slices.Values(s.list[s.own:]) }

// Len returns the number of registrations, the port mapper's own included.
func (s *Snapshot) Len() int { return len(s.list) }
