package policy

import (
	"encoding/binary"
	"net/netip"
)

// SourcePrefix is the part of a source address that stands for one customer,
// who may use, or forge, all addresses of it: /24 of IPv4, /56 of IPv6, as
// BIND's response rate limiting takes them. It is never 0.
type SourcePrefix uint64

// The upper 56 bits are of the address, the lower 8 tell the family.
const (
	sourceBits4 = 24
	sourceBits6 = 56

	family4    = 4
	family6    = 6
	familyMask = 0xff
)

// SourcePrefixOf returns the prefix that addr is in. An IPv4 address mapped
// into IPv6 is in that of the IPv4 address; zones make no difference.
func SourcePrefixOf(addr netip.Addr) SourcePrefix {
	if addr.Is4() || addr.Is4In6() {
		a := addr.As4()
		return SourcePrefix(binary.BigEndian.Uint32(a[:])&^familyMask | family4)
	}
	a := addr.As16()
	return SourcePrefix(binary.BigEndian.Uint64(a[:])&^familyMask | family6)
}

// Prefix returns p as addresses: 192.0.2.0/24.
func (p SourcePrefix) Prefix() netip.Prefix {
	if p&familyMask == family4 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(p&^familyMask))
		return netip.PrefixFrom(netip.AddrFrom4(a), sourceBits4)
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], uint64(p&^familyMask))
	return netip.PrefixFrom(netip.AddrFrom16(a), sourceBits6)
}

// String returns the prefix as it is written in rules.
func (p SourcePrefix) String() string { return p.Prefix().String() }
