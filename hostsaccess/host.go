package hostsaccess

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// client reads one pattern of a client list.
func (p *parser) client(t Token) Client {
	before, after, found := splitAt(t.Text)
	if !found {
		return Client{Host: p.host(t)}
	}
	user := t.upTo(before)
	return Client{User: &user, Host: p.host(t.sub(after))}
}

// host classifies a host pattern, in the order of libwrap's host_match.
func (p *parser) host(t Token) Host {
	h := Host{Token: t}
	s := t.Text
	switch {
	case s == "":
		p.error(BadPattern, t.Pos, `nothing stands after "@"`, "name a host, or ALL")
	case strings.HasPrefix(s, "@"):
		h.Kind = HostNetgroup
	case strings.HasPrefix(s, "/"):
		h.Kind = HostFile
	case strings.ContainsAny(s, "[]"):
		p.bracketed(&h)
	case strings.Contains(s, ":"):
		p.unbracketed(t)
	case strings.Contains(s, "/"):
		p.network(&h)
	case strings.Trim(s, "0123456789.") == "":
		p.dotted(&h)
	default:
		h.Kind = p.hostName(t)
	}
	return h
}

// unbracketed reports an IPv6 address without brackets: libwrap cuts the rule
// at its first colon.
func (p *parser) unbracketed(t Token) {
	address, rest, slash := strings.Cut(t.Text, "/")
	if slash {
		rest = "/" + rest
	}
	d := p.error(UnbracketedIPv6, t.Pos, "IPv6 address "+quote(t.Text)+" without brackets", "IPv6 addresses are written [2001:db8::1]").
		reads(NeverMatch, quote(t.Text[:strings.IndexByte(t.Text, ':')])+", with the rest as options")
	if _, err := parseAddr(address); err == nil && allDigits(strings.TrimPrefix(rest, "/")) {
		d.Hint = "write [" + address + "]" + rest
		p.writeHost(d, t, "["+address+"]"+rest)
	}
}

// hostName classifies what is not an address.
func (p *parser) hostName(t Token) HostKind {
	s := t.Text
	switch strings.ToUpper(s) {
	case "ALL":
		return HostAll
	case "KNOWN":
		return HostKnown
	case "LOCAL":
		return HostLocal
	case "UNKNOWN":
		return HostUnknown
	case "PARANOID":
		return HostParanoid
	}
	switch {
	case strings.ContainsFunc(s, notHostByte):
		hint := "host names have letters, digits, hyphens and dots"
		if strings.Contains(s, `\`) {
			hint = `a "\" continues a line only as its very last byte`
		}
		p.error(BadPattern, t.Pos, quote(s)+" is neither an address nor a host name", hint)
		return HostInvalid
	case len(s) > libwrapName:
		p.report(Warning, LongName, t.Pos, "the name has more than 127 bytes",
			"libwrap cuts the names of clients at 127 bytes, so that it never matches this one", "write addresses").reads(NeverMatch, "")
	}
	switch {
	case strings.ContainsAny(s, "*?"):
		p.addressGlob(t)
		return HostGlob
	case s[0] == '.':
		return HostSuffix
	case s[len(s)-1] == '.':
		return HostPrefix
	}
	return HostName
}

// libwrapName is the longest host name that libwrap keeps (tcpd.h,
// STRING_LENGTH less the NUL).
const libwrapName = 127

// addressGlob warns of 10.*, which libwrap also compares with host names: the
// client 198.51.100.1 may call itself 10.example.com.
func (p *parser) addressGlob(t Token) {
	if strings.Trim(t.Text, "0123456789.*?") != "" || strings.Trim(t.Text, ".*?") == "" {
		return
	}
	d := p.report(Warning, AddressGlob, t.Pos, quote(t.Text)+" is compared with host names as well as with addresses",
		"a name is what the owner of its address writes", "write a network: 192.0.2. or 192.0.2.0/24").
		reads(WiderMatch, "a pattern for names too").meets("clients of any address, if their name is like it")
	start, found := strings.CutSuffix(t.Text, ".*")
	if octets, ok := parseOctets(start); found && ok && len(octets) < 4 {
		d.Hint = "write " + start + "."
		d.write(t, start+".")
	}
}

// notHostByte is true of what no host name or glob of one holds.
func notHostByte(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.*?", r))
}

// dotted reads 192.0.2.1 and 192.0.2. (the start of an address).
func (p *parser) dotted(h *Host) {
	s := h.Text
	if a, err := netip.ParseAddr(s); err == nil {
		h.Kind, h.Prefix = HostAddr, netip.PrefixFrom(a, a.BitLen())
		return
	}
	octets, ok := parseOctets(strings.TrimSuffix(s, "."))
	switch {
	case !ok || len(octets) > 4:
		hint := "numbers from 0 to 255, without leading zeros"
		if !strings.Contains(s, ".") {
			hint = "IPv4 addresses have four numbers, IPv6 addresses are written [2001:db8::1]"
		}
		d := p.error(BadAddress, h.Pos, quote(s)+" is not an IPv4 address", hint)
		if s[0] == '.' {
			d.reads(WiderMatch, "the end of an address").meets("every client whose address ends in " + s)
		}
	case len(octets) == 4:
		p.error(BadAddress, h.Pos, quote(s)+" is an address with a dot behind it", "write "+strings.TrimSuffix(s, ".")).
			write(h.Token, strings.TrimSuffix(s, "."))
	case !strings.HasSuffix(s, "."):
		network := padded(octets, 8*len(octets)).String()
		p.error(PartialAddress, h.Pos, quote(s)+" is not a whole IPv4 address", "write "+network).write(h.Token, network)
	default:
		h.Kind, h.Prefix = HostNetPrefix, padded(octets, 8*len(octets))
	}
}

// parseOctets reads numbers from 0 to 255 between dots.
func parseOctets(s string) (octets []byte, ok bool) {
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || len(part) > 1 && part[0] == '0' {
			return nil, false
		}
		if octets = append(octets, byte(n)); len(octets) > 4 {
			break
		}
	}
	return octets, true
}

// padded returns the IPv4 network that starts with octets.
func padded(octets []byte, bits int) netip.Prefix {
	var a [4]byte
	copy(a[:], octets)
	return netip.PrefixFrom(netip.AddrFrom4(a), bits)
}

// network reads address/bits and address/mask for IPv4.
func (p *parser) network(h *Host) {
	address, mask, _ := strings.Cut(h.Text, "/")
	a, err := netip.ParseAddr(address)
	if err != nil {
		p.badNetwork(h, address, mask)
		return
	}
	p.deadMask(h, address, mask)
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
		p.masked(h, a, m)
		return
	}
	if bits, ok := p.prefixLength(h, mask, 32); ok {
		p.prefix(h, a, bits, func(n netip.Prefix) string { return n.String() })
	}
}

// deadMask warns of two masks that mean here what they say, and in libwrap
// nothing: it takes 0 bits for a mistake, and 255.255.255.255 too, since that
// is the number of INADDR_NONE (hosts_access.c, masked_match).
func (p *parser) deadMask(h *Host, address, mask string) {
	instead := ""
	switch mask {
	case "0":
		instead = "0.0.0.0/0.0.0.0"
	case "255.255.255.255":
		instead = address
	default:
		return
	}
	p.report(Warning, DeadMask, h.Pos, "libwrap never matches "+quote(h.Text), "it counts as it is written here, and not at all there", "write "+instead).
		reads(NeverMatch, "").write(h.Token, instead)
}

// badNetwork reports what stands in front of a "/" and is no address.
func (p *parser) badNetwork(h *Host, address, mask string) {
	octets, ok := parseOctets(strings.TrimSuffix(address, "."))
	bits, err := strconv.ParseUint(mask, 10, 6)
	switch {
	case ok && len(octets) < 4 && err == nil && bits <= 32:
		network := padded(octets, int(bits)).Masked().String()
		p.error(PartialAddress, h.Pos, quote(h.Text)+" is not a whole IPv4 network", "write "+network).write(h.Token, network)
	case ok && len(octets) < 4:
		p.error(PartialAddress, h.Pos, quote(h.Text)+" is not a whole IPv4 network", "write all four numbers of the address")
	default:
		p.error(BadAddress, h.Pos, quote(address)+` in front of "/" is not an IPv4 address`, "write 192.0.2.0/24 or [2001:db8::]/32, numbers without leading zeros")
	}
}

// prefixLength reads a decimal number of bits.
func (p *parser) prefixLength(h *Host, s string, most int) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || int(n) > most || len(s) > 1 && s[0] == '0' {
		hint := fmt.Sprintf("write a number from 0 to %d", most)
		if most == 32 {
			hint += " or a mask such as 255.255.255.0"
		}
		p.error(BadMask, h.Pos, quote("/"+s)+" is not a prefix length", hint).libwrapBits(s, most)
		return 0, false
	}
	return int(n), true
}

// libwrapBits says what libwrap makes of a wrong prefix length: atoi(3) reads
// the digits at its start, and finds 0 where there are none.
func (d *Diagnostic) libwrapBits(s string, most int) {
	digits := s[:len(s)-len(strings.TrimLeft(strings.TrimPrefix(s, "+"), "0123456789"))]
	n, err := strconv.Atoi(digits)
	switch {
	case digits == "" && most == 128:
		d.reads(WiderMatch, "/0").meets("every IPv6 client")
	case err != nil || n > most || n == 0 && most == 32:
		d.reads(NeverMatch, "")
	default:
		d.reads(AsWritten, "/"+strconv.Itoa(n))
	}
}

// prefix sets a network, which must be written without host bits: libwrap
// never matches one that has them, for IPv4, and cuts them off, for IPv6.
func (p *parser) prefix(h *Host, a netip.Addr, bits int, write func(netip.Prefix) string) {
	network := netip.PrefixFrom(a, bits)
	if masked := network.Masked(); masked != network {
		d := p.error(HostBits, h.Pos, quote(h.Text)+" has bits set behind the network", "write "+write(masked)+" for the network, or the address alone").
			write(h.Token, write(masked))
		if a.Is6() {
			d.reads(AsWritten, "the network "+write(masked))
		}
		return
	}
	h.Kind, h.Prefix = HostNetwork, network
}

// masked sets a network given by a mask, which may have holes.
func (p *parser) masked(h *Host, a, mask netip.Addr) {
	bits := uint32From4(mask.As4())
	ones := 0
	for bits<<ones>>31 == 1 && ones < 32 {
		ones++
	}
	if bits<<ones == 0 || ones == 32 {
		p.prefix(h, a, ones, func(n netip.Prefix) string { return n.Addr().String() + "/" + mask.String() })
		return
	}
	cut := masked4(a.As4(), mask.As4())
	if cut != a.As4() {
		network := fmt.Sprintf("%v/%v", netip.AddrFrom4(cut), mask)
		p.error(HostBits, h.Pos, quote(h.Text)+" has bits set where the mask has none", "write "+network).write(h.Token, network)
		return
	}
	h.Kind, h.Addr, h.Mask = HostMask, cut, mask.As4()
}

func masked4(a, mask [4]byte) [4]byte {
	for i := range a {
		a[i] &= mask[i]
	}
	return a
}

func uint32From4(b [4]byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// bracketed reads [address] and [address]/bits for IPv6.
func (p *parser) bracketed(h *Host) {
	inner, after, closed := strings.Cut(strings.TrimPrefix(h.Text, "["), "]")
	if !closed || h.Text[0] != '[' || strings.ContainsAny(inner+after, "[]") {
		p.unbalanced(h)
		return
	}
	length, network := strings.CutPrefix(after, "/")
	if after != "" && !network {
		p.error(BadPattern, h.Pos, quote(after)+` behind "]"`, "write [2001:db8::1] or [2001:db8::]/32")
		return
	}
	a, err := parseAddr(inner)
	if err != nil || a.Is4() {
		p.badBracketed(h, inner, after)
		return
	}
	h.Zone = a.Zone()
	a = a.WithZone("")
	if !network {
		h.Kind, h.Prefix = HostAddr, netip.PrefixFrom(a, 128)
	} else if bits, ok := p.prefixLength(h, length, 128); ok {
		p.prefix(h, a, bits, func(n netip.Prefix) string { return bracket(n, h.Zone) })
	}
	p.checkIPv6(h)
}

// unbalanced reports brackets of which one is missing. From there on libwrap
// finds no ":" that ends a field.
func (p *parser) unbalanced(h *Host) {
	d := p.error(UnbalancedBracket, h.Pos, "unbalanced brackets in "+quote(h.Text), "IPv6 addresses are written [2001:db8::1]")
	address, length, network := strings.Cut(strings.Trim(h.Text, "[]"), "/")
	if a, err := parseAddr(strings.TrimSuffix(address, "]")); err != nil || !a.Is6() {
		return
	}
	instead := "[" + strings.TrimSuffix(address, "]") + "]"
	if network {
		instead += "/" + length
	}
	p.writeHost(d, h.Token, instead)
}

// writeHost is write for a pattern that may have yet another mistake: then no
// text is the one right one, unless that mistake has its own.
func (p *parser) writeHost(d *Diagnostic, t Token, text string) {
	if p.trial {
		return
	}
	q := &parser{file: &File{}, trial: true}
	q.host(Token{Text: text, Offset: t.Offset, End: t.Offset + len(text)})
	for _, other := range q.found.list {
		if other.Severity == Error && other.Fix == nil {
			return
		}
	}
	d.write(t, text)
}

// parseAddr is netip.ParseAddr for scopes that an interface can have; netip
// takes any bytes for one.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && strings.ContainsFunc(a.Zone(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return netip.Addr{}, fmt.Errorf("scope %q is no interface", a.Zone())
	}
	return a, err
}

// bracket writes an IPv6 network as these files do.
func bracket(n netip.Prefix, zone string) string {
	return fmt.Sprintf("[%v]/%d", n.Addr().WithZone(zone), n.Bits())
}

// badBracketed reports what stands in brackets and is no IPv6 address.
func (p *parser) badBracketed(h *Host, inner, after string) {
	hint, instead := "write [2001:db8::1] or [2001:db8::]/32", ""
	address, length, _ := strings.Cut(inner, "/")
	a, err := parseAddr(address)
	switch {
	case err != nil:
	case a.Is4():
		instead = inner + after
		hint = "write " + quote(instead) + ", without brackets"
	case length != "" && after == "":
		instead = "[" + address + "]/" + length
		hint = "write " + quote(instead)
	}
	d := p.error(BadAddress, h.Pos, quote(inner)+" in brackets is not an IPv6 address", hint)
	if instead != "" {
		p.writeHost(d, h.Token, instead)
	}
}

// checkIPv6 turns IPv4-mapped patterns into what they mean, since an
// IPv4-mapped caller is an IPv4 caller, and warns of a whole world too small.
func (p *parser) checkIPv6(h *Host) {
	n := h.Prefix
	if n.IsValid() && n.Addr().Is4In6() && n.Bits() >= 96 {
		h.Prefix = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		p.report(Warning, MappedAddress, h.Pos, quote(h.Text)+" is an IPv4 address written as IPv6",
			"it is taken for "+h.Prefix.String()+" here; libwrap never matches it", "write "+h.Prefix.String()).
			reads(NeverMatch, "").write(h.Token, h.Prefix.String())
	}
	if n.IsValid() && n.Bits() == 0 {
		p.report(Warning, OnlyIPv6, h.Pos, quote(h.Text)+" is every IPv6 address, not every host",
			"IPv4 clients are not meant by it", "write ALL, or add 0.0.0.0/0")
	}
}

// match says whether the pattern describes the host at addr, which is valid
// and not IPv4-mapped.
func (h *Host) match(addr netip.Addr) truth {
	switch {
	case h.Kind == HostAll:
		return yes
	case h.Kind == HostMask:
		return truthOf(addr.Is4() && masked4(addr.As4(), h.Mask) == h.Addr)
	case !h.Kind.Numeric():
		return maybe
	case !h.Prefix.Contains(addr.WithZone("")):
		return no
	}
	return sameZone(h.Zone, addr.Zone())
}

// sameZone compares the scope of a pattern, "" for any, with a host's. A name
// and a number may mean the same interface: finding out is left to nobody.
func sameZone(pattern, zone string) truth {
	switch {
	case pattern == "" || pattern == zone:
		return yes
	case zone == "" || allDigits(pattern) != allDigits(zone):
		return maybe
	}
	return no
}

func allDigits(s string) bool { return !strings.ContainsFunc(s, notDigit) }

// Numeric says whether the address alone decides if the pattern matches. Who
// the user is stays unknown: ident says what the client's host wants it to say.
func (c *Client) Numeric() bool { return c.Host.Kind.Numeric() && c.anyUser() }

func (c *Client) anyUser() bool { return c.User == nil || strings.EqualFold(c.User.Text, "ALL") }

// match says whether the pattern describes a client at addr.
func (c *Client) match(addr netip.Addr) truth {
	t := c.Host.match(addr)
	if !c.anyUser() {
		t = t.and(maybe)
	}
	return t
}
