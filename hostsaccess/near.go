package hostsaccess

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Near is a rule that did not decide about a client, but came close.
type Near struct {
	Rule *Rule
	Why  string // why it did not decide

	distance int
}

// The distances of rules, closest first; how far a network is from the client,
// in bits, is added to otherNetwork.
const (
	laterRule = iota
	doubtful
	excepted
	otherAddress
	otherNetwork
	otherDaemon = otherNetwork + 200
	far         = otherDaemon + 1
)

// NearRules returns up to most rules that came close to deciding about a
// client at address client that calls the service at address local, which need
// not be known. The decision is the one that was made.
func NearRules(allow, deny *File, o Options, client, local netip.Addr, decision Decision, most int) []Near {
	s := &nearSearch{compiler: &compiler{options: o, matcher: &Matcher{}}, client: client.Unmap(), local: local.Unmap(), decision: decision}
	var list []Near
	for i, f := range []*File{allow, deny} {
		if f == nil {
			continue
		}
		for _, r := range f.Rules {
			if d := decision.Rule; d != nil && d.File == r.File && d.Offset == r.Offset {
				s.past = true
				continue
			}
			if n := s.rule(r, Allow+Verdict(i)); n.distance < far {
				list = append(list, n)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Near) int { return cmp.Compare(a.distance, b.distance) })
	return list[:min(most, len(list))]
}

type nearSearch struct {
	compiler      *compiler
	client, local netip.Addr
	decision      Decision
	past          bool // the rule that decided stands above
}

// rule says how close a rule came.
func (s *nearSearch) rule(r *Rule, file Verdict) Near {
	k := candidate{rule: r, file: file}
	if !s.compiler.named(&k) {
		return s.otherDaemon(r)
	}
	n := Near{Rule: r, distance: far}
	clients := eval(&r.Clients, func(c *Client) truth { return c.match(s.client) })
	daemons := eval(&r.Daemons, func(d *Daemon) truth {
		g := s.compiler.gate(d)
		return g.open(s.local)
	})
	switch {
	case s.past && clients != no && daemons != no:
		n.distance, n.Why = laterRule, fmt.Sprintf("matches too, but %v comes first", s.decision.Rule)
	case r.Broken:
		n.distance, n.Why = doubtful, "has a mistake"
	case clients == no && len(r.Clients.Terms) > 1 && s.term(&r.Clients.Terms[0]) != no:
		n.distance, n.Why = excepted, "its EXCEPT leaves the client out"
	case clients == no:
		s.network(&n)
	case daemons != yes:
		n.distance, n.Why = otherAddress, "is for calls to one address of this host, and it is not known which was called"
		if daemons == no {
			n.Why = "is for calls to another address of this host"
		}
	case clients == yes:
		n.distance, n.Why = laterRule, "would decide, if the files had no mistake"
	default:
		n.distance, n.Why = doubtful, "may match by what is never looked up: host names, netgroups, pattern files, users"
	}
	return n
}

func (s *nearSearch) term(t *Term[Client]) truth {
	return eval(&List[Client]{Terms: []Term[Client]{*t}}, func(c *Client) truth { return c.match(s.client) })
}

// network finds the network of the rule that is closest to the client.
func (s *nearSearch) network(n *Near) {
	if len(n.Rule.Clients.Terms) == 0 {
		return
	}
	for _, c := range n.Rule.Clients.Terms[0].Patterns {
		p := c.Host.Prefix
		if !p.IsValid() || p.Addr().Is4() != s.client.Is4() {
			continue
		}
		common := commonBits(p, s.client)
		if d := otherNetwork + p.Bits() - common; d < n.distance && common >= min(p.Bits(), s.client.BitLen()/8+4) {
			n.distance, n.Why = d, fmt.Sprintf("%s does not hold %v", c.Host.Text, s.client)
		}
	}
}

// commonBits counts the leading bits in which an address is in p.
func commonBits(p netip.Prefix, a netip.Addr) int {
	x, y := p.Addr().AsSlice(), a.AsSlice()
	for i := range p.Bits() {
		if (x[i/8]^y[i/8])>>(7-i%8)&1 != 0 {
			return i
		}
	}
	return p.Bits()
}

// otherDaemon tells of rules that name the client's network, but for another
// service: the name may be wrong.
func (s *nearSearch) otherDaemon(r *Rule) Near {
	n := Near{Rule: r, distance: far}
	if r.Broken || len(r.Clients.Terms) == 0 || len(r.Daemons.Terms) == 0 {
		return n
	}
	for _, c := range r.Clients.Terms[0].Patterns {
		if c.Host.Prefix.IsValid() && c.match(s.client) == yes {
			n.distance, n.Why = otherDaemon, "is for "+r.daemonList()+" only"
			break
		}
	}
	return n
}

// Concerns says whether the rule is about a service, or may be.
func (r *Rule) Concerns(o Options) bool {
	c := &compiler{options: o, matcher: &Matcher{}}
	return c.named(&candidate{rule: r})
}

// daemonList is how the daemons of a rule are written.
func (r *Rule) daemonList() string {
	list := ""
	for i, t := range r.Daemons.Terms {
		if i > 0 {
			list += " EXCEPT"
		}
		for _, d := range t.Patterns {
			list += " " + d.Text
		}
	}
	return list[min(1, len(list)):]
}
