package registry

import (
	"iter"
	"net/netip"

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

// record is a registration as it is kept.
type record struct {
	Registration
	place Place
	_     [40]byte // makes it 128 bytes: what a look-up reads is in one cache line
}

// Place is a place in the order of DUMP. The zero Place is its beginning. What
// is registered later has a higher one, and none is given twice.
type Place uint64

// few is how many versions of a service stand where it is found, so that
// looking one up reads no more memory than it must. Most services have no more.
const few = 3

// service is a program on one netid, which is what a client asks for when any
// version will do.
type service struct {
	few      [few]*record // in order of registration, then nil
	versions [few]uint32  // theirs
	many     *many        // all of them instead, if they are more than few
	_        [8]byte      // makes an entry of a trie one cache line
}

// many are the versions of a service. It never changes.
type many struct {
	byVersion trie[*record]
	byPlace   trie[*record]
	count     int
}

// service returns the key of a service in Snapshot.services. The netid comes
// first, so that neighbouring programs share a node and its cache lines.
func (k Key) service() uint64 { return uint64(k.NetID)<<32 | uint64(k.Program) }

// version returns the record of a version, or nil. s may be nil, here and in last.
func (s *service) version(v uint32) *record {
	if s == nil {
		return nil
	}
	if s.many != nil {
		if r := s.many.byVersion.get(uint64(v)); r != nil {
			return *r
		}
		return nil
	}
	for i, r := range s.few {
		if s.versions[i] == v && r != nil {
			return r
		}
	}
	return nil
}

// last returns the record that was registered last.
func (s *service) last() *record {
	if s == nil {
		return nil
	}
	if s.many != nil {
		return s.many.byPlace.max()
	}
	for i := few - 1; i > 0; i-- {
		if s.few[i] != nil {
			return s.few[i]
		}
	}
	return s.few[0]
}

// add adds r, whose version is new and whose place is the highest.
func (s *service) add(edition uint64, r *record) {
	if s.many == nil {
		for i := range s.few {
			if s.few[i] == nil {
				s.few[i], s.versions[i] = r, r.Version
				return
			}
		}
	}
	var m many
	if s.many != nil {
		m = *s.many
	}
	for _, old := range s.few {
		if old != nil {
			m.put(edition, old)
		}
	}
	m.put(edition, r)
	*s = service{many: &m}
}

func (m *many) put(edition uint64, r *record) {
	m.byVersion.put(edition, uint64(r.Version), r)
	m.byPlace.put(edition, uint64(r.place), r)
	m.count++
}

// remove removes r, which is there.
func (s *service) remove(edition uint64, r *record) {
	old := *s
	*s = service{}
	if old.many == nil {
		for _, kept := range old.few {
			if kept != r && kept != nil {
				s.add(edition, kept)
			}
		}
		return
	}
	m := *old.many
	m.byVersion.delete(edition, uint64(r.Version))
	m.byPlace.delete(edition, uint64(r.place))
	if m.count--; m.count > few {
		s.many = &m
		return
	}
	m.byPlace.from(0, func(_ uint64, kept *record) bool {
		s.add(edition, kept)
		return true
	})
}

// Snapshot is the registry at one moment. It never changes, nor do the
// registrations that it hands out; nobody may write to them. The zero Snapshot
// is empty.
type Snapshot struct {
	order    trie[*record] // by place
	services trie[service] // by Key.service
	len      int
	own      Place // the first that is not the port mapper's own
}

// Exact returns the registration of k, or nil. It does not allocate.
func (s *Snapshot) Exact(k Key) *Registration {
	return s.services.get(k.service()).version(k.Version).registration()
}

// Lookup returns the registration of k; without one, the last registered of
// the same program and netid, whose service will tell the client its versions,
// as RFC 1833, Sections 2.2.1 and 3.2 want it; or nil. It does not allocate.
func (s *Snapshot) Lookup(k Key) *Registration {
	svc := s.services.get(k.service())
	if r := svc.version(k.Version); r != nil {
		return &r.Registration
	}
	return svc.last().registration()
}

func (r *record) registration() *Registration {
	if r == nil {
		return nil
	}
	return &r.Registration
}

// Versions returns the lowest and the highest version of a program on n.
func (s *Snapshot) Versions(program uint32, n rpcbind.NetID) (low, high uint32, ok bool) {
	svc := s.services.get(Key{Program: program, NetID: n}.service())
	if svc == nil {
		return 0, 0, false
	}
	if m := svc.many; m != nil {
		return m.byVersion.min().Version, m.byVersion.max().Version, true
	}
	low, high = svc.versions[0], svc.versions[0]
	for i, r := range svc.few {
		if r != nil {
			low, high = min(low, svc.versions[i]), max(high, svc.versions[i])
		}
	}
	return low, high, true
}

// NetIDs yields the registrations of a program's version on all netids, in the
// order of DUMP. It does not allocate.
func (s *Snapshot) NetIDs(program, version uint32) iter.Seq[*Registration] {
	return func(yield func(*Registration) bool) {
		var buf [maxNetIDs]*record
		found := buf[:0]
		for r := range s.onNetIDs(program, version) {
			at := len(found)
			found = append(found, r)
			for ; at > 0 && found[at-1].place > r.place; at-- {
				found[at-1], found[at] = r, found[at-1]
			}
		}
		for _, r := range found {
			if !yield(&r.Registration) {
				return
			}
		}
	}
}

// maxNetIDs is how many netids there are.
const maxNetIDs = rpcbind.LastNetID

// onNetIDs yields the records of a program's version, by netid.
func (s *Snapshot) onNetIDs(program, version uint32) iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for n := rpcbind.NetID(1); n <= rpcbind.LastNetID; n++ {
			r := s.services.get(Key{Program: program, NetID: n}.service()).version(version)
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// All yields the registrations in the order of DUMP: the port mapper's own,
// then the services in the order in which they registered.
func (s *Snapshot) All() iter.Seq[*Registration] { return s.from(0) }

// Services yields the registrations without the port mapper's own.
func (s *Snapshot) Services() iter.Seq[*Registration] { return s.from(s.own) }

func (s *Snapshot) from(p Place) iter.Seq[*Registration] {
	return func(yield func(*Registration) bool) {
		s.order.from(uint64(p), func(_ uint64, r *record) bool { return yield(&r.Registration) })
	}
}

// From yields the registrations from p on, each with the place to go on from
// after it, so that a long list can be read in parts. It does not allocate.
func (s *Snapshot) From(p Place) iter.Seq2[Place, *Registration] {
	return func(yield func(Place, *Registration) bool) {
		s.order.from(uint64(p), func(_ uint64, r *record) bool { return yield(r.place+1, &r.Registration) })
	}
}

// Own returns the place after the port mapper's own registrations.
func (s *Snapshot) Own() Place { return s.own }

// Len returns the number of registrations, the port mapper's own included.
func (s *Snapshot) Len() int { return s.len }
