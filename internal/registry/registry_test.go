package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"rpcward/rpcbind"
)

var own = []Registration{
	{Key{rpcbind.Program, 4, rpcbind.TCP}, "0.0.0.0.0.111", netip.MustParseAddrPort("0.0.0.0:111"), Superuser},
	{Key{rpcbind.Program, 3, rpcbind.TCP}, "0.0.0.0.0.111", netip.MustParseAddrPort("0.0.0.0:111"), Superuser},
	{Key{rpcbind.Program, 4, rpcbind.Local}, "/run/rpcbind.sock", netip.AddrPort{}, Superuser},
}

// compare is how lists of registrations are compared: no list is an empty one.
var compare = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}

// reg is a registration of a port.
func reg(program, version uint32, n rpcbind.NetID, port uint16, owner string) Registration {
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	if n.Is6() {
		ap = netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	}
	return Registration{Key{program, version, n}, rpcbind.UAddr(ap), ap, owner}
}

// flakyStore fails when told to. The zero flakyStore works.
type flakyStore struct {
	fail  func() bool
	saved atomic.Pointer[Snapshot]
	kept  model // what the changes that were saved make
	saves atomic.Int64
	busy  atomic.Bool
}

var errDisk = errors.New("the disk is dying")

func (s *flakyStore) Save(changes []Change, snap *Snapshot) error {
	if s.busy.Swap(true) {
		panic("two saves overlap")
	}
	defer s.busy.Store(false)
	s.saves.Add(1)
	if s.fail != nil && s.fail() {
		return errDisk
	}
	for _, c := range changes {
		s.kept.apply(c)
	}
	s.saved.Store(snap)
	return nil
}

// Few programs, versions, netids and owners, so that they meet often.
var (
	programs = rapid.SampledFrom([]uint32{rpcbind.Program, 100003, 100005, 1 << 30})
	vers     = rapid.Uint32Range(1, 6)
	netids   = rapid.SampledFrom([]rpcbind.NetID{rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.Local})
	owners   = rapid.SampledFrom([]string{Superuser, Unknown, "1000", "1001"})
	ports    = rapid.Uint16Range(1, 3)
)

// call is a SET or an UNSET, drawn beforehand.
type call struct {
	isSet  bool
	reg    Registration
	netids []rpcbind.NetID // of an UNSET
}

var calls = rapid.Custom(func(t *rapid.T) call {
	return call{
		isSet:  rapid.IntRange(0, 2).Draw(t, "set if > 0") > 0,
		reg:    reg(programs.Draw(t, "program"), vers.Draw(t, "version"), netids.Draw(t, "netid"), ports.Draw(t, "port"), owners.Draw(t, "owner")),
		netids: rapid.SliceOfN(netids, 0, 2).Draw(t, "netids"),
	}
})

// crowd are calls about the many versions of one program.
var crowd = rapid.Custom(func(t *rapid.T) call {
	return call{
		isSet: rapid.IntRange(0, 3).Draw(t, "set if > 0") > 0,
		reg:   reg(100003, vers.Draw(t, "version"), rapid.SampledFrom([]rpcbind.NetID{rpcbind.TCP, rpcbind.UDP}).Draw(t, "netid"), 1, Superuser),
	}
})

func (c call) do(r *Registry) (bool, error) {
	if c.isSet {
		return r.Set(c.reg)
	}
	return r.Unset(c.reg.Program, c.reg.Version, c.netids, c.reg.Owner)
}

func (c call) doModel(m *model) bool {
	if c.isSet {
		return m.set(c.reg)
	}
	return m.unset(c.reg.Program, c.reg.Version, c.netids, c.reg.Owner)
}

// One call after the other, with a store that fails now and then.
func TestModel(t *testing.T) {
	t.Run("any", func(t *testing.T) { checkModel(t, calls) })
	t.Run("crowd", func(t *testing.T) { checkModel(t, crowd) })
}

func checkModel(t *testing.T, calls *rapid.Generator[call]) {
	rapid.Check(t, func(t *rapid.T) {
		failing := false
		store := &flakyStore{fail: func() bool { return failing }}
		m := &model{list: slices.Clone(own)}
		r := New(own, nil, store)
		old := map[*Snapshot]model{} // snapshots that somebody still reads
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				c := calls.Draw(t, "call")
				failing = rapid.IntRange(0, 4).Draw(t, "fails if 0") == 0
				before := model{list: slices.Clone(m.list)}
				old[r.Snapshot()] = before
				want := c.doModel(m)
				store.saves.Store(0)
				got, err := c.do(r)
				if failing && store.saves.Load() > 0 {
					if got || !errors.Is(err, errDisk) {
						t.Fatalf("%+v: %v, %v although it could not be saved", c, got, err)
					}
					*m = before
				} else if got != want || err != nil {
					t.Fatalf("%+v: %v, %v, want %v", c, got, err, want)
				}
			},
			"read an old snapshot": func(t *rapid.T) {
				for s, m := range old { // any of them
					sameAsModel(t, s, &m)
					break
				}
			},
			"": func(t *rapid.T) {
				sameAsModel(t, r.Snapshot(), m)
				sameChanges(t, store, m)
				sameCounts(t, &r.draft)
			},
		})
	})
}

// sameAsModel compares all that can be asked.
func sameAsModel(t *rapid.T, s *Snapshot, m *model) {
	if d := cmp.Diff(m.list, list(s), compare); d != "" {
		t.Fatalf("list (-model +registry):\n%s", d)
	}
	if s.Len() != len(m.list) {
		t.Fatalf("Len = %d, want %d", s.Len(), len(m.list))
	}
	if services := slices.Collect(s.Services()); len(services) != len(m.list)-len(own) {
		t.Fatalf("%d services of %d registrations", len(services), len(m.list))
	}
	var place Place
	var parts []Registration
	for from := Place(0); ; from = place {
		n := len(parts)
		for next, reg := range s.From(from) {
			parts, place = append(parts, *reg), next
			if len(parts)-n == 2 {
				break
			}
		}
		if len(parts) == n {
			break
		}
	}
	if d := cmp.Diff(m.list, parts, compare); d != "" {
		t.Fatalf("list in parts (-model +registry):\n%s", d)
	}
	k := Key{programs.Draw(t, "program"), vers.Draw(t, "version"), netids.Draw(t, "netid")}
	if d := cmp.Diff(m.exact(k), s.Exact(k), compare); d != "" {
		t.Fatalf("Exact(%v) (-model +registry):\n%s", k, d)
	}
	if d := cmp.Diff(m.lookup(k), s.Lookup(k), compare); d != "" {
		t.Fatalf("Lookup(%v) (-model +registry):\n%s", k, d)
	}
	var onNetIDs []Registration
	for reg := range s.NetIDs(k.Program, k.Version) {
		onNetIDs = append(onNetIDs, *reg)
	}
	if d := cmp.Diff(m.netids(k.Program, k.Version), onNetIDs, compare); d != "" {
		t.Fatalf("NetIDs(%v) (-model +registry):\n%s", k, d)
	}
	low, high, ok := s.Versions(k.Program, k.NetID)
	wantLow, wantHigh, wantOK := m.versions(k.Program, k.NetID)
	if low != wantLow || high != wantHigh || ok != wantOK {
		t.Fatalf("Versions(%v) = %d, %d, %v, want %d, %d, %v", k, low, high, ok, wantLow, wantHigh, wantOK)
	}
}

// sameChanges compares what the store was told with m.
func sameChanges(t *rapid.T, s *flakyStore, m *model) {
	if d := cmp.Diff(m.list[len(own):], s.kept.list, compare); d != "" {
		t.Fatalf("what the changes make (-model +store):\n%s", d)
	}
}

// sameCounts compares how much the owners have with what is there.
func sameCounts(t *rapid.T, d *draft) {
	want, sum := map[string]int{}, 0
	for reg := range d.All() {
		if reg.Owner != Superuser {
			want[reg.Owner]++
			sum++
		}
	}
	if diff := cmp.Diff(want, d.owners); diff != "" || d.ordinary != sum {
		t.Fatalf("%d of ordinary users, want %d; by owner (-want +got):\n%s", d.ordinary, sum, diff)
	}
}

// outcome is a call in the order in which the registry took them, and its answer.
type outcome struct {
	call call
	ok   bool
	err  error
}

// Many calls at once, with saves that fail: the answers are those of the calls
// one after the other, those with an error left out. The order is recorded
// under the registry's own lock.
func TestConcurrentModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plans := rapid.SliceOfN(rapid.SliceOfN(calls, 1, 12), 2, 6).Draw(t, "calls of each goroutine")
		failures := rapid.SliceOfN(rapid.Bool(), 1, 8).Draw(t, "which saves fail")
		n := 0 // saves don't overlap
		store := &flakyStore{fail: func() bool { n++; return failures[n%len(failures)] }}
		r := New(own, nil, store)

		var order []*outcome
		var wg sync.WaitGroup
		for _, plan := range plans {
			wg.Go(func() {
				for _, c := range plan {
					o := &outcome{call: c}
					o.ok, o.err = r.change(func(d *draft) (bool, Change) {
						order = append(order, o)
						return c.apply(d)
					})
				}
			})
		}
		wg.Wait()

		m := &model{list: slices.Clone(own)}
		for _, o := range order {
			if o.err != nil {
				continue
			}
			if want := o.call.doModel(m); o.ok != want {
				t.Fatalf("%+v: %v, want %v", o.call, o.ok, want)
			}
		}
		sameAsModel(t, r.Snapshot(), m)
		if s := store.saved.Load(); s != nil && s != r.Snapshot() {
			t.Fatal("what is published is not what was saved last")
		}
		sameChanges(t, store, m)
	})
}

func (c call) apply(d *draft) (bool, Change) {
	if c.isSet {
		return d.set(c.reg)
	}
	return d.unset(c.reg.Program, c.reg.Version, c.netids, c.reg.Owner)
}

// What is answered TRUE is saved, at that moment.
func TestAcknowledgedIsSaved(t *testing.T) {
	store := &flakyStore{}
	r := New(own, nil, store)
	var wg sync.WaitGroup
	for g := range uint32(8) {
		wg.Go(func() {
			for v := range uint32(200) {
				reg := reg(200000+g, v, rpcbind.TCP, 1, "1000")
				if ok, err := r.Set(reg); !ok || err != nil {
					t.Errorf("Set: %v, %v", ok, err)
				}
				if store.saved.Load().Exact(reg.Key) == nil || r.Snapshot().Exact(reg.Key) == nil {
					t.Errorf("%v is acknowledged but not saved and published", reg.Key)
				}
			}
		})
	}
	wg.Wait()
	if n := r.Snapshot().Len(); n != len(own)+8*200 {
		t.Errorf("%d registrations", n)
	}
}

// slowStore says when a save begins and ends it when told.
type slowStore struct {
	began chan *Snapshot
	end   chan error
}

func (s *slowStore) Save(_ []Change, snap *Snapshot) error {
	s.began <- snap
	return <-s.end
}

// answer starts f and returns where its answer will be.
func answer(f func() (bool, error)) *atomic.Pointer[outcome] {
	var p atomic.Pointer[outcome]
	go func() {
		ok, err := f()
		p.Store(&outcome{ok: ok, err: err})
	}()
	return &p
}

// While one save is under way, others wait for the next and share it.
func TestSharedSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{make(chan *Snapshot), make(chan error)}
		r := New(own, nil, store)
		set := func(program uint32) *atomic.Pointer[outcome] {
			return answer(func() (bool, error) { return r.Set(reg(program, 1, rpcbind.TCP, 9, Superuser)) })
		}
		first := set(1)
		<-store.began
		var rest []*atomic.Pointer[outcome]
		for p := range uint32(50) {
			rest = append(rest, set(2+p))
		}
		synctest.Wait()
		if first.Load() != nil || r.Snapshot().Len() != len(own) {
			t.Error("answered or published before it was saved")
		}
		store.end <- nil
		if s := <-store.began; s.Len() != len(own)+51 {
			t.Errorf("the second save has %d registrations, want all %d", s.Len(), len(own)+51)
		}
		synctest.Wait()
		if o := first.Load(); o == nil || !o.ok {
			t.Errorf("the first is saved, but its answer is %v", o)
		}
		store.end <- nil
		synctest.Wait()
		for i, p := range rest {
			if o := p.Load(); o == nil || !o.ok {
				t.Errorf("answer %d: %v", i, o)
			}
		}
	})
}

// An answer that changes nothing still rests on the changes before it.
func TestUnchangedWaits(t *testing.T) {
	nfs := reg(100003, 3, rpcbind.TCP, 2049, "1000")
	elsewhere := reg(100003, 3, rpcbind.TCP, 2050, "1000")
	for _, tt := range []struct {
		name  string
		first func(*Registry) (bool, error)
		then  func(*Registry) (bool, error)
		want  bool // the second answer, if the save succeeds
	}{
		{"set again",
			func(r *Registry) (bool, error) { return r.Set(nfs) },
			func(r *Registry) (bool, error) { return r.Set(nfs) }, true},
		{"set elsewhere",
			func(r *Registry) (bool, error) { return r.Set(nfs) },
			func(r *Registry) (bool, error) { return r.Set(elsewhere) }, false},
		{"unset of another's",
			func(r *Registry) (bool, error) { return r.Set(nfs) },
			func(r *Registry) (bool, error) { return r.Unset(100003, 3, nil, "1001") }, false},
		{"unset again",
			func(r *Registry) (bool, error) { return r.Unset(100005, 3, nil, Superuser) },
			func(r *Registry) (bool, error) { return r.Unset(100005, 3, nil, Superuser) }, true},
	} {
		for _, saveErr := range []error{nil, errDisk} {
			t.Run(fmt.Sprint(tt.name, ", save: ", saveErr), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &slowStore{make(chan *Snapshot), make(chan error)}
					r := New(own, []Registration{reg(100005, 3, rpcbind.UDP, 635, "1000")}, store)
					before := r.Snapshot()
					answer(func() (bool, error) { return tt.first(r) })
					<-store.began
					second := answer(func() (bool, error) { return tt.then(r) })
					synctest.Wait()
					if second.Load() != nil {
						t.Fatal("answered before what it rests on is saved")
					}
					store.end <- saveErr
					synctest.Wait()
					o := second.Load()
					if o == nil {
						t.Fatal("no answer: it waits for a save that nobody needs")
					}
					if o.ok != (tt.want && saveErr == nil) || o.err != saveErr {
						t.Errorf("answer %v, %v", o.ok, o.err)
					}
					if saveErr != nil && r.Snapshot() != before {
						t.Error("published although it could not be saved")
					}
				})
			})
		}
	}
}

// A change that came while a save was failing is given up with it, since it
// was judged by what is now gone; the next one finds things as they were.
func TestFailureTakesFollowersAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{make(chan *Snapshot), make(chan error)}
		r := New(own, nil, store)
		nfs := reg(100003, 3, rpcbind.TCP, 2049, "1000")
		first := answer(func() (bool, error) { return r.Set(nfs) })
		<-store.began
		unset := answer(func() (bool, error) { return r.Unset(100003, 3, nil, "1000") })
		synctest.Wait()
		store.end <- errDisk
		synctest.Wait()
		for _, p := range []*atomic.Pointer[outcome]{first, unset} {
			if o := p.Load(); o == nil || o.ok || o.err != errDisk {
				t.Errorf("answer %v", o)
			}
		}
		again := answer(func() (bool, error) { return r.Set(reg(100003, 3, rpcbind.TCP, 2050, "1001")) })
		<-store.began
		store.end <- nil
		synctest.Wait()
		if o := again.Load(); o == nil || !o.ok {
			t.Errorf("a new address after the failure: %v", o)
		}
		if got := r.Snapshot().Exact(nfs.Key); got == nil || got.Owner != "1001" {
			t.Errorf("registered: %v", got)
		}
	})
}

// UNSET takes all or nothing, in every view.
func TestUnsetIsNeverHalfDone(t *testing.T) {
	mixed := []Registration{
		reg(7, 1, rpcbind.TCP, 10, "1000"), reg(7, 1, rpcbind.UDP, 10, "1001"), reg(7, 2, rpcbind.TCP, 11, "1000"),
	}
	for _, tt := range []struct {
		name             string
		program, version uint32
		netids           []rpcbind.NetID
		owner            string
		want             bool
		left             int // services
	}{
		{"all netids, one another's", 7, 1, nil, "1000", false, 3},
		{"own netid only", 7, 1, []rpcbind.NetID{rpcbind.TCP}, "1000", true, 2},
		{"both of version 2", 7, 1, []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP}, "1001", false, 3},
		{"superuser", 7, 1, nil, Superuser, true, 1},
		{"stranger", 7, 1, nil, "1002", false, 3},
		{"empty owner", 7, 1, nil, "", false, 3},
		{"nothing there", 7, 3, nil, "1002", true, 3},
		{"netid not there", 7, 1, []rpcbind.NetID{rpcbind.TCP6}, "1002", true, 3},
		{"the port mapper", rpcbind.Program, 4, nil, Superuser, false, 3},
		{"the port mapper, version that isn't there", rpcbind.Program, 5, nil, Superuser, true, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(own, mixed, nil)
			got, err := r.Unset(tt.program, tt.version, tt.netids, tt.owner)
			if got != tt.want || err != nil {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
			if n := len(slices.Collect(r.Snapshot().Services())); n != tt.left {
				t.Errorf("%d services left, want %d", n, tt.left)
			}
			if r.Snapshot().Len() != tt.left+len(own) {
				t.Error("the port mapper's own registrations changed")
			}
		})
	}
}

// New takes what is own and what is a service, each key once.
func TestNew(t *testing.T) {
	saved := []Registration{
		reg(7, 1, rpcbind.TCP, 10, "1000"), own[0], reg(7, 1, rpcbind.TCP, 11, "1001"), reg(6, 1, rpcbind.TCP, 12, "1000"),
	}
	r := New(append(slices.Clone(own), own[1], saved[0]), saved, nil)
	want := append(slices.Clone(own), saved[0], saved[3])
	if d := cmp.Diff(want, list(r.Snapshot()), compare); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s := new(Snapshot); s.Len() != 0 || s.Lookup(own[0].Key) != nil || list(s) != nil {
		t.Error("the zero Snapshot is not empty")
	}
}

// No ordinary user can take the place of others, nor all of them together that
// of the superuser.
func TestLimits(t *testing.T) {
	var saved []Registration
	for i := range uint32(maxPerOwner) {
		saved = append(saved, reg(1, i, rpcbind.TCP, 10, "1000"))
	}
	r := New(own, saved, nil)
	try := func(program uint32, owner string, want bool) {
		t.Helper()
		if ok, err := r.Set(reg(program, 1<<20, rpcbind.TCP, 10, owner)); ok != want || err != nil {
			t.Errorf("Set for %s: %v, %v, want %v", owner, ok, err, want)
		}
	}
	try(1, "1000", false)
	try(1, "1001", true)
	if ok, _ := r.Set(saved[0]); !ok {
		t.Error("a registration that is there is refused because there are too many")
	}
	r.Unset(1, 5, nil, "1000")
	try(2, "1000", true)

	for i := range uint32(maxOrdinary - maxPerOwner) {
		saved = append(saved, reg(2, i, rpcbind.TCP, 10, strconv.Itoa(2000+int(i)/1000)))
	}
	r = New(own, saved, nil)
	try(3, "9999", false)
	try(3, Superuser, true)
	r.Unset(2, 5, nil, "2000")
	try(6, "9999", true)

	for i := range uint32(MaxRegistrations) {
		saved = append(saved, reg(4, i, rpcbind.TCP, 10, Superuser))
	}
	r = New(own, saved, nil)
	try(5, Superuser, false)
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s := New(own, []Registration{reg(7, 1, rpcbind.TCP, 10, "1000")}, nil).Snapshot()
	n := testing.AllocsPerRun(100, func() {
		s.Exact(Key{7, 1, rpcbind.TCP})
		s.Lookup(Key{7, 2, rpcbind.TCP})
		s.Lookup(Key{8, 1, rpcbind.TCP})
		s.Versions(7, rpcbind.TCP)
		for range s.All() {
		}
		for range s.From(1) {
		}
		for range s.NetIDs(7, 1) {
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
