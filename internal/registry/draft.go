package registry

import (
	"maps"
	"slices"

	"rpcward/rpcbind"
)

// MaxRegistrations bounds what is kept, so that nobody can fill the memory. At
// the longest addresses that the port mapper accepts, all of them still fit in
// the 64 MiB that a state file may have.
const MaxRegistrations = 1 << 18

// Bounds for ordinary users, so that none takes the place of the others, nor
// all of them together that of the superuser.
const (
	maxOrdinary = MaxRegistrations / 2 // of all owners but the superuser
	maxPerOwner = 4096                 // of any owner but the superuser
)

// draft is the snapshot to come. Its own slices and maps are never shared with
// a snapshot; the registrations are, and don't change.
type draft struct {
	list     []*Registration
	exact    map[Key]*Registration
	own      int            // how many of list are the port mapper's own
	owners   map[string]int // services of each owner but the superuser
	ordinary int            // the sum of owners
}

// add appends a registration whose key is new.
func (d *draft) add(reg *Registration) {
	d.list = append(d.list, reg)
	d.exact[reg.Key] = reg
	if reg.Owner != Superuser {
		d.owners[reg.Owner]++
		d.ordinary++
	}
}

// forget undoes the bookkeeping of add.
func (d *draft) forget(reg *Registration) {
	delete(d.exact, reg.Key)
	if reg.Owner == Superuser {
		return
	}
	d.ordinary--
	if d.owners[reg.Owner]--; d.owners[reg.Owner] == 0 {
		delete(d.owners, reg.Owner)
	}
}

// full reports whether there is no room for another one of owner's.
func (d *draft) full(owner string) bool {
	return len(d.list) >= MaxRegistrations ||
		owner != Superuser && (d.ordinary >= maxOrdinary || d.owners[owner] >= maxPerOwner)
}

// set is Set, except for the saving.
func (d *draft) set(reg Registration) (ok, changed bool) {
	if reg.Program == rpcbind.Program {
		return false, false
	}
	if old := d.exact[reg.Key]; old != nil {
		return old.Addr == reg.Addr, false
	}
	if d.full(reg.Owner) {
		return false, false
	}
	d.add(&reg)
	return true, true
}

// unset is Unset, except for the saving.
func (d *draft) unset(matches func(*Registration) bool, owner string) (ok, changed bool) {
	for _, reg := range d.list {
		if !matches(reg) {
			continue
		}
		if reg.Program == rpcbind.Program || owner != Superuser && owner != reg.Owner {
			return false, false
		}
		changed = true
	}
	if !changed {
		return true, false
	}
	d.list = slices.DeleteFunc(d.list, func(reg *Registration) bool {
		gone := matches(reg)
		if gone {
			d.forget(reg)
		}
		return gone
	})
	return true, true
}

// snapshot returns d as it is now.
func (d *draft) snapshot() *Snapshot {
	return newSnapshot(slices.Clone(d.list), maps.Clone(d.exact), d.own)
}

// newDraft returns a draft that is s so far.
func newDraft(s *Snapshot) draft {
	d := draft{
		own:    s.own,
		list:   make([]*Registration, 0, s.Len()),
		exact:  make(map[Key]*Registration, s.Len()),
		owners: map[string]int{},
	}
	for reg := range s.All() {
		d.add(reg)
	}
	return d
}
