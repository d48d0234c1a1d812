package portmapper_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

const second = 1_000_000_000 // in nanoseconds

// rates is a setup in which alien4 and alien6 are answered by default.
func rates(r policy.Rates) setup {
	return setup{def: policy.Allow, options: portmapper.Options{Rates: r}}
}

// at is o at a time.
func at(o policy.Origin, when int64) policy.Origin {
	o.At = when
	return o
}

// answers asks n times and returns how many answers there were.
func (f *fixture) answers(t *testing.T, o policy.Origin, n int) (got int) {
	t.Helper()
	for range n {
		reply, outcome := f.ask(o, call(2, 0))
		switch {
		case outcome == portmapper.Reply && bytes.Equal(reply, success):
			got++
		case len(reply) > 0 || outcome == portmapper.Reply:
			t.Fatalf("outcome %d, %x", outcome, reply)
		case o.NetID.Datagram() && outcome != portmapper.Silence && outcome != portmapper.Refused || !o.NetID.Datagram() && outcome != portmapper.HangUp:
			t.Fatalf("over the rate: outcome %d over %v", outcome, o.NetID)
		}
	}
	return got
}

// TestRates tells how many of ten calls are answered.
func TestRates(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rates  policy.Rates
		origin policy.Origin
		want   int
	}{
		{"unlisted", policy.Rates{Unlisted: 3}, alien(rpcbind.UDP), 3},
		{"unlisted over IPv6", policy.Rates{Unlisted: 3}, alien(rpcbind.UDP6), 3},
		{"unlisted over TCP, by who can't wait", policy.Rates{Unlisted: 3}, alien(rpcbind.TCP), 3},
		{"listed", policy.Rates{Unlisted: 3, Listed: 5}, client(rpcbind.UDP), 5},
		{"listed, no limit", policy.Rates{Unlisted: 3}, client(rpcbind.UDP), 10},
		{"no limits", policy.Rates{}, alien(rpcbind.UDP), 10},
		{"log only", policy.Rates{Unlisted: 3, LogOnly: true}, alien(rpcbind.UDP), 10},
		{"loopback", policy.Rates{Unlisted: 3, Listed: 3}, loopback(rpcbind.UDP, 40000), 10},
		{"own address", policy.Rates{Unlisted: 3, Listed: 3}, self(rpcbind.UDP), 10},
		{"unix", policy.Rates{Unlisted: 3, Listed: 3}, unix(1000), 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, rates(tt.rates))
			if got := f.answers(t, tt.origin, 10); got != tt.want {
				t.Errorf("%d answers, want %d", got, tt.want)
			}
			over := 10 - tt.want
			if tt.rates.LogOnly {
				over = 7
			}
			if f.notes.limited != over || f.notes.answered != tt.want || f.notes.refused != 0 {
				t.Errorf("the observer was told %+v, want %d over the rate", *f.notes, over)
			}
			if got := f.answers(t, at(tt.origin, second), 10); got != tt.want {
				t.Errorf("a second later: %d answers, want %d", got, tt.want)
			}
		})
	}
}

// TestRefusedTakeNothing: what is refused is not answered, so it takes nothing
// from those of its prefix that are.
func TestRefusedTakeNothing(t *testing.T) {
	s := rates(policy.Rates{Unlisted: 3, Listed: 3})
	s.deny = "ALL: 10.77.0.3"
	f := newFixture(t, s)
	denied := over(policy.Network, rpcbind.UDP, netip.MustParseAddr("10.77.0.3"), 40000, server4)
	if got := f.answers(t, denied, 10); got != 0 {
		t.Errorf("%d answers to a refused host", got)
	}
	if got := f.answers(t, alien(rpcbind.UDP), 10); got != 3 {
		t.Errorf("%d answers to its neighbour, want 3", got)
	}
	if f.notes.refused != 10 || f.notes.limited != 7 {
		t.Errorf("the observer was told %+v", *f.notes)
	}
}

// TestStreamsWait: calls over a stream that are over the rate are answered when
// they are due, and a second's worth of forged datagrams does not keep them
// from it.
func TestStreamsWait(t *testing.T) {
	f := newFixture(t, rates(policy.Rates{Unlisted: 10}))
	f.answers(t, alien(rpcbind.UDP), 1000)
	w := f.NewWorker()
	now, o := int64(0), alien(rpcbind.TCP)
	w.Pause = func(ns int64) { now += ns }
	for i := 1; i <= 50; i++ {
		o.At = now
		f.answers(t, at(alien(rpcbind.UDP), now), 10)
		if got, outcome := w.Answer(nil, call(2, 0), &o); outcome != portmapper.Reply || !bytes.Equal(got, success) {
			t.Fatalf("call %d: outcome %d, %x", i, outcome, got)
		}
		if want := int64(i) * second / 10; now != want {
			t.Fatalf("call %d was answered after %d ns, want %d", i, now, want)
		}
	}
}

// TestStreamsWaitNotForEver: with so many calls waiting that one's turn is too
// far away, its connection ends.
func TestStreamsWaitNotForEver(t *testing.T) {
	f := newFixture(t, rates(policy.Rates{Unlisted: 10}))
	var waits []int64
	o, ended := alien(rpcbind.TCP), 0
	for range 100 { // connections at one time
		w := f.NewWorker()
		w.Pause = func(ns int64) { waits = append(waits, ns) }
		if _, outcome := w.Answer(nil, call(2, 0), &o); outcome == portmapper.HangUp {
			ended++
		}
	}
	if len(waits) != 20 || waits[len(waits)-1] != policy.MaxWait || ended != 70 {
		t.Errorf("%d waited, %d ended, want 20 and 70: %v", len(waits), ended, waits)
	}
	if f.notes.limited != 90 {
		t.Errorf("the observer was told %+v", *f.notes)
	}
}

// TestStreamsDoNotWaitToBeLogged: with LogOnly nothing is held up.
func TestStreamsDoNotWaitToBeLogged(t *testing.T) {
	f := newFixture(t, rates(policy.Rates{Unlisted: 1, LogOnly: true}))
	o, w := alien(rpcbind.TCP), f.NewWorker()
	w.Pause = func(int64) { t.Error("paused") }
	for range 5 {
		if _, outcome := w.Answer(nil, call(2, 0), &o); outcome != portmapper.Reply {
			t.Errorf("outcome %d", outcome)
		}
	}
	if f.notes.limited != 4 {
		t.Errorf("the observer was told %+v", *f.notes)
	}
}

// TestUnlistedDoNotPushOut: TCP exchanges of any number of hosts that no rule
// lists don't make us forget those of one that a rule does.
func TestUnlistedDoNotPushOut(t *testing.T) {
	f := newFixture(t, rates(policy.Rates{}))
	dump, want := call(2, 4), loopback(rpcbind.UDP, 40000)
	full, _ := f.ask(want, dump)
	f.ask(client(rpcbind.TCP), call(2, 0))
	f.machine.now++
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		f.ask(over(policy.Network, rpcbind.TCP, a, 40000, server4), call(2, 0))
	}
	if got, _ := f.ask(client(rpcbind.UDP), dump); !bytes.Equal(got, full) {
		t.Errorf("DUMP over UDP for a listed client: %d bytes, want %d", len(got), len(full))
	}
}

// TestLimitedDoesNotAllocate: nor do calls over the rate, of one prefix or many.
func TestLimitedDoesNotAllocate(t *testing.T) {
	for _, listed := range []bool{false, true} {
		f := newFixture(t, rates(policy.Rates{Unlisted: 1, Listed: 1}))
		o, msg := alien(rpcbind.UDP), call(2, 3, 100003, 3, 17, 0)
		if listed {
			o = client(rpcbind.UDP)
		}
		w, buf := f.NewWorker(), make([]byte, 0, 1<<16)
		w.Answer(buf, msg, &o)
		var outcome portmapper.Outcome
		if allocs := testing.AllocsPerRun(100, func() { _, outcome = w.Answer(buf, msg, &o) }); allocs != 0 || outcome != portmapper.Silence {
			t.Errorf("listed %v: %v allocations, outcome %d", listed, allocs, outcome)
		}
	}
}

func BenchmarkRates(b *testing.B) {
	for _, r := range []policy.Rates{{}, policy.DefaultRates()} {
		b.Run(fmt.Sprint("listed ", r.Listed), func(b *testing.B) {
			f := newFixture(b, rates(r))
			o, msg := client(rpcbind.UDP), call(2, 3, 100003, 3, 17, 0)
			w, buf := f.NewWorker(), make([]byte, 0, 1<<16)
			for b.Loop() {
				o.At += 2000
				w.Answer(buf, msg, &o)
			}
		})
	}
}
