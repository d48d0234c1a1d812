package hostsaccess

import "net/netip"

// subject is a text that patterns are compared with, and what they need of it.
type subject struct {
	text   string // as libwrap holds it
	plain  string // without ::ffff: in front of an IPv4 address
	parsed bool   // the three below are known
	quad   uint32 // plain as IPv4 address, or noAddress
	addr   [16]byte
	is6    bool // addr is plain as IPv6 address
}

// subjectOf strips ::ffff: as string_match does: from a dotted quad only.
func subjectOf(text string) subject {
	s := subject{text: text, plain: text}
	if hasPrefixFold(text, "::ffff:") && dotQuad(text[7:]) != noAddress {
		s.plain = text[7:]
	}
	return s
}

func (s *subject) parse(hasInterface func(string) bool) {
	if s.parsed {
		return
	}
	s.parsed, s.quad = true, dotQuad(s.plain)
	if s.quad == noAddress {
		s.addr, s.is6 = numericIPv6(s.plain, hasInterface)
	}
}

// matchString is string_match.
func (d *decider) matchString(p *compatString, s *subject) bool {
	switch p.kind {
	case stringGlob:
		return matchGlob(p.text, s.plain)
	case stringSuffix:
		return len(s.plain) > len(p.text) && hasSuffixFold(s.plain, p.text)
	case stringAll:
		return true
	case stringKnown:
		return !equalFold(s.plain, unknown)
	case stringPrefix:
		return hasPrefixFold(s.plain, p.text)
	case stringIPv6:
		s.parse(d.environment.HasInterface)
		return p.valid && s.is6 && p.addr == s.addr
	}
	return equalFold(p.text, s.plain)
}

// match is masked_match. An address that is written ::ffff:a01:203 counts as
// IPv6, as in libwrap.
func (m *compatMask) match(s *subject, hasInterface func(string) bool) bool {
	s.parse(hasInterface)
	if s.quad != noAddress {
		return m.is4 && s.quad&m.mask4 == m.net
	}
	if !m.is6 || !s.is6 {
		return false
	}
	return netip.PrefixFrom(netip.AddrFrom16(m.net6), m.bits).Contains(netip.AddrFrom16(s.addr))
}
