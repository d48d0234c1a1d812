package rpcbind

import (
	"bytes"
	"net/netip"
	"strconv"
)

// maxUAddr is longer than any universal address of IP: an IPv6 address with
// the longest zone that an interface name allows, and a port.
const maxUAddr = 96

// ParseUAddr reads a universal address of IPv4 or IPv6, "h1.h2.h3.h4.p1.p2" or
// "x1:x2:...:x8.p1.p2" with an optional "%zone" before the port. RFC 5665,
// Sections 5.2.3.3 and 5.2.3.4. It does not allocate for addresses without a zone.
func ParseUAddr(s []byte) (netip.AddrPort, bool) {
	if len(s) > maxUAddr {
		return netip.AddrPort{}, false
	}
	host, low, ok := cutOctet(s)
	if !ok {
		return netip.AddrPort{}, false
	}
	host, high, ok := cutOctet(host)
	if !ok {
		return netip.AddrPort{}, false
	}
	addr, ok := parseAddr(host)
	return netip.AddrPortFrom(addr, high<<8|low), ok
}

// cutOctet splits "rest.N" and returns N, which is at most 255.
func cutOctet(s []byte) (rest []byte, n uint16, ok bool) {
	dot := bytes.LastIndexByte(s, '.')
	if dot < 0 || dot+1 == len(s) || len(s)-dot > 4 {
		return nil, 0, false
	}
	for _, c := range s[dot+1:] {
		if c < '0' || c > '9' {
			return nil, 0, false
		}
		n = n*10 + uint16(c-'0')
	}
	return s[:dot], n, n <= 255
}

// parseAddr is netip.ParseAddr for bytes. A message carries many addresses that
// do not parse, so the usual forms must not cost an allocation either way.
func parseAddr(s []byte) (netip.Addr, bool) {
	if bytes.IndexByte(s, ':') < 0 {
		return parseAddr4(s)
	}
	addr, err := netip.ParseAddr(string(s))
	return addr, err == nil
}

func parseAddr4(s []byte) (netip.Addr, bool) {
	var a [4]byte
	for i := 3; i > 0; i-- {
		rest, n, ok := cutOctet(s)
		if !ok {
			return netip.Addr{}, false
		}
		s, a[i] = rest, byte(n)
	}
	if len(s) == 0 || len(s) > 3 {
		return netip.Addr{}, false
	}
	n, err := strconv.ParseUint(string(s), 10, 8)
	if err != nil || s[0] == '+' {
		return netip.Addr{}, false
	}
	a[0] = byte(n)
	return netip.AddrFrom4(a), true
}

// AppendUAddr appends ap as a universal address. An invalid address is written
// as nothing.
func AppendUAddr(b []byte, ap netip.AddrPort) []byte {
	if !ap.Addr().IsValid() {
		return b
	}
	b = ap.Addr().AppendTo(b)
	return appendPort(b, ap.Port())
}

// UAddr returns ap as a universal address.
func UAddr(ap netip.AddrPort) string { return string(AppendUAddr(nil, ap)) }

func appendPort(b []byte, port uint16) []byte {
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(port>>8), 10)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(port&0xff), 10)
}
