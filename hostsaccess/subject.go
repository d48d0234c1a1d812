package hostsaccess

import (
	"encoding/binary"
	"net/netip"
	"unsafe"
)

// subject is a text that libwrap compares patterns with.
type subject struct {
	text string
	skip int // of ::ffff: in front of an IPv4 address
}

const mappedPrefix = "::ffff:"

// subjectOf strips ::ffff: as string_match does: from a dotted quad only.
func subjectOf(text string) subject {
	if hasPrefixFold(text, mappedPrefix) && dotQuad(text[len(mappedPrefix):]) != noAddress {
		return subject{text, len(mappedPrefix)}
	}
	return subject{text, 0}
}

// plain is what patterns are compared with.
func (s subject) plain() string { return s.text[s.skip:] }

// is says whether the text is that word, in any case.
func (s subject) is(word string) bool { return equalFold(s.text, word) }

// isKnown is libwrap's HOSTNAME_KNOWN.
func (s subject) isKnown() bool { return !s.is(unknown) && !s.is(paranoid) }

// addressSubject is the address of a host as text, and as what it can be read
// as. It is made out of a string or of an address, and never points at itself,
// so that it can live on the stack.
type addressSubject struct {
	held   string     // the text, unless it is in buffer
	number netip.Addr // what the text is made of, if that is an address
	buffer [64]byte
	length int // of the text in buffer, once somebody has asked for it
	skip   int

	parsed bool   // the three below are known
	quad   uint32 // as IPv4 address, or noAddress
	addr   [16]byte
	is6    bool // addr is the IPv6 address
}

// setText makes the subject out of a text.
func (s *addressSubject) setText(text string) {
	of := subjectOf(text)
	s.held, s.skip, s.number, s.length, s.parsed = of.text, of.skip, netip.Addr{}, 0, false
}

// setAddr makes the subject out of an address.
func (s *addressSubject) setAddr(a netip.Addr) {
	s.number = a
	if a.Is4In6() && a.WithZone("").Unmap() != broadcast {
		s.skip = len(mappedPrefix)
	}
}

// write writes the address down as glibc prints it.
func (s *addressSubject) write() {
	const longest = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%")
	if len(s.number.Zone()) > len(s.buffer)-longest {
		s.held = cutLong(string(appendAddr(nil, s.number)))
		return
	}
	s.length = len(appendAddr(s.buffer[:0], s.number))
}

// broadcast is an address that inet_addr can't tell from none.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// text is all of the text.
func (s *addressSubject) text() string {
	if s.length == 0 && s.held == "" && s.number.IsValid() {
		s.write()
	}
	if s.length > 0 {
		return unsafe.String(&s.buffer[0], s.length) // no copy: nobody writes to buffer while the string is used
	}
	return s.held
}

// plain is what patterns are compared with.
func (s *addressSubject) plain() string { return s.text()[s.skip:] }

// parse reads the text as inet_addr and getaddrinfo do.
func (s *addressSubject) parse(hasInterface func(string) bool) {
	if s.parsed {
		return
	}
	s.parsed, s.quad, s.is6 = true, noAddress, false
	switch a := s.number; {
	case !a.IsValid():
		text := s.held[s.skip:]
		if s.quad = dotQuad(text); s.quad == noAddress {
			s.addr, s.is6 = numericIPv6(text, hasInterface)
		}
	case a.Is4() || s.skip > 0:
		b := a.As16()
		s.quad = binary.BigEndian.Uint32(b[12:])
	default:
		s.addr = a.As16()
		s.is6 = a.Zone() == "" || scopeExists(s.addr, a.Zone(), hasInterface)
	}
}

// matchAddress is string_match for an address.
func (d *decider) matchAddress(p *compatString, s *addressSubject) bool {
	if p.kind != stringIPv6 {
		return p.match(s.plain())
	}
	s.parse(d.environment.HasInterface)
	return p.valid && s.is6 && p.addr == s.addr
}

// matchString is string_match for what is no address.
func (d *decider) matchString(p *compatString, s subject) bool {
	if p.kind != stringIPv6 {
		return p.match(s.plain())
	}
	if !p.valid {
		return false
	}
	addr, ok := numericIPv6(s.plain(), d.environment.HasInterface)
	return ok && p.addr == addr
}

// match compares texts.
func (p *compatString) match(plain string) bool {
	switch p.kind {
	case stringGlob:
		return matchGlob(p.text, plain)
	case stringSuffix:
		return len(plain) > len(p.text) && hasSuffixFold(plain, p.text)
	case stringAll:
		return true
	case stringKnown:
		return !equalFold(plain, unknown)
	case stringPrefix:
		return hasPrefixFold(plain, p.text)
	}
	return equalFold(p.text, plain)
}

// match is masked_match. An address that is written ::ffff:a01:203 counts as
// IPv6, as in libwrap.
func (m *compatMask) match(s *addressSubject, hasInterface func(string) bool) bool {
	s.parse(hasInterface)
	if s.quad != noAddress {
		return m.is4 && s.quad&m.mask4 == m.net
	}
	if !m.is6 || !s.is6 {
		return false
	}
	return netip.PrefixFrom(netip.AddrFrom16(m.net6), m.bits).Contains(netip.AddrFrom16(s.addr))
}
