package hostsaccess

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// view is the rules of both files that can be about one daemon, in such an
// order that those for one client are found without a look at the others.
//
// A rule matches only if a pattern in front of the first EXCEPT of its client
// list does. So each of these patterns is a key that leads to the rule: an
// address prefix, or a piece of text that the client's name or address must
// start with, end in, or be. What has no such piece is tried for every client.
type view struct {
	daemons []truth // by rank: whether the rule is about the daemon, before a call is seen
	always  []candidateRule
	doubts  []candidateRule // what may match a client whose name is not known
	nets    netIndex
	names   textIndex // compared with host names
	texts   textIndex // compared with addresses as text
	asks    bool      // some rule depends on a name or a user
}

// candidateRule is the rank of a rule, counted through both files, and whether
// the key that led to it is all there is to match.
type candidateRule struct {
	rank int32
	sure bool
}

// keyKind says what a key of a pattern is.
type keyKind uint8

const (
	keyNone   keyKind = iota // the pattern never matches
	keyAlways                // it may match any client
	keyNet
	keyExact
	keySuffix
	keyPrefix
	keyGlob
)

// key is what of a client a pattern for hosts can be found by.
type key struct {
	kind keyKind
	net  netip.Prefix
	text string
	sure bool // a client that has the key matches the pattern
	name bool // text is compared with host names
	addr bool // text is compared with addresses
}

// add files a rule under a key. Single says that nothing but the pattern and
// the daemon decides.
func (v *view) add(rank int32, k key, single bool) {
	c := candidateRule{rank, k.sure && single}
	switch k.kind {
	case keyNone:
	case keyAlways:
		v.always = appendCandidate(v.always, c)
	case keyNet:
		v.nets.add(k.net, c)
	default:
		if k.name {
			v.names.add(k, c)
		}
		if k.addr {
			v.texts.add(k, c)
		}
	}
}

// appendCandidate keeps one entry for each rule.
func appendCandidate(list []candidateRule, c candidateRule) []candidateRule {
	if n := len(list); n > 0 && list[n-1].rank == c.rank {
		list[n-1].sure = list[n-1].sure || c.sure
		return list
	}
	return append(list, c)
}

// netIndex finds the rules for an address.
type netIndex struct {
	byNet  map[netip.Prefix]int32 // only while it is built
	rules  [][]candidateRule      // by number of the prefix
	parent []int32                // the smallest prefix around, or -1
	table  bart.Table[int32]
}

func (x *netIndex) add(p netip.Prefix, c candidateRule) {
	if x.byNet == nil {
		x.byNet = map[netip.Prefix]int32{}
	}
	n, known := x.byNet[p]
	if !known {
		n = int32(len(x.rules))
		x.byNet[p] = n
		x.rules = append(x.rules, nil)
	}
	x.rules[n] = appendCandidate(x.rules[n], c)
}

// finish puts the prefixes inside one another.
func (x *netIndex) finish() {
	nets := make([]netip.Prefix, 0, len(x.byNet))
	for p := range x.byNet {
		nets = append(nets, p)
	}
	slices.SortFunc(nets, comparePrefixes)
	x.parent = make([]int32, len(x.rules))
	var open []netip.Prefix
	for _, p := range nets {
		for len(open) > 0 && !open[len(open)-1].Overlaps(p) {
			open = open[:len(open)-1]
		}
		n := x.byNet[p]
		x.parent[n] = -1
		if len(open) > 0 {
			x.parent[n] = x.byNet[open[len(open)-1]]
		}
		x.table.Insert(p, n)
		open = append(open, p)
	}
	x.byNet = nil
}

// textIndex finds the rules for a text in lower case.
type textIndex struct {
	exact    map[string][]candidateRule
	suffix   map[string][]candidateRule // ".example.com"
	prefix   map[string][]candidateRule // "10."
	globHead globIndex                  // by what stands in front of the first wildcard
	globTail globIndex                  // by what stands behind the last one
	globs    []candidateRule            // with neither
}

// empty says whether there are no rules in it.
func (x *textIndex) empty() bool {
	return len(x.exact) == 0 && len(x.suffix) == 0 && len(x.prefix) == 0 &&
		len(x.globHead.lengths) == 0 && len(x.globTail.lengths) == 0 && len(x.globs) == 0
}

// globIndex finds globs by a piece of text that must be at one end.
type globIndex struct {
	pieces  map[string][]candidateRule
	lengths []int // that pieces have, ascending
}

func (x *textIndex) add(k key, c candidateRule) {
	text := lowerASCII(k.text)
	switch k.kind {
	case keyExact:
		addTo(&x.exact, text, c)
	case keySuffix:
		addTo(&x.suffix, text, c)
	case keyPrefix:
		addTo(&x.prefix, text, c)
	case keyGlob:
		head, tail := text[:strings.IndexAny(text, "*?")], text[strings.LastIndexAny(text, "*?")+1:]
		switch {
		case head == "" && tail == "":
			x.globs = appendCandidate(x.globs, c)
		case len(head) >= len(tail):
			x.globHead.add(head, c)
		default:
			x.globTail.add(tail, c)
		}
	}
}

func addTo(m *map[string][]candidateRule, text string, c candidateRule) {
	if *m == nil {
		*m = map[string][]candidateRule{}
	}
	(*m)[text] = appendCandidate((*m)[text], c)
}

func (x *globIndex) add(piece string, c candidateRule) {
	addTo(&x.pieces, piece, c)
	if i, known := slices.BinarySearch(x.lengths, len(piece)); !known {
		x.lengths = slices.Insert(x.lengths, i, len(piece))
	}
}

// search looks for the first rule that acts.
type search struct {
	d     *decider
	v     *view
	after int32 // no rule up to this one
	best  int32
}

// noRule is behind all ranks.
const noRule = math.MaxInt32

// first returns the rank of the first rule behind after that acts, or noRule.
func (v *view) first(d *decider, after int32) int32 {
	s := search{d: d, v: v, after: after, best: noRule}
	s.try(v.always)
	d.search(&s)
	return s.best
}

// try looks for a rule in a list, in front of the best one so far.
func (s *search) try(list []candidateRule) {
	for _, c := range list {
		switch {
		case c.rank >= s.best:
			return
		case c.rank <= s.after:
		case c.sure && s.v.daemons[c.rank] == yes || s.d.acts(c.rank):
			s.best = c.rank
			return
		}
	}
}

// net tries the rules for all prefixes around an address.
func (s *search) net(a netip.Addr) {
	n, found := s.v.nets.table.Lookup(a)
	for ; found && n >= 0; n = s.v.nets.parent[n] {
		s.try(s.v.nets.rules[n])
	}
}

// text tries the rules for a text of at most stringLength bytes.
func (s *search) text(x *textIndex, text string) {
	var buffer [stringLength]byte
	low := buffer[:copy(buffer[:], text)]
	for i := range low {
		low[i] = lower(low[i])
	}
	if len(x.exact) > 0 {
		s.try(x.exact[string(low)])
	}
	for i := range low {
		if low[i] != '.' {
			continue
		}
		if i > 0 && len(x.suffix) > 0 {
			s.try(x.suffix[string(low[i:])])
		}
		if len(x.prefix) > 0 {
			s.try(x.prefix[string(low[:i+1])])
		}
	}
	for _, n := range x.globHead.lengths {
		if n > len(low) {
			break
		}
		s.try(x.globHead.pieces[string(low[:n])])
	}
	for _, n := range x.globTail.lengths {
		if n > len(low) {
			break
		}
		s.try(x.globTail.pieces[string(low[len(low)-n:])])
	}
	s.try(x.globs)
}
