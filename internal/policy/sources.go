package policy

import (
	"net/netip"

	"rpcward/hostsaccess"
)

// Sources returns the network sources that are answered, as prefixes in
// no particular order: all of them, and no others. It is not ok if
// no set of prefixes can say that, since a rule looks at more than the source.
func (p *Policy) Sources() (v4, v6 []netip.Prefix, ok bool) {
	if p.matcher == nil {
		return nil, nil, true
	}
	sets := p.matcher.Addresses()
	if len(sets.Beside) > 0 {
		return nil, nil, false
	}
	v4, v6 = sets.IPv4[hostsaccess.Allow], sets.IPv6[hostsaccess.Allow]
	if p.unmatched.Verdict == Answer {
		v4, v6 = append(v4, sets.IPv4[hostsaccess.NoRule]...), append(v6, sets.IPv6[hostsaccess.NoRule]...)
	}
	return v4, v6, true
}
