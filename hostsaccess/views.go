package hostsaccess

import (
	"maps"
	"math/bits"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
)

// views are made when a daemon is asked about for the second time: a program
// that makes one decision is done sooner by trying the rules in order.
type views struct {
	lock   sync.Mutex
	asked  map[string]bool
	byName atomic.Pointer[map[string]*view]
}

// maxViews bounds for how many daemons there is a view. For more, the rules
// are tried in order.
const maxViews = 256

// view returns the view for a daemon, nil if there is none.
func (t *Tables) view(daemon string) *view {
	if byName := t.views.byName.Load(); byName != nil {
		if v, ok := (*byName)[daemon]; ok {
			return v
		}
		if len(*byName) >= maxViews {
			return nil
		}
	}
	return t.addView(daemon)
}

func (t *Tables) addView(daemon string) *view {
	s := &t.views
	s.lock.Lock()
	defer s.lock.Unlock()
	if !s.asked[daemon] {
		if s.asked == nil || len(s.asked) > maxViews {
			s.asked = map[string]bool{}
		}
		s.asked[strings.Clone(daemon)] = true
		return nil
	}
	next := map[string]*view{}
	if old := s.byName.Load(); old != nil {
		if v, ok := (*old)[daemon]; ok {
			return v
		}
		maps.Copy(next, *old)
	}
	v := t.newView(daemon)
	next[strings.Clone(daemon)] = v
	s.byName.Store(&next)
	return v
}

// usable says whether the view finds for the request what trying the rules in
// order does. It tries them in another order, so nothing must be asked for.
func (v *view) usable(d *decider) bool {
	return !v.asks || d.request.Resolver == nil || d.client.named && d.server.named && d.userKnown()
}

func (t *Tables) newView(daemon string) *view {
	v := &view{}
	if t.mode == Compat {
		t.addCompat(v, daemon)
	} else {
		t.addStrict(v, daemon)
	}
	v.nets.finish()
	return v
}

// addStrict files the rules of Strict.
func (t *Tables) addStrict(v *view, daemon string) {
	names := []string{daemon}
	for rank, r := range t.strict.rules {
		about := maybe
		if !r.Broken {
			about = eval(&r.Daemons, func(p *Daemon) truth {
				if p.At != nil && p.At.Kind != HostAll {
					return p.match(names, 0).and(maybe)
				}
				return p.match(names, 0)
			})
		}
		v.daemons = append(v.daemons, about)
		if about != no {
			v.addStrict(int32(rank), r, t.strict.refuses[rank])
		}
	}
}

func (v *view) addStrict(rank int32, r *Rule, refuses bool) {
	if r.Broken {
		v.add(rank, key{kind: keyAlways}, false)
		return
	}
	for i, term := range r.Clients.Terms {
		for j := range term.Patterns {
			p := &term.Patterns[j]
			v.asks = v.asks || !p.Numeric()
			if i > 0 {
				continue
			}
			k := p.Host.key()
			v.add(rank, k, len(r.Clients.Terms) == 1 && p.anyUser())
			if k.name && refuses {
				v.doubts = appendCandidate(v.doubts, candidateRule{rank: rank})
			}
		}
	}
	for _, term := range r.Daemons.Terms {
		for i := range term.Patterns {
			at := term.Patterns[i].At
			v.asks = v.asks || at != nil && !at.Kind.Numeric()
		}
	}
}

// key returns what a client is found by that the pattern is about.
func (h *Host) key() key {
	switch h.Kind {
	case HostAddr, HostNetPrefix, HostNetwork:
		return key{kind: keyNet, net: h.Prefix, sure: h.Zone == ""}
	case HostName:
		return key{kind: keyExact, text: h.Text, sure: true, name: true}
	case HostSuffix:
		return key{kind: keySuffix, text: h.Text, sure: true, name: true}
	case HostPrefix:
		return key{kind: keyPrefix, text: h.Text, sure: true, name: true}
	case HostGlob:
		return key{kind: keyGlob, text: h.Text, name: true}
	case HostAll:
		return key{kind: keyAlways, sure: true}
	}
	return key{kind: keyAlways}
}

// addCompat files the rules of Compat.
func (t *Tables) addCompat(v *view, daemon string) {
	d := decider{tables: t, environment: &t.environment, daemon: subjectOf(daemon)}
	for _, table := range t.compat {
		for i := range table.rules {
			r := &table.rules[i]
			about := eval(&r.daemons, func(p *compatDaemon) truth {
				switch {
				case p.isPort:
					return maybe
				case p.at != nil:
					return truthOf(d.matchString(&p.name, d.daemon)).and(maybe)
				}
				return truthOf(d.matchString(&p.name, d.daemon))
			})
			rank := int32(len(v.daemons))
			v.daemons = append(v.daemons, about)
			if about != no {
				v.addCompat(rank, r)
			}
		}
	}
}

func (v *view) addCompat(rank int32, r *compatRule) {
	for i, term := range r.clients.Terms {
		for j := range term.Patterns {
			p := &term.Patterns[j]
			v.asks = v.asks || p.user != nil || p.host.asks()
			if i == 0 {
				v.add(rank, p.host.key(), len(r.clients.Terms) == 1 && p.user == nil)
			}
		}
	}
	for _, term := range r.daemons.Terms {
		for i := range term.Patterns {
			at := term.Patterns[i].at
			v.asks = v.asks || at != nil && at.asks()
		}
	}
}

// asks says whether the pattern may look up a name.
func (p *compatHost) asks() bool {
	return p.kind != compatMasked && (p.kind != compatText || p.name && p.text.kind != stringAll)
}

// key returns what a client is found by that the pattern is about.
func (p *compatHost) key() key {
	switch p.kind {
	case compatMasked:
		return p.mask.key()
	case compatText:
		return p.text.key(p.name)
	}
	return key{kind: keyAlways}
}

func (p *compatString) key(name bool) key {
	k := key{text: p.text, sure: true, name: name, addr: true}
	switch p.kind {
	case stringExact:
		k.kind = keyExact
	case stringSuffix:
		k.kind = keySuffix
	case stringPrefix:
		k.kind = keyPrefix
	case stringGlob:
		k.kind, k.sure = keyGlob, false
	case stringAll:
		return key{kind: keyAlways, sure: true}
	case stringKnown:
		return key{kind: keyAlways}
	case stringIPv6:
		if !p.valid {
			return key{}
		}
		return key{kind: keyNet, net: netip.PrefixFrom(netip.AddrFrom16(p.addr), 128), sure: true}
	}
	return k
}

func (m *compatMask) key() key {
	switch {
	case m.is6:
		return key{kind: keyNet, net: netip.PrefixFrom(netip.AddrFrom16(m.net6), m.bits).Masked(), sure: true}
	case !m.is4 || m.net&m.mask4 != m.net:
		return key{}
	case bits.LeadingZeros32(^m.mask4)+bits.TrailingZeros32(m.mask4) != 32:
		return key{kind: keyAlways} // a mask with holes
	}
	return key{kind: keyNet, net: netip.PrefixFrom(addr4(m.net), bits.OnesCount32(m.mask4)), sure: true}
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
