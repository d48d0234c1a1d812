package control

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"rpcward/internal/registry"
)

const (
	// guardPatience is how long a SET waits for the guard. Callers wait for a
	// minute, or try again after five seconds; a guard takes a millisecond with
	// nftables, but on a busy host with iptables more than half a second was seen.
	guardPatience = 3 * time.Second
	// guardAbsence is how long a guard that has an answer to work on may take to
	// ask again before it counts as gone.
	guardAbsence = 4 * time.Second
	// keptChanges is how many changes at least, and half of how many at most, are
	// kept for followers; one that is further behind gets everything.
	keptChanges = 4096
)

// Feed is a registry.Store that tells followers what is saved.
type Feed struct {
	// Stale returns a function that tells of registrations whose services are
	// gone. Set it before Serve; it may be nil.
	Stale func() func(*registry.Registration) bool

	store registry.Store // may be nil
	log   *slog.Logger
	epoch string

	mu       sync.Mutex
	wake     chan struct{} // closed when something below has changed
	snapshot *registry.Snapshot
	seq      uint64            // number of the last change
	kept     []registry.Change // the last ones, up to seq
	guarded  uint64            // up to here, says the guard
	asking   int               // requests of a guard that wait for changes
	seen     time.Time         // when a guard was last answered
	late     bool              // it missed its time, and has not caught up since
	present  bool              // as the log was told
}

// NewFeed returns a feed in front of store, which may be nil.
func NewFeed(store registry.Store, log *slog.Logger) *Feed {
	return &Feed{store: store, log: log, epoch: rand.Text(), wake: make(chan struct{}), snapshot: new(registry.Snapshot)}
}

// Save saves, tells the followers, and waits for the guard if there is one. It
// implements registry.Store.
func (f *Feed) Save(changes []registry.Change, s *registry.Snapshot) error {
	if f.store != nil {
		if err := f.store.Save(changes, s); err != nil {
			return err
		}
	}
	f.await(f.propose(changes, s), opens(changes))
	return nil
}

// opens reports whether changes make a port known.
func opens(changes []registry.Change) bool {
	for _, c := range changes {
		if c.Set != nil && !c.Set.NetID.IsLocal() {
			return true
		}
	}
	return false
}

func (f *Feed) propose(changes []registry.Change, s *registry.Snapshot) (seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot = s
	if len(changes) == 0 { // the beginning
		f.seq++
		f.kept = nil
	} else {
		f.seq += uint64(len(changes))
		f.kept = append(f.kept, changes...)
		if len(f.kept) >= 2*keptChanges { // seldom, since it copies
			f.kept = append(make([]registry.Change, 0, 2*keptChanges), f.kept[len(f.kept)-keptChanges:]...)
		}
	}
	f.broadcast()
	return f.seq
}

// broadcast wakes whoever waits. The caller holds the lock, here and below.
func (f *Feed) broadcast() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// await waits until the guard has guarded what there was at seq, for a while.
func (f *Feed) await(seq uint64, worth bool) {
	timer := time.NewTimer(guardPatience)
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for worth && f.guarded < seq && f.there() {
		wake := f.wake
		f.mu.Unlock()
		select {
		case <-wake:
			f.mu.Lock()
		case <-timer.C:
			f.mu.Lock()
			f.late = true
			f.log.Warn("the guard did not answer in time: ports are registered that it does not guard yet")
			return
		}
	}
	if f.present && !f.there() {
		f.present = false
		f.log.Warn("the guard has gone: its rules stay, but what is registered from now on is not guarded")
	}
}

// there reports whether a guard is at work and keeps its time.
func (f *Feed) there() bool {
	return !f.late && (f.asking > 0 || time.Since(f.seen) < guardAbsence && !f.seen.IsZero())
}

// Follow returns what changed after the change number after of epoch, and
// waits until there is something or ctx is done; then it returns an empty
// Update. A guard says by asking that it has guarded all up to after.
func (f *Feed) Follow(ctx context.Context, epoch string, after uint64, guard bool) Update {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := false
	if guard {
		f.arrive(epoch, after)
		defer func() { f.leave(gone) }()
	}
	for epoch == f.epoch && after >= f.seq {
		wake := f.wake
		f.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			gone = errors.Is(ctx.Err(), context.Canceled) // its connection has ended
			return Update{Epoch: f.epoch, Seq: f.seq}
		}
	}
	return f.update(epoch, after)
}

// arrive notes what a guard says by asking.
func (f *Feed) arrive(epoch string, after uint64) {
	f.asking++
	if epoch == f.epoch && after <= f.seq {
		f.guarded = max(f.guarded, after)
		f.late = f.late && f.guarded < f.seq
	}
	if !f.present {
		f.present = true
		f.log.Info("a guard has come: registrations wait for it")
	}
	f.broadcast()
}

// leave notes that a guard is answered, or that it is gone.
func (f *Feed) leave(gone bool) {
	f.asking--
	if f.seen = time.Now(); gone {
		f.seen = time.Time{}
	}
}

// update returns all after the change number after, or everything.
func (f *Feed) update(epoch string, after uint64) Update {
	u := Update{Epoch: f.epoch, Seq: f.seq}
	if epoch == f.epoch && after <= f.seq && f.seq-after <= uint64(len(f.kept)) {
		for _, c := range f.kept[uint64(len(f.kept))-(f.seq-after):] {
			u.Changes = append(u.Changes, changeJSON(c))
		}
		return u
	}
	u.Full = true
	all := Change{Set: make([]Registration, 0, f.snapshot.Len())}
	for r := range f.snapshot.All() {
		all.Set = append(all.Set, toJSON(r))
	}
	u.Changes = []Change{all}
	return u
}

// Status tells who is registered, and whether the guard knows.
func (f *Feed) Status() Status {
	stale := func(*registry.Registration) bool { return false }
	if f.Stale != nil {
		stale = f.Stale()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{Guard: GuardNone, Registrations: make([]RegistrationInfo, 0, f.snapshot.Len())}
	pending := map[registry.Key]bool{}
	switch {
	case !f.there() && !f.late:
	case f.guarded == f.seq:
		s.Guard = GuardInStep
	default:
		s.Guard = GuardBehind
	}
	first := uint64(len(f.kept)) - min(uint64(len(f.kept)), f.seq-f.guarded)
	for _, c := range f.kept[first:] {
		if c.Set != nil {
			pending[c.Set.Key] = true
		}
	}
	for r := range f.snapshot.All() {
		guarded := s.Guard != GuardNone && f.guarded > 0 && !pending[r.Key]
		s.Registrations = append(s.Registrations, RegistrationInfo{Registration: toJSON(r), Guarded: guarded, Stale: stale(r)})
	}
	return s
}
