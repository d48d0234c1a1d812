package portmapper

import (
	"sync"
	"sync/atomic"

	"rpcward/rpcbind"
)

// Stats is what GETSTAT tells, RFC 1833, Section 2.2.1. Its tables are of a
// fixed size: a peer that asks for ever new programs fills them once, and what
// does not fit is not counted by name.
type Stats struct {
	versions [rpcbind.NumStats]versionStats
}

type versionStats struct {
	calls        [rpcbind.NumProcs]atomic.Uint32
	sets, unsets atomic.Uint32
	lookups      countTable
	remote       countTable
}

// countTable counts outcomes by name, for at most maxCounted names. Finding a
// counter takes no lock.
type countTable struct {
	slots [countSlots]atomic.Pointer[counter]
	mu    sync.Mutex // held to add a counter
	added []*counter // in order of addition
}

const (
	countSlots = 256 // a power of two
	maxCounted = 128 // half of the slots, so that probing stays short
)

type counterName struct {
	program, version, procedure uint32
	netid                       rpcbind.NetID
}

type counter struct {
	counterName
	success, failure, indirect atomic.Uint32
}

// find returns the counter of that name, adding it if there is room; else nil.
func (t *countTable) find(name counterName) *counter {
	if c, _ := t.probe(name); c != nil {
		return c
	}
	return t.add(name)
}

// probe looks for name, and returns the first free slot if it isn't there.
func (t *countTable) probe(name counterName) (*counter, *atomic.Pointer[counter]) {
	h := (name.program*31+name.version)*31 + name.procedure*7 + uint32(name.netid)
	h *= 0x9e3779b1 // spread neighbouring programs: 2^32 divided by the golden ratio
	h >>= 24
	for i := range uint32(countSlots) {
		slot := &t.slots[(h+i)%countSlots]
		c := slot.Load()
		if c == nil {
			return nil, slot
		}
		if c.counterName == name {
			return c, nil
		}
	}
	return nil, nil
}

func (t *countTable) add(name counterName) *counter {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, slot := t.probe(name)
	if c != nil || slot == nil || len(t.added) == maxCounted {
		return c
	}
	c = &counter{counterName: name}
	slot.Store(c)
	t.added = append(t.added, c)
	return c
}

// newestFirst returns the counters, the last added first, as rpcbind lists them.
func (t *countTable) newestFirst() []*counter {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*counter, 0, len(t.added))
	for i := range t.added {
		list = append(list, t.added[len(t.added)-1-i])
	}
	return list
}

func (s *Stats) of(version uint32) *versionStats { return &s.versions[version-rpcbind.Version2] }

func (s *Stats) countCall(version, proc uint32) { s.of(version).calls[proc].Add(1) }
func (s *Stats) countSet(version uint32)        { s.of(version).sets.Add(1) }
func (s *Stats) countUnset(version uint32)      { s.of(version).unsets.Add(1) }

func (s *Stats) countLookup(version, program, progVersion uint32, n rpcbind.NetID, found bool) {
	c := s.of(version).lookups.find(counterName{program: program, version: progVersion, netid: n})
	switch {
	case c == nil:
	case found:
		c.success.Add(1)
	default:
		c.failure.Add(1)
	}
}

func (s *Stats) countRemote(version uint32, c *rpcbind.RemoteCall, n rpcbind.NetID, answered, indirect bool) {
	k := s.of(version).remote.find(counterName{c.Program, c.Version, c.Procedure, n})
	if k == nil {
		return
	}
	if answered {
		k.success.Add(1)
	} else {
		k.failure.Add(1)
	}
	if indirect {
		k.indirect.Add(1)
	}
}

// append appends the result of GETSTAT.
func (s *Stats) append(b []byte) []byte {
	for i := range s.versions {
		st := s.versions[i].snapshot()
		b = rpcbind.AppendStat(b, &st)
	}
	return b
}

func (v *versionStats) snapshot() rpcbind.Stat {
	st := rpcbind.Stat{Sets: v.sets.Load(), Unsets: v.unsets.Load()}
	for i := range v.calls {
		st.Calls[i] = v.calls[i].Load()
	}
	for _, c := range v.lookups.newestFirst() {
		st.Addrs = append(st.Addrs, rpcbind.AddrStat{
			Program: c.program, Version: c.version,
			Success: c.success.Load(), Failure: c.failure.Load(), NetID: c.netid.String(),
		})
	}
	for _, c := range v.remote.newestFirst() {
		st.Remote = append(st.Remote, rpcbind.RemoteStat{
			Program: c.program, Version: c.version, Procedure: c.procedure,
			Success: c.success.Load(), Failure: c.failure.Load(), Indirect: c.indirect.Load(), NetID: c.netid.String(),
		})
	}
	return st
}
