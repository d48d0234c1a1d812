package hostsaccess

import (
	"cmp"
	"net/netip"
	"slices"
)

// cells cuts the address space into pieces within which no pattern of the
// rules tells two addresses apart.
//
// The pieces come from the prefixes in the rules. Two prefixes are either one
// inside the other or apart, so in the order of address and then length each
// is followed by all those inside it. Cell i is prefix i without those, and
// what prefix i covers is the run of cells from i to the last one inside it.
// A set of addresses thus is a set of runs of small numbers.
type cells struct {
	prefixes []netip.Prefix // sorted, distinct; 0.0.0.0/0 first, ::/0 somewhere
	ends     []int32        // ends[i] is one past the last prefix inside prefix i
}

// run is the cells from lo up to but not including hi.
type run struct{ lo, hi int32 }

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// newCells makes the cells of all those prefixes. It takes over the slice.
func newCells(prefixes []netip.Prefix) *cells {
	prefixes = append(prefixes, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	slices.SortFunc(prefixes, comparePrefixes)
	prefixes = slices.Compact(prefixes)
	c := &cells{prefixes: prefixes, ends: make([]int32, len(prefixes))}
	var open []int32 // the prefixes around the present one, outermost first
	for i := range int32(len(prefixes)) {
		open = c.close(open, i, prefixes[i])
		open = append(open, i)
	}
	for _, i := range open {
		c.ends[i] = int32(len(prefixes))
	}
	return c
}

// close ends the open prefixes that do not hold p, which is number i.
func (c *cells) close(open []int32, i int32, p netip.Prefix) []int32 {
	for len(open) > 0 && !c.prefixes[open[len(open)-1]].Overlaps(p) {
		c.ends[open[len(open)-1]] = i
		open = open[:len(open)-1]
	}
	return open
}

// all is every cell, IPv4 and IPv6.
func (c *cells) all() run { return run{0, int32(len(c.prefixes))} }

// of returns the cells that a prefix given to newCells covers.
func (c *cells) of(p netip.Prefix) run {
	i, _ := slices.BinarySearchFunc(c.prefixes, p, comparePrefixes)
	return run{int32(i), c.ends[i]}
}

// normal sorts runs and joins those that touch.
func normal(runs []run) []run {
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.lo, b.lo) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && r.lo <= out[n-1].hi {
			out[n-1].hi = max(out[n-1].hi, r.hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

// minus returns the cells in a but not in b, both normal.
func minus(a, b []run) []run {
	if len(b) == 0 {
		return a
	}
	var out []run
	for _, r := range a {
		for len(b) > 0 && b[0].hi <= r.lo {
			b = b[1:]
		}
		for _, cut := range b {
			if cut.lo >= r.hi {
				break
			}
			if cut.lo > r.lo {
				out = append(out, run{r.lo, cut.lo})
			}
			r.lo = cut.hi
		}
		if r.lo < r.hi {
			out = append(out, r)
		}
	}
	return out
}

// painter gives each cell the first colour that is put on it.
type painter struct {
	colours []int32
	next    []int32 // next[i] leads to the first bare cell from i on
}

func newPainter(n int) *painter {
	p := &painter{colours: make([]int32, n), next: make([]int32, n+1)}
	for i := range p.next {
		p.next[i] = int32(i)
	}
	return p
}

// bare returns the first bare cell from i on, and shortens the way there.
func (p *painter) bare(i int32) int32 {
	end := i
	for p.next[end] != end {
		end = p.next[end]
	}
	for p.next[i] != end {
		i, p.next[i] = p.next[i], end
	}
	return end
}

// paint colours the bare cells of the runs and says whether there were any.
func (p *painter) paint(runs []run, colour int32) (any bool) {
	for _, r := range runs {
		for i := p.bare(r.lo); i < r.hi; i = p.bare(i) {
			p.colours[i] = colour
			p.next[i] = i + 1
			any = true
		}
	}
	return any
}
