package identity

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseAddr reads an address as getaddrinfo(3) takes it: IPv6, or IPv4 in any
// of the forms of inet_aton(3), where 10.1 is 10.0.0.1 and 0x0a000001 too.
func ParseAddr(s string) (netip.Addr, bool) {
	if strings.Contains(s, ":") {
		a, err := netip.ParseAddr(s)
		return a, err == nil
	}
	return parseAton(s)
}

// IsQuad says whether s is an IPv4 address of four numbers, decimal or not.
func IsQuad(s string) bool {
	_, ok := parseAton(s)
	return ok && strings.Count(s, ".") == 3
}

// parseAton is inet_aton(3): up to four numbers, of which the last one fills
// all bytes that are left.
func parseAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, part := range parts {
		bytes := 1
		if i == len(parts)-1 {
			bytes = 4 - i
		}
		n, ok := parseC(part, 8*bytes)
		if !ok {
			return netip.Addr{}, false
		}
		for j := range bytes {
			b[i+j] = byte(n >> (8 * (bytes - 1 - j)))
		}
	}
	return netip.AddrFrom4(b), true
}

// parseC reads a number as C writes it: 0x for hexadecimal, 0 for octal.
func parseC(s string, bits int) (uint64, bool) {
	base := 10
	switch lower := strings.ToLower(s); {
	case strings.HasPrefix(lower, "0x"):
		s, base = s[2:], 16
	case strings.HasPrefix(s, "0") && len(s) > 1:
		base = 8
	}
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, bits)
	return n, err == nil
}
