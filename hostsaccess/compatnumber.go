package hostsaccess

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
)

// This file reads numbers and addresses as the C library does, which libwrap
// leaves them to: inet_addr, atoi, sscanf and getaddrinfo of glibc 2.36.

// noAddress is INADDR_NONE, inet_addr's answer to what is no address, and to
// 255.255.255.255.
const noAddress = math.MaxUint32

// dotQuad is libwrap's dot_quad_addr: inet_addr of what has four runs of other
// bytes than dots.
func dotQuad(s string) uint32 {
	runs := 0
	for i := range len(s) {
		if s[i] != '.' && (i == 0 || s[i-1] == '.') {
			runs++
		}
	}
	if runs != 4 {
		return noAddress
	}
	return inetAddr(s)
}

// inetAddr is inet_addr(3), in host order: up to four numbers, decimal, octal
// or hexadecimal, the last one filling up the rest; anything after a blank.
func inetAddr(s string) uint32 {
	var high uint32
	for part := 0; ; part++ {
		n, rest, ok := inetNumber(s)
		if !ok {
			return noAddress
		}
		if strings.HasPrefix(rest, ".") {
			if part == 3 || n > 0xff {
				return noAddress
			}
			high |= uint32(n) << (24 - 8*part)
			s = rest[1:]
			continue
		}
		if rest != "" && !isSpace(rest[0]) || n > math.MaxUint32>>(8*part) {
			return noAddress
		}
		return high | uint32(n)
	}
}

// inetNumber reads one number of an address as strtoul does for base 0.
func inetNumber(s string) (n uint64, rest string, ok bool) {
	if s == "" || !isDigit(s[0]) {
		return 0, s, false
	}
	base, i := uint64(10), 0
	switch {
	case len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && digit(s[2]) < 16:
		base, i = 16, 2
	case s[0] == '0':
		base = 8
	}
	for ; i < len(s) && digit(s[i]) < base; i++ {
		if n = n*base + digit(s[i]); n > math.MaxUint32 {
			return 0, s, false
		}
	}
	return n, s[i:], true
}

// digit returns the value of a digit in bases up to 16, or more.
func digit(c byte) uint64 {
	switch {
	case isDigit(c):
		return uint64(c - '0')
	case 'a' <= c && c <= 'f':
		return uint64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return uint64(c-'A') + 10
	}
	return math.MaxUint64
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isSpace is isspace(3) in the C locale.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// integer is the number at the start of a string.
type integer struct {
	abs      uint64
	negative bool
	overflow bool // abs is too large for 64 bits
	found    bool
	rest     string
}

// scanInteger reads blanks, a sign and digits.
func scanInteger(s string, base uint64) (n integer) {
	i := 0
	for i < len(s) && isSpace(s[i]) {
		i++
	}
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		n.negative = s[i] == '-'
		i++
	}
	start := i
	for ; i < len(s) && digit(s[i]) < base; i++ {
		n.overflow = n.overflow || n.abs > (math.MaxUint64-digit(s[i]))/base
		n.abs = n.abs*base + digit(s[i])
	}
	n.found, n.rest = i > start, s[i:]
	return n
}

// long is what strtol(3) makes of it: it stops at the ends of its range.
func (n integer) long() int64 {
	switch {
	case n.negative && (n.overflow || n.abs > 1<<63):
		return math.MinInt64
	case n.negative:
		return -int64(n.abs)
	case n.overflow || n.abs > math.MaxInt64:
		return math.MaxInt64
	}
	return int64(n.abs)
}

// unsigned is what strtoul(3) makes of it, which takes a sign too.
func (n integer) unsigned() uint64 {
	switch {
	case n.overflow:
		return math.MaxUint64
	case n.negative:
		return -n.abs
	}
	return n.abs
}

// atoi is atoi(3): the number at the start of s, 0 if there is none, cut to 32 bits.
func atoi(s string) int32 { return int32(scanInteger(s, 10).long()) }

// scanInt reads all of s as sscanf's %d does: cut to 32 bits.
func scanInt(s string) (int, bool) {
	n := scanInteger(s, 10)
	return int(int32(n.long())), n.found && n.rest == ""
}

// scanUint reads all of s as sscanf's %u and %o do: cut to 32 bits.
func scanUint(s string, base uint64) (uint32, bool) {
	n := scanInteger(s, base)
	return uint32(n.unsigned()), n.found && n.rest == ""
}

// cidrMask is libwrap's cidr_mask_addr: 0 unless the length is from 1 to 32.
func cidrMask(s string) uint32 {
	n := atoi(s)
	if n < 1 || n > 32 {
		return 0
	}
	return math.MaxUint32 << (32 - n)
}

// numericIPv6 is getaddrinfo(3) for AF_INET6 and AI_NUMERICHOST. The scope
// must exist, but is lost: libwrap compares addresses alone.
func numericIPv6(s string, hasInterface func(string) bool) (a [16]byte, ok bool) {
	address, scope, scoped := strings.Cut(s, "%")
	if strings.IndexByte(address, ':') < 0 {
		return a, false // without the error that netip would make
	}
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Is4() {
		return a, false
	}
	a = ip.As16()
	return a, !scoped || scopeExists(a, scope, hasInterface)
}

// scopeExists is glibc's __inet6_scopeid_pton: an interface, for addresses
// that are unique on a link only, or a number.
func scopeExists(a [16]byte, scope string, hasInterface func(string) bool) bool {
	link := a[0] == 0xfe && a[1]&0xc0 == 0x80 || a[0] == 0xff && (a[1]&0xf == 1 || a[1]&0xf == 2)
	if link && hasInterface != nil && hasInterface(strings.Clone(scope)) { // a clone: scope may lie on the stack
		return true
	}
	if scope == "" || !isDigit(scope[0]) {
		return false
	}
	n := scanInteger(scope, 10)
	return n.rest == "" && n.unsigned() <= math.MaxUint32
}

// appendAddr writes an address as getnameinfo(3) does. It differs from netip
// in what follows 96 bits of 0: glibc takes that for an IPv4 address.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.Is6() {
		return a.AppendTo(b)
	}
	bytes := a.As16()
	high, middle := binary.BigEndian.Uint64(bytes[:8]), binary.BigEndian.Uint32(bytes[8:])
	if high != 0 || middle != 0 || bytes[12] == 0 && bytes[13] == 0 {
		return a.AppendTo(b)
	}
	b = netip.AddrFrom4([4]byte(bytes[12:])).AppendTo(append(b, "::"...))
	if a.Zone() != "" {
		b = append(append(b, '%'), a.Zone()...)
	}
	return b
}

// equalFold, hasPrefixFold and hasSuffixFold compare ASCII letters in any
// case, as strcasecmp does in the C locale.
func equalFold(a, b string) bool { return len(a) == len(b) && hasPrefixFold(a, b) }

func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if s[i] != prefix[i] && lower(s[i]) != lower(prefix[i]) {
			return false
		}
	}
	return true
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && hasPrefixFold(s[len(s)-len(suffix):], suffix)
}
