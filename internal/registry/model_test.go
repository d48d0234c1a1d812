package registry

import (
	"slices"

	"rpcward/rpcbind"
)

// model is the registry's slow twin: a list, and the rules as rpcbind(8) and
// the package comment state them, one after the other.
type model struct{ list []Registration }

func (m *model) set(reg Registration) bool {
	if reg.Program == rpcbind.Program {
		return false
	}
	for _, old := range m.list {
		if old.Key == reg.Key {
			return old.Addr == reg.Addr
		}
	}
	m.list = append(m.list, reg)
	return true
}

func (m *model) unset(program, version uint32, netids []rpcbind.NetID, owner string) bool {
	var keep []Registration
	for _, reg := range m.list {
		if reg.Program != program || reg.Version != version || len(netids) > 0 && !slices.Contains(netids, reg.NetID) {
			keep = append(keep, reg)
			continue
		}
		if reg.Program == rpcbind.Program {
			return false
		}
		if owner != "superuser" && owner != reg.Owner {
			return false
		}
	}
	m.list = keep
	return true
}

func (m *model) exact(k Key) *Registration {
	for i := range m.list {
		if m.list[i].Key == k {
			return &m.list[i]
		}
	}
	return nil
}

func (m *model) lookup(k Key) *Registration {
	if reg := m.exact(k); reg != nil {
		return reg
	}
	for i := len(m.list) - 1; i >= 0; i-- {
		if m.list[i].Program == k.Program && m.list[i].NetID == k.NetID {
			return &m.list[i]
		}
	}
	return nil
}

func (m *model) netids(program, version uint32) []Registration {
	var all []Registration
	for _, reg := range m.list {
		if reg.Program == program && reg.Version == version {
			all = append(all, reg)
		}
	}
	return all
}

// apply does what a Store is told.
func (m *model) apply(c Change) {
	if c.Set != nil {
		m.list = append(m.list, *c.Set)
	}
	for _, gone := range c.Unset {
		m.list = slices.DeleteFunc(m.list, func(reg Registration) bool { return reg.Key == gone.Key })
	}
}

func (m *model) versions(program uint32, n rpcbind.NetID) (low, high uint32, ok bool) {
	var all []uint32
	for _, reg := range m.list {
		if reg.Program == program && reg.NetID == n {
			all = append(all, reg.Version)
		}
	}
	if len(all) == 0 {
		return 0, 0, false
	}
	return slices.Min(all), slices.Max(all), true
}

func list(s *Snapshot) []Registration {
	var all []Registration
	for reg := range s.All() {
		all = append(all, *reg)
	}
	return all
}
