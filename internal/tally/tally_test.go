package tally

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"rpcward/internal/policy"
)

// from is a call of the nth of many prefixes.
func from(n int, procedure uint32) *Call {
	return &Call{Source: netip.AddrFrom4([4]byte{byte(11 + n>>16), byte(n >> 8), byte(n), 7}), Procedure: procedure, Program: 100003}
}

// counted is the slow twin of a Table: a map without bounds.
type counted map[policy.SourcePrefix]*Row

func (m counted) add(c *Call) (first bool) {
	p := policy.SourcePrefixOf(c.Source)
	if first = m[p] == nil; first {
		m[p] = &Row{Prefix: p}
	}
	m[p].Calls++
	m[p].Last = *c
	return first
}

// TestTableIsAMap: as long as the prefixes have room, a Table is a map.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fast, slow := newTable(1), counted{}
		for _, n := range rapid.SliceOf(rapid.IntRange(0, tableWays-1)).Draw(t, "prefixes") {
			c := from(n, uint32(len(slow)))
			first, want := fast.Add(c), slow.add(c)
			if first != want {
				t.Fatalf("first of prefix %d: %v, want %v", n, first, want)
			}
			if first && n%2 == 0 {
				fast.Told(c.Source)
				slow[policy.SourcePrefixOf(c.Source)].Told++
			}
		}
		var want []Row
		for _, r := range slow {
			want = append(want, *r)
		}
		got := fast.Drain()
		for _, rows := range [][]Row{want, got.Rows} {
			slices.SortFunc(rows, func(a, b Row) int { return int(a.Prefix) - int(b.Prefix) })
		}
		if !slices.Equal(got.Rows, want) || got.Rest != (Count{}) || got.Prefixes != 0 {
			t.Fatalf("counted %+v, want %+v", got, want)
		}
		if again := fast.Drain(); len(again.Rows) > 0 || again.Rest != (Count{}) {
			t.Fatalf("after it was drained: %+v", again)
		}
	})
}

// TestTableKeepsTheHeavy: whatever comes in whatever order, no call is lost from
// the sum, no prefix is said to have made more calls than it did, and a prefix
// that made more than an eighth of them has a row.
func TestTableKeepsTheHeavy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fast, slow := newTable(1), counted{}
		heavy := rapid.IntRange(1, 100).Draw(t, "heavy")
		calls := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 200), rapid.Just(heavy)), 0, 400).Draw(t, "prefixes")
		told := uint64(0)
		for i, n := range calls {
			c := from(n, uint32(i))
			slow.add(c)
			if fast.Add(c) && i%3 == 0 {
				fast.Told(c.Source)
				told++
			}
		}
		got := fast.Drain()
		sum := got.Rest
		for _, r := range got.Rows {
			sum.add(r.Count)
			if want := slow[r.Prefix]; r.Calls > want.Calls || r.Last != want.Last {
				t.Fatalf("counted %+v, want %+v", r, want)
			}
		}
		if sum != (Count{uint64(len(calls)), told}) {
			t.Fatalf("%+v in all, want %d calls, %d told", sum, len(calls), told)
		}
		for p, r := range slow {
			has := slices.ContainsFunc(got.Rows, func(g Row) bool { return g.Prefix == p })
			if r.Calls > uint64(len(calls)/tableWays) && !has {
				t.Fatalf("%v made %d of %d calls and has no row", p, r.Calls, len(calls))
			}
		}
	})
}

// TestTableUnderForgedFlood: three prefixes stand out of 200,000.
func TestTableUnderForgedFlood(t *testing.T) {
	const forged = 200_000
	table := New()
	heavy := []int{300_001, 300_002, 300_003}
	for i := range forged {
		table.Add(from(i, 4))
		if i%20 == 0 { // from the middle of the flood, as those who do not know its seed
			for j, n := range heavy {
				for range 4 - j {
					table.Add(from(n, 3))
				}
			}
		}
	}
	const all = forged + forged/20*(4+3+2)
	if got := table.Total(); got != all {
		t.Errorf("%d calls in all, want %d", got, all)
	}
	for _, when := range []string{"before", "after"} {
		for i, r := range table.Top(len(heavy)) {
			// What they lost until they stood out is in the rest.
			if most := uint64(forged / 20 * (4 - i)); r.Last != *from(heavy[i], 3) || r.Calls > most || r.Calls < most*9/10 {
				t.Errorf("%s Drain, number %d is %+v, want %v with %d calls", when, i, r, from(heavy[i], 3).Source, most)
			}
		}
		if when == "before" {
			got := table.Drain()
			if n := got.Prefixes; n < forged*85/100 || n > forged*115/100 {
				t.Errorf("about %d prefixes in the rest, want %d", n, forged)
			}
		}
	}
	if got := table.Total(); got != all {
		t.Errorf("%d calls in all after Drain, want %d", got, all)
	}
}

// TestTopAddsUp: a prefix that was drained and came again is one.
func TestTopAddsUp(t *testing.T) {
	table := New()
	table.Add(from(1, 1))
	table.Add(from(2, 1))
	table.Add(from(2, 1))
	table.Drain()
	table.Add(from(1, 9))
	table.Add(from(1, 9))
	table.Add(from(3, 1))
	got := table.Top(2)
	if len(got) != 2 || got[0].Calls != 3 || got[0].Last != *from(1, 9) || got[1].Calls != 2 {
		t.Errorf("top %+v", got)
	}
	table.Drain()
	table.Drain()
	if got := table.Top(9); len(got) != 0 {
		t.Errorf("top after two drains: %+v", got)
	}
}

// TestToldTooLate: a call that was taken out before it was told of is not
// missing from the next count.
func TestToldTooLate(t *testing.T) {
	table := New()
	table.Add(from(1, 1))
	if got := table.Drain(); len(got.Rows) != 1 || got.Rows[0].More() != 1 {
		t.Errorf("first %+v", got)
	}
	table.Told(from(1, 1).Source)
	if got := table.Drain(); got.Rest.More() != 0 || got.Rest.Told != 0 {
		t.Errorf("nothing came, and was counted as %+v", got.Rest)
	}
	table.rest.Add(3)
	if got := table.Drain(); got.Rest != (Count{3, 1}) {
		t.Errorf("three came, one was told of: %+v", got.Rest)
	}
}

// TestTableShared: goroutines that add while another one takes out lose no call.
func TestTableShared(t *testing.T) {
	const workers, calls = 4, 50_000
	table := New()
	var adding, draining sync.WaitGroup
	stop := make(chan struct{})
	var sum Count
	drain := func() {
		c := table.Drain()
		sum.add(c.Rest)
		for _, r := range c.Rows {
			sum.add(r.Count)
			if p := policy.SourcePrefixOf(r.Last.Source); p != r.Prefix || r.Last.Program != 100003 {
				t.Errorf("%v has the call %+v", r.Prefix, r.Last)
			}
		}
	}
	draining.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				drain()
				table.Top(3)
			}
		}
	})
	for range workers {
		adding.Go(func() {
			for i := range calls {
				c := from(i%5000, 4)
				if table.Add(c) {
					table.Told(c.Source)
				}
			}
		})
	}
	adding.Wait()
	close(stop)
	draining.Wait()
	drain()
	if sum.Calls != workers*calls || table.Total() != workers*calls {
		t.Errorf("%d and %d calls, want %d", sum.Calls, table.Total(), workers*calls)
	}
}

// TestSketch compares with the number of hashes it was shown.
func TestSketch(t *testing.T) {
	table := New()
	seen := map[policy.SourcePrefix]bool{}
	next := 0
	for _, n := range []int{0, 1, 2, 10, 100, 1000, 3000, 10_000, 100_000, 1_000_000} {
		for ; next < n; next++ {
			p := policy.SourcePrefixOf(from(next, 0).Source)
			seen[p] = true
			_, h := table.find(p)
			table.prefixes.add(h)
			table.prefixes.add(h)
		}
		// Five standard errors, and one where they are few.
		want := len(slices.Collect(maps.Keys(seen)))
		if got := int(table.prefixes.count()); got < want-want/6-1 || got > want+want/6+1 {
			t.Errorf("%d prefixes are estimated to be %d", want, got)
		}
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	table, n := New(), 0
	for name, prefixes := range map[string]int{"one prefix": 1, "ever new ones": 1 << 20} {
		if allocs := testing.AllocsPerRun(5000, func() {
			n++
			table.Add(from(n%prefixes, 4))
		}); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for name, prefixes := range map[string]int{"one prefix": 1, "forged prefixes": 100_000} {
		b.Run(name, func(b *testing.B) {
			table, n := New(), 0
			for b.Loop() {
				n++
				table.Add(from(n%prefixes, 4))
			}
		})
	}
}
