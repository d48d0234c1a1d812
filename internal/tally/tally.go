// Package tally counts calls by source prefix, in fixed memory, however many
// prefixes come and whether their addresses are forged or not. It is for calls
// that are not answered: what is counted here costs a few memory accesses, and
// whoever wants to tell of it takes the counts out once in a while.
//
// Those who call most are counted by name. Add may be called from any number of
// goroutines; it never waits and does not allocate. The package opens nothing,
// logs nothing and reads no clock.
package tally

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"rpcward/internal/policy"
)

// Call is what is kept of a call.
type Call struct {
	Source    netip.Addr
	Procedure uint32
	Program   uint32 // that the call asks about; 0 if none
}

// Count says how many calls there were, and how many of them were told of one
// by one (Told).
type Count struct{ Calls, Told uint64 }

// More is the number of calls that were not told of.
func (c Count) More() uint64 { return c.Calls - min(c.Told, c.Calls) }

func (c *Count) add(d Count) {
	c.Calls += d.Calls
	c.Told += d.Told
}

// Row is one source prefix.
type Row struct {
	Prefix policy.SourcePrefix
	Count
	Last Call
}

// Counts are the calls of some time.
type Counts struct {
	Rows []Row // by number of calls, most first
	Rest Count // calls of prefixes that have no row, or had none for a while
	// Prefixes is about how many prefixes Rest is of; good to 4 percent.
	Prefixes uint64
}

// How much is kept: about a thousand prefixes, 70 KB. A prefix that makes more
// than an eighth of its set's calls, a thousandth of all as a rule, has a row.
const (
	tableSets = 128 // a power of two
	tableWays = 8
)

// Table counts calls. Which prefixes share a set depends on a secret seed, so
// that none can be aimed at another. Use New.
type Table struct {
	seed maphash.Seed
	sets []set
	// Calls that have no row are added up here.
	rest, restTold atomic.Uint64
	prefixes       sketch // of those calls

	mu    sync.Mutex // held by those who read; guards what Add does not touch:
	past  []Row      // what Drain took out last
	total uint64     // calls that Drain took out since the start
}

// set has the rows of the prefixes that share it. Rows are kept by the
// algorithm "space-saving": a prefix without one takes the row with the
// smallest rank, and begins with that rank.
type set struct {
	busy     atomic.Uint32 // 1 while somebody reads or writes the rest
	prefixes [tableWays]policy.SourcePrefix
	rows     [tableWays]row
}

type row struct {
	Count
	rank uint64 // calls, and those of the prefixes that had the row before
	last Call
}

// New returns an empty table.
func New() *Table { return newTable(tableSets) }

func newTable(sets int) *Table {
	return &Table{seed: maphash.MakeSeed(), sets: make([]set, sets)}
}

// tries bounds how long a call tries to enter a set that another goroutine is
// in. Who has it busy needs a few nanoseconds, unless the kernel stopped it.
const tries = 50

// enter makes s the caller's until leave, unless somebody else has it.
func (s *set) enter() bool {
	for range tries {
		if s.busy.CompareAndSwap(0, 1) {
			return true
		}
	}
	return false
}

func (s *set) leave() { s.busy.Store(0) }

func (t *Table) find(p policy.SourcePrefix) (*set, uint64) {
	h := maphash.Comparable(t.seed, p)
	return &t.sets[h&uint64(len(t.sets)-1)], h
}

// Add counts a call and reports whether it is the first of its prefix since the
// prefix has a row: the one to tell of.
func (t *Table) Add(c *Call) (first bool) {
	p := policy.SourcePrefixOf(c.Source)
	s, h := t.find(p)
	if !s.enter() {
		t.addRest(Count{Calls: 1}, h)
		return false
	}
	r := s.row(p)
	if first = r == nil; first {
		r = t.newRow(s, p)
	}
	r.Calls++
	r.rank++
	r.last = *c
	s.leave()
	return first
}

// row returns the row of p, nil if it has none.
func (s *set) row(p policy.SourcePrefix) *row {
	for i := range s.prefixes {
		if s.prefixes[i] == p {
			return &s.rows[i]
		}
	}
	return nil
}

// newRow gives p the row of the prefix with the smallest rank.
func (t *Table) newRow(s *set, p policy.SourcePrefix) *row {
	least := 0
	for i := range s.rows {
		if s.rows[i].rank < s.rows[least].rank {
			least = i
		}
	}
	r := &s.rows[least]
	if r.Calls > 0 {
		t.addRest(r.Count, maphash.Comparable(t.seed, s.prefixes[least]))
	}
	s.prefixes[least] = p
	*r = row{rank: r.rank}
	return r
}

func (t *Table) addRest(c Count, hash uint64) {
	t.rest.Add(c.Calls)
	t.restTold.Add(c.Told)
	t.prefixes.add(hash)
}

// Told notes that a call of the prefix of addr, which was added before, was
// told of by itself.
func (t *Table) Told(addr netip.Addr) {
	p := policy.SourcePrefixOf(addr)
	s, _ := t.find(p)
	if s.enter() {
		defer s.leave()
		if r := s.row(p); r != nil {
			r.Told++
			return
		}
	}
	t.restTold.Add(1)
}

// Drain takes all counts out, and all rows.
func (t *Table) Drain() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.read(true)
	t.past = c.Rows
	t.total += c.calls()
	return c
}

func (c *Counts) calls() uint64 {
	n := c.Rest.Calls
	for i := range c.Rows {
		n += c.Rows[i].Calls
	}
	return n
}

func mostFirst(a, b Row) int { return cmp.Compare(b.Calls, a.Calls) }

// read copies all counts, and if told so takes them out.
func (t *Table) read(out bool) Counts {
	var c Counts
	for i := range t.sets {
		s := &t.sets[i]
		for !s.enter() {
			runtime.Gosched()
		}
		for j := range s.rows {
			if r := &s.rows[j]; r.Calls > 0 {
				c.Rows = append(c.Rows, Row{s.prefixes[j], r.Count, r.last})
			}
		}
		if out {
			s.prefixes, s.rows = [tableWays]policy.SourcePrefix{}, [tableWays]row{}
		}
		s.leave()
	}
	slices.SortFunc(c.Rows, mostFirst)
	c.Prefixes = t.prefixes.count()
	if !out {
		c.Rest = Count{t.rest.Load(), t.restTold.Load()}
		return c
	}
	c.Rest = Count{t.rest.Swap(0), t.restTold.Swap(0)}
	t.prefixes.clear()
	// A call may be told of when it has been taken out already.
	if over := c.Rest.Told - min(c.Rest.Told, c.Rest.Calls); over > 0 {
		t.restTold.Add(over)
		c.Rest.Told -= over
	}
	return c
}

// Top returns the n prefixes with most calls since the last but one Drain.
func (t *Table) Top(n int) []Row {
	t.mu.Lock()
	rows, now := slices.Clone(t.past), t.read(false).Rows
	t.mu.Unlock()
	for _, r := range now {
		if i := slices.IndexFunc(rows, func(o Row) bool { return o.Prefix == r.Prefix }); i >= 0 {
			rows[i].add(r.Count)
			rows[i].Last = r.Last
		} else {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, mostFirst)
	return rows[:min(n, len(rows))]
}

// Total returns how many calls were counted since the start.
func (t *Table) Total() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.read(false)
	return t.total + now.calls()
}
