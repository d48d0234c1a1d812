package registry

import (
	"slices"

	"rpcward/rpcbind"
)

// MaxRegistrations bounds what is kept, so that nobody can fill the memory. At
// the longest addresses that the port mapper accepts, all of them still fit in
// the file that keeps them.
const MaxRegistrations = 1 << 18

// Bounds for ordinary users, so that none takes the place of the others, nor
// all of them together that of the superuser.
const (
	maxOrdinary = MaxRegistrations / 2 // of all owners but the superuser
	maxPerOwner = 4096                 // of any owner but the superuser
)

// draft is the snapshot to come.
type draft struct {
	Snapshot
	edition  uint64         // of the nodes that are in no published snapshot
	next     Place          // for the next registration
	owners   map[string]int // services of each owner but the superuser
	ordinary int            // the sum of owners
}

// add appends a registration whose key is new.
func (d *draft) add(reg Registration) *Registration {
	r := &record{Registration: reg, place: d.next}
	d.next++
	var svc service
	if old := d.services.get(r.service()); old != nil {
		svc = *old
	}
	svc.add(d.edition, r)
	d.services.put(d.edition, r.service(), svc)
	d.order.put(d.edition, uint64(r.place), r)
	d.len++
	d.count(r.Owner, 1)
	return &r.Registration
}

// remove undoes add.
func (d *draft) remove(r *record) {
	svc := *d.services.get(r.service())
	if svc.remove(d.edition, r); svc.last() == nil {
		d.services.delete(d.edition, r.service())
	} else {
		d.services.put(d.edition, r.service(), svc)
	}
	d.order.delete(d.edition, uint64(r.place))
	d.len--
	d.count(r.Owner, -1)
}

// count notes that owner has n more.
func (d *draft) count(owner string, n int) {
	if owner == Superuser {
		return
	}
	d.ordinary += n
	if d.owners[owner] += n; d.owners[owner] == 0 {
		delete(d.owners, owner)
	}
}

// full reports whether there is no room for another one of owner's.
func (d *draft) full(owner string) bool {
	return d.len >= MaxRegistrations ||
		owner != Superuser && (d.ordinary >= maxOrdinary || d.owners[owner] >= maxPerOwner)
}

// set is Set, except for the saving.
func (d *draft) set(reg Registration) (ok bool, c Change) {
	if reg.Program == rpcbind.Program {
		return false, c
	}
	if old := d.Exact(reg.Key); old != nil {
		return old.Addr == reg.Addr, c
	}
	if d.full(reg.Owner) {
		return false, c
	}
	return true, Change{Set: d.add(reg)}
}

// unset is Unset, except for the saving.
func (d *draft) unset(program, version uint32, netids []rpcbind.NetID, owner string) (ok bool, c Change) {
	var gone []*record
	for r := range d.onNetIDs(program, version) {
		if len(netids) > 0 && !slices.Contains(netids, r.NetID) {
			continue
		}
		if program == rpcbind.Program || owner != Superuser && owner != r.Owner {
			return false, c
		}
		gone = append(gone, r)
	}
	for _, r := range gone {
		d.remove(r)
		c.Unset = append(c.Unset, &r.Registration)
	}
	return true, c
}

// snapshot returns d as it is now.
func (d *draft) snapshot() *Snapshot {
	s := d.Snapshot
	d.edition++
	return &s
}

// giveUp makes d what s is. The changes are those that d has and s has not.
func (d *draft) giveUp(s *Snapshot, changes []Change) {
	d.Snapshot = *s
	d.edition++
	for _, c := range changes {
		if c.Set != nil {
			d.count(c.Set.Owner, -1)
		}
		for _, reg := range c.Unset {
			d.count(reg.Owner, 1)
		}
	}
}
