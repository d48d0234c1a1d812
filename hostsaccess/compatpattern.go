package hostsaccess

import (
	"strings"
)

// compatHostKind says which test of libwrap's host_match a pattern goes through.
type compatHostKind uint8

const (
	compatText     compatHostKind = iota // string_match of address, then of name
	compatNetgroup                       // @group
	compatFile                           // /file
	compatKnown                          // KNOWN
	compatLocal                          // LOCAL
	compatMasked                         // net/mask
	compatLoop                           // a pattern file inside itself
)

// compatHost is a pattern for a host, worked out as far as it goes without one.
type compatHost struct {
	kind compatHostKind
	text compatString // of compatText; the file of compatFile, the group of compatNetgroup
	name bool         // of compatText: it is compared with host names too
	mask *compatMask
}

// compatMask is net/mask: for IPv4, for IPv6, or for neither.
type compatMask struct {
	net, mask4 uint32
	is4        bool

	net6 [16]byte
	bits int
	is6  bool
}

// compatStringKind says how libwrap's string_match reads a pattern.
type compatStringKind uint8

const (
	stringExact compatStringKind = iota
	stringGlob
	stringSuffix
	stringAll
	stringKnown
	stringPrefix
	stringIPv6 // [x]; never matches unless x is an IPv6 address
)

// compatString is a pattern for a text.
type compatString struct {
	kind  compatStringKind
	text  string
	addr  [16]byte
	valid bool // addr is one
}

// compatDaemon is one pattern of a daemon list.
type compatDaemon struct {
	name   compatString
	port   uint16
	isPort bool
	at     *compatHost // nil for any
}

// compatClient is one pattern of a client list.
type compatClient struct {
	user *compatString // nil for any
	host compatHost
}

// compatParser reads patterns. Their meaning depends on the interfaces.
type compatParser struct{ environment *Environment }

func (p *compatParser) ipv6(s string) ([16]byte, bool) {
	return numericIPv6(s, p.environment.HasInterface)
}

// string classifies in the order of string_match.
func (p *compatParser) string(s string) compatString {
	c := compatString{text: s}
	switch {
	case strings.ContainsAny(s, "*?"):
		c.kind, c.text = stringGlob, compatGlob(s)
	case strings.HasPrefix(s, "."):
		c.kind = stringSuffix
	case equalFold(s, "ALL"):
		c.kind = stringAll
	case equalFold(s, "KNOWN"):
		c.kind = stringKnown
	case strings.HasSuffix(s, "."):
		c.kind = stringPrefix
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"):
		c.kind = stringIPv6
		c.addr, c.valid = p.ipv6(s[1 : len(s)-1])
	}
	return c
}

// compatGlob rewrites a pattern that ends in several "*" to what libwrap makes
// of them: one byte at least (match_pattern_ylo gives up at the end of the
// string where a "*" follows a "*").
func compatGlob(s string) string {
	trimmed := strings.TrimRight(s, "*")
	if len(s)-len(trimmed) < 2 {
		return s
	}
	return trimmed + "?*"
}

// host classifies in the order of host_match.
func (p *compatParser) host(s string) compatHost {
	switch {
	case strings.HasPrefix(s, "@"):
		return compatHost{kind: compatNetgroup, text: compatString{text: s[1:]}}
	case strings.HasPrefix(s, "/"):
		return compatHost{kind: compatFile, text: compatString{text: s}}
	case equalFold(s, "KNOWN"):
		return compatHost{kind: compatKnown}
	case equalFold(s, "LOCAL"):
		return compatHost{kind: compatLocal}
	}
	if net, mask, found := CompatSplit(s, '/'); found {
		return compatHost{kind: compatMasked, mask: p.mask(net, mask)}
	}
	return compatHost{text: p.string(s), name: strings.Trim(s, "0123456789./") != ""}
}

// mask reads net/mask as masked_match does, for either family.
func (p *compatParser) mask(net, mask string) *compatMask {
	m := &compatMask{net: dotQuad(net), mask4: dotQuad(mask)}
	if m.mask4 == noAddress {
		m.mask4 = cidrMask(mask)
		m.is4 = m.mask4 != 0
	} else {
		m.is4 = true
	}
	m.is4 = m.is4 && m.net != noAddress
	if strings.HasPrefix(net, "[") && strings.HasSuffix(net, "]") {
		m.net6, m.is6 = p.ipv6(net[1 : len(net)-1])
		m.bits = int(atoi(mask))
		m.is6 = m.is6 && 0 <= m.bits && m.bits <= 128
	}
	return m
}

// daemon reads process, port, process@host and port@host.
func (p *compatParser) daemon(s string) compatDaemon {
	process, host, found := splitBehindFirst(s)
	d := compatDaemon{name: p.string(process)}
	if port, ok := scanUint(process, 10); ok && port <= 0xffff {
		d.port, d.isPort = uint16(port), true
	}
	if found {
		h := p.host(host)
		d.at = &h
	}
	return d
}

// client reads host and user@host.
func (p *compatParser) client(s string) compatClient {
	user, host, found := splitBehindFirst(s)
	if !found {
		return compatClient{host: p.host(s)}
	}
	u := p.string(user)
	return compatClient{user: &u, host: p.host(host)}
}

// splitBehindFirst cuts at the first "@" behind the first byte, outside brackets.
func splitBehindFirst(s string) (before, after string, found bool) {
	before, after, found = CompatSplit(s[1:], '@')
	return s[:1+len(before)], after, found
}

// compatList cuts a field into terms between EXCEPTs.
func compatList[P any](field string, pattern func(string) P) List[P] {
	l := List[P]{Terms: make([]Term[P], 1)}
	for word := range strings.FieldsFuncSeq(field, isListSeparator) {
		if equalFold(word, "EXCEPT") {
			l.Terms = append(l.Terms, Term[P]{})
			continue
		}
		t := &l.Terms[len(l.Terms)-1]
		t.Patterns = append(t.Patterns, pattern(word))
	}
	return l
}

func isListSeparator(r rune) bool { return r < 0x80 && strings.IndexByte(blanks, byte(r)) >= 0 }

// compatEval works out a list. Unlike eval it goes from left to right and no
// further than it must, as list_match does: looking at a pattern may mean to
// look up a name. So "a EXCEPT" is a, and "EXCEPT a" is nothing.
func compatEval[P any](l *List[P], match func(*P) bool) bool {
	for i := range l.Terms {
		found := false
		for j := range l.Terms[i].Patterns {
			if found = match(&l.Terms[i].Patterns[j]); found {
				break
			}
		}
		negative := i%2 == 1
		if !found {
			return negative
		}
		if i == len(l.Terms)-1 {
			return !negative
		}
	}
	return false
}
