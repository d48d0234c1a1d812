// Package registry knows who serves which program where.
//
// Readers take a Snapshot, an immutable value behind one atomic pointer, and
// look up without a lock or an allocation. Writers are acknowledged only when
// the Store has saved a snapshot with their change in it; changes that come
// while a save is under way share the next one. Versions 2, 3 and 4 of the
// port mapper are views of the one list that is kept here, so that they can't
// drift apart.
//
// A change is judged by the changes before it, saved or not, and every answer,
// also one that changes nothing, waits until all that it rests on is saved. So
// the answers are those of some order of the calls, one after the other, in
// which a call that ended with an error did not happen.
//
// Arguments are the caller's to validate. The package opens nothing, logs
// nothing and starts no goroutine: whoever comes first saves for the others.
package registry

import (
	"sync"
	"sync/atomic"

	"rpcward/rpcbind"
)

// Owners that are not a user's number. rpcbind has the same words.
const (
	Superuser = "superuser" // owns the port mapper's own registrations, and may remove everybody's
	Unknown   = "unknown"   // came over IP, where the kernel does not tell
)

// Change is what one call did, SET or UNSET: one of the fields is empty.
type Change struct {
	Set   *Registration   // what was registered
	Unset []*Registration // what was removed, of one program's version
}

// Store keeps registrations where a crash does not reach them.
type Store interface {
	// Save returns nil when s will survive a crash. The changes are those that
	// make s of what was saved before, in their order: none, the first time,
	// or what many calls did. After an error, either s or what was saved before
	// survives, and the next snapshot is made of what was saved before. Calls do
	// not overlap.
	Save(changes []Change, s *Snapshot) error
}

// Registry is the current snapshot, and the way to the next one.
type Registry struct {
	store   Store
	current atomic.Pointer[Snapshot]

	mu     sync.Mutex
	ended  sync.Cond // broadcast when a save has ended
	draft  draft     // current, with all changes that are not published yet
	saving *batch    // the changes that are being saved, or nil
	open   *batch    // later ones, or nil
}

// batch is a number of changes that are saved together.
type batch struct {
	changes []Change
	done    bool
	err     error
}

// New returns a registry of the port mapper's own registrations and those that
// were saved; of several with one key the first counts. A nil store saves
// nothing.
func New(own, saved []Registration, store Store) *Registry {
	r := &Registry{store: store, draft: draft{owners: map[string]int{}}}
	r.ended.L = &r.mu
	for _, reg := range own {
		if reg.Program == rpcbind.Program && r.draft.Exact(reg.Key) == nil {
			r.draft.add(reg)
		}
	}
	r.draft.own = r.draft.next
	for _, reg := range saved {
		if reg.Program != rpcbind.Program && r.draft.Exact(reg.Key) == nil {
			r.draft.add(reg)
		}
	}
	r.current.Store(r.draft.snapshot())
	return r
}

// Snapshot returns the registry as it is published. Every change that was
// acknowledged is in it, and every one in it is saved.
func (r *Registry) Snapshot() *Snapshot { return r.current.Load() }

// Set registers reg and reports whether it is registered, and that saved. It
// is not if its key is registered at another address, if it is of the port
// mapper's own program, or if there are too many. If it is registered already,
// the owner stays. An error means that it could not be saved.
func (r *Registry) Set(reg Registration) (bool, error) {
	return r.change(func(d *draft) (bool, Change) { return d.set(reg) })
}

// Unset removes the registrations of a program's version on the given netids,
// none meaning all netids, and reports whether none is left, and that saved.
// If one of them is not owner's to remove, nothing is removed.
func (r *Registry) Unset(program, version uint32, netids []rpcbind.NetID, owner string) (bool, error) {
	return r.change(func(d *draft) (bool, Change) { return d.unset(program, version, netids, owner) })
}

// change applies a change to the draft and waits until that is published.
func (r *Registry) change(apply func(*draft) (bool, Change)) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok, c := apply(&r.draft)
	if c.Set != nil || c.Unset != nil {
		if r.open == nil {
			r.open = new(batch)
		}
		r.open.changes = append(r.open.changes, c)
	}
	err := r.settle()
	return ok && err == nil, err
}

// settle waits until the draft as it is now is published or given up. The
// caller holds the lock, here and below.
func (r *Registry) settle() error {
	b := r.open
	if b == nil {
		b = r.saving
	}
	if b == nil {
		return nil
	}
	for !b.done {
		if r.saving != nil {
			r.ended.Wait()
		} else {
			r.save()
		}
	}
	return b.err
}

// save saves and publishes the open batch. The lock is let go while the store
// works.
func (r *Registry) save() {
	r.saving, r.open = r.open, nil
	s := r.draft.snapshot()
	var err error
	if r.store != nil {
		r.mu.Unlock()
		err = r.store.Save(r.saving.changes, s)
		r.mu.Lock()
	}
	b := r.saving
	r.saving = nil
	b.done, b.err = true, err
	if err == nil {
		r.current.Store(s)
	} else {
		r.giveUp(b)
	}
	r.ended.Broadcast()
}

// giveUp drops what could not be saved, and what came after it and rests on it.
func (r *Registry) giveUp(b *batch) {
	r.draft.giveUp(r.current.Load(), b.changes)
	if r.open != nil {
		r.draft.giveUp(r.current.Load(), r.open.changes)
		r.open.done, r.open.err = true, b.err
		r.open = nil
	}
}
