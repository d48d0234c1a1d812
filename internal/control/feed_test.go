package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(program uint32, port uint16) registry.Registration {
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	return registry.Registration{Key: registry.Key{Program: program, Version: 1, NetID: rpcbind.TCP}, Addr: rpcbind.UAddr(ap), IP: ap, Owner: registry.Superuser}
}

// served is a registry with a feed that answers on a socket until the test ends.
func served(t *testing.T, store registry.Store) (*registry.Registry, *Client) {
	t.Helper()
	f := NewFeed(store, slog.New(slog.DiscardHandler))
	r := registry.New(nil, []registry.Registration{service(100003, 2049)}, f)
	if err := f.Save(nil, r.Snapshot()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "control")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { Serve(ctx, l, f, slog.New(slog.DiscardHandler)) })
	c := NewClient(path)
	t.Cleanup(func() { c.Close(); cancel(); ended.Wait() })
	return r, c
}

// A follower is told everything at first, and then what changed.
func TestFollow(t *testing.T) {
	r, c := served(t, nil)
	u, err := c.Follow(t.Context(), "", 0, false)
	if err != nil || !u.Full || len(u.Changes) != 1 || len(u.Changes[0].Set) != 1 || u.Changes[0].Set[0].Program != 100003 {
		t.Fatalf("at first: %+v, %v", u, err)
	}
	set(t, r, service(100005, 20048))
	if _, err := r.Unset(100003, 1, nil, registry.Superuser); err != nil {
		t.Fatal(err)
	}
	next, err := c.Follow(t.Context(), u.Epoch, u.Seq, false)
	if err != nil || next.Full || len(next.Changes) != 2 || next.Seq != u.Seq+2 {
		t.Fatalf("after two changes: %+v, %v", next, err)
	}
	if s, gone := next.Changes[0].Set, next.Changes[1].Unset; len(s) != 1 || s[0].Program != 100005 || len(gone) != 1 || gone[0].Program != 100003 {
		t.Errorf("after two changes: %+v", next)
	}
	if other, err := c.Follow(t.Context(), "of another port mapper", next.Seq, false); err != nil || !other.Full {
		t.Errorf("in another epoch: %+v, %v", other, err)
	}
}

func set(t testing.TB, r *registry.Registry, reg registry.Registration) {
	t.Helper()
	if ok, err := r.Set(reg); !ok || err != nil {
		t.Fatalf("SET: %v, %v", ok, err)
	}
}

// What a guard has not heard of is not published.
func TestSetWaitsForGuard(t *testing.T) {
	r, c := served(t, nil)
	u, err := c.Follow(t.Context(), "", 0, true)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Set(service(100005, 20048))
		done <- err
	}()
	next, err := c.Follow(t.Context(), u.Epoch, u.Seq, true)
	if err != nil || next.Seq != u.Seq+1 {
		t.Fatalf("%+v, %v", next, err)
	}
	select {
	case <-done:
		t.Error("SET was answered before its port was guarded")
	case <-time.After(guardPatience / 10):
	}
	if r.Snapshot().Exact(service(100005, 0).Key) != nil {
		t.Error("the registration is published before its port is guarded")
	}
	if s, err := c.Status(t.Context()); err != nil || s.Guard != GuardBehind {
		t.Errorf("status %+v, %v; want the guard behind", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c.Follow(ctx, next.Epoch, next.Seq, true)
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s, err := c.Status(t.Context())
	if err != nil || s.Guard != GuardInStep || len(s.Registrations) != 2 || !s.Registrations[1].Guarded {
		t.Errorf("status %+v, %v; want the guard in step", s, err)
	}
	cancel()
	<-asked
}

// A guard that is away or stuck holds up one SET, for a bounded time.
func TestGuardIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFeed(nil, slog.New(slog.DiscardHandler))
		r := registry.New(nil, nil, f)
		f.Save(nil, r.Snapshot())
		u := f.Follow(t.Context(), "", 0, true)
		begin := time.Now()
		set(t, r, service(100005, 20048))
		if took := time.Since(begin); took != guardPatience {
			t.Errorf("SET took %v beside a guard that does not answer, want %v", took, guardPatience)
		}
		begin = time.Now()
		set(t, r, service(100006, 20049))
		if took := time.Since(begin); took != 0 {
			t.Errorf("another SET took %v", took)
		}
		if s := f.Status(); s.Guard != GuardBehind || s.Registrations[0].Guarded {
			t.Errorf("status %+v, want the guard behind", s)
		}
		// It comes back, and SET waits for it again.
		u = f.Follow(t.Context(), u.Epoch, u.Seq, true)
		ctx, cancel := context.WithCancel(t.Context())
		go f.Follow(ctx, u.Epoch, u.Seq, true)
		synctest.Wait()
		if s := f.Status(); s.Guard != GuardInStep {
			t.Errorf("status %+v, want the guard in step", s)
		}
		cancel() // its connection ends
		synctest.Wait()
		begin = time.Now()
		set(t, r, service(100008, 20051))
		if took := time.Since(begin); took != 0 {
			t.Errorf("SET took %v after the guard hung up", took)
		}
		// One that was never heard of again after its answer.
		f.Follow(t.Context(), "", 0, true)
		time.Sleep(2 * guardAbsence)
		begin = time.Now()
		set(t, r, service(100007, 20050))
		if took := time.Since(begin); took != 0 {
			t.Errorf("SET took %v after the guard has gone", took)
		}
		if s := f.Status(); s.Guard != GuardNone {
			t.Errorf("status %+v, want no guard", s)
		}
	})
}

// One who is far behind gets everything.
func TestFollowFarBehind(t *testing.T) {
	f := NewFeed(nil, slog.New(slog.DiscardHandler))
	r := registry.New(nil, nil, f)
	f.Save(nil, r.Snapshot())
	u := f.Follow(t.Context(), "", 0, false)
	const made = 2*keptChanges + 10
	for i := range uint32(made) {
		set(t, r, service(300000+i, 4000))
	}
	if all := f.Follow(t.Context(), u.Epoch, u.Seq, false); !all.Full || len(all.Changes[0].Set) != made {
		t.Errorf("full %v with %d registrations", all.Full, len(all.Changes[0].Set))
	}
	if some := f.Follow(t.Context(), u.Epoch, u.Seq+made-keptChanges, false); some.Full || len(some.Changes) != keptChanges {
		t.Errorf("full %v with %d changes", some.Full, len(some.Changes))
	} else if last := some.Changes[keptChanges-1].Set; len(last) != 1 || last[0].Program != 300000+made-1 {
		t.Errorf("the last change is %+v", last)
	}
}

type badStore struct{}

var errDisk = errors.New("the disk is full")

func (badStore) Save(changes []registry.Change, _ *registry.Snapshot) error {
	if len(changes) > 0 {
		return errDisk
	}
	return nil
}

// What could not be saved is not told.
func TestNotSaved(t *testing.T) {
	r, c := served(t, badStore{})
	u, err := c.Follow(t.Context(), "", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Set(service(100005, 20048)); !errors.Is(err, errDisk) {
		t.Errorf("SET: %v, want %v", err, errDisk)
	}
	ctx, cancel := context.WithTimeout(t.Context(), guardPatience/10)
	defer cancel()
	if next, err := c.Follow(ctx, u.Epoch, u.Seq, false); err == nil {
		t.Errorf("told %+v", next)
	}
}

func TestBadRequests(t *testing.T) {
	_, c := served(t, nil)
	for _, path := range []string{"/v1/registrations?after=x", "/v1/registrations?epoch=e&after=-1", "/v1/nothing", "/"} {
		var u Update
		if err := c.get(t.Context(), path, &u); err == nil {
			t.Errorf("%s is answered with %+v", path, u)
		}
	}
}

func BenchmarkSetBesideGuard(b *testing.B) {
	f := NewFeed(nil, slog.New(slog.DiscardHandler))
	r := registry.New(nil, nil, f)
	f.Save(nil, r.Snapshot())
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() {
		for u := f.Follow(ctx, "", 0, true); ctx.Err() == nil; {
			u = f.Follow(ctx, u.Epoch, u.Seq, true)
		}
	}()
	for i := 0; b.Loop(); i++ {
		set(b, r, service(300000+uint32(i), 4000))
		if i%1000 == 999 {
			b.StopTimer()
			for j := range 1000 {
				r.Unset(300000+uint32(i-j), 1, nil, registry.Superuser)
			}
			b.StartTimer()
		}
	}
}
