package hostsaccess

import (
	"cmp"
	"net/netip"
	"slices"
)

// AddressSets are the client addresses for which there is each verdict, as
// the fewest prefixes that hold them.
type AddressSets struct {
	IPv4, IPv6 map[Verdict][]netip.Prefix
	// Beside are the rules that no set of prefixes can hold: masks with holes,
	// scoped addresses, rules for one address of this host, in their order.
	// Those that refuse may refuse clients in the sets; those that allow may
	// allow clients that are not in the set of Allow. Options.AddressOnly has none.
	Beside []*Rule
}

// Addresses returns what Decide says about each client address, for those who
// must say it in another language: a firewall, an audit. Where Beside is empty,
// the sets are exact. Names are never looked up: what depends on one counts as
// it does in Decide.
func (m *Matcher) Addresses() AddressSets {
	var all []painted
	for p, i := range m.table.All() {
		all = append(all, painted{p, m.outcomes[i].verdict})
	}
	slices.SortFunc(all, func(a, b painted) int { return comparePrefixes(a.prefix, b.prefix) })
	four, _ := slices.BinarySearchFunc(all, 128, func(p painted, bits int) int { return cmp.Compare(p.prefix.Addr().BitLen(), bits) })
	s := AddressSets{
		IPv4: verdictSets(netip.PrefixFrom(netip.IPv4Unspecified(), 0), all[:four]),
		IPv6: verdictSets(netip.PrefixFrom(netip.IPv6Unspecified(), 0), all[four:]),
	}
	for i := range m.side {
		s.Beside = append(s.Beside, m.outcomes[m.side[i].sure].rule)
	}
	return s
}

// Addresses is Matcher.Addresses for a daemon that may go by several names. It
// is false for Compat, which has no sets: there, a client's name may decide.
func (t *Tables) Addresses(names ...string) (AddressSets, bool) {
	if t.mode == Compat {
		return AddressSets{}, false
	}
	m, _ := Compile(t.strict.files[0], t.strict.files[1], Options{Names: names})
	return m.Addresses(), true
}

// painted is a prefix with the verdict for what no smaller prefix holds.
type painted struct {
	prefix  netip.Prefix
	verdict Verdict
}

func verdictSets(world netip.Prefix, inside []painted) map[Verdict][]netip.Prefix {
	b := setBuilder{sets: map[Verdict][]netip.Prefix{}}
	if v, uniform := b.split(world, NoRule, inside); uniform {
		b.sets[v] = []netip.Prefix{world}
	}
	for _, set := range b.sets {
		slices.SortFunc(set, comparePrefixes)
	}
	return b.sets
}

type setBuilder struct{ sets map[Verdict][]netip.Prefix }

// split sorts p into the sets, given the verdict around it and all that is
// painted inside it. If one verdict holds for all of p, it says so instead, so
// that p can become part of something larger.
func (b *setBuilder) split(p netip.Prefix, around Verdict, inside []painted) (v Verdict, uniform bool) {
	if len(inside) > 0 && inside[0].prefix == p {
		around, inside = inside[0].verdict, inside[1:]
	}
	if len(inside) == 0 {
		return around, true
	}
	low, high := halves(p)
	middle, _ := slices.BinarySearchFunc(inside, high.Addr(), func(q painted, a netip.Addr) int { return q.prefix.Addr().Compare(a) })
	lowVerdict, lowUniform := b.split(low, around, inside[:middle])
	highVerdict, highUniform := b.split(high, around, inside[middle:])
	if lowUniform && highUniform && lowVerdict == highVerdict {
		return lowVerdict, true
	}
	if lowUniform {
		b.sets[lowVerdict] = append(b.sets[lowVerdict], low)
	}
	if highUniform {
		b.sets[highVerdict] = append(b.sets[highVerdict], high)
	}
	return NoRule, false
}

// halves cuts a prefix in two.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(a, p.Bits()+1)
}
