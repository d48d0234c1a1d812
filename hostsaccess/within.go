package hostsaccess

import (
	"net/netip"
	"slices"
)

// Within returns the decisions that there are about clients of a network, each
// once. The first is the one about those whom no narrower rule concerns. Rules
// for one address of this host, daemon@address, count as if it were called.
func (m *Matcher) Within(n netip.Prefix) []Decision {
	if len(m.outcomes) == 0 {
		return []Decision{{Why: whyUnnamed}}
	}
	n = unmapped(n)
	whole, _ := m.table.LookupPrefix(n)
	found := []int32{whole}
	last := m.outcomes[whole].rank
	for _, i := range m.table.Subnets(n) {
		found = append(found, i)
		last = max(last, m.outcomes[i].rank)
	}
	for i := range m.side {
		s := &m.side[i]
		if m.outcomes[s.sure].rank < last && s.concerns(n) {
			found = append(found, s.sure)
		}
	}
	return m.decisions(found)
}

// decisions returns the outcomes, each rule's once for each verdict.
func (m *Matcher) decisions(found []int32) (list []Decision) {
	for _, i := range found {
		d := m.outcomes[i].decision()
		if !slices.ContainsFunc(list, func(o Decision) bool { return o.Rule == d.Rule && o.Verdict == d.Verdict }) {
			list = append(list, d)
		}
	}
	return list
}

func unmapped(n netip.Prefix) netip.Prefix {
	if a := n.Addr(); a.Is4In6() && n.Bits() >= 96 {
		n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
	}
	return n.Masked()
}

// concerns says whether the rule may match a client in n.
func (s *sideRule) concerns(n netip.Prefix) bool {
	if len(s.clients.Terms) == 0 {
		return false
	}
	return slices.ContainsFunc(s.clients.Terms[0].Patterns, func(c Client) bool {
		switch h := &c.Host; {
		case h.Kind == HostMask:
			return n.Addr().Is4() && (uint32From4(n.Addr().As4())^uint32From4(h.Addr))&uint32From4(h.Mask)&^(1<<(32-n.Bits())-1) == 0
		case h.Prefix.IsValid():
			return h.Prefix.Overlaps(n)
		}
		return true
	})
}
