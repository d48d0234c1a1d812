package ruleset

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Addresses is an immutable set of source addresses, held as the fewest
// prefixes. Two sets with the same addresses are Equal and have the same ID.
// A nil *Addresses is nobody.
type Addresses struct {
	id     string
	v4, v6 []netip.Prefix // sorted, disjoint, no two halves of one prefix
}

// idLength is the length of an ID in hexadecimal digits, short enough for the
// names of ipset (31 bytes) and long enough that no two sets of a host share it.
const idLength = 12

// NewAddresses returns the set of what the prefixes hold, in any order and with
// overlaps. IPv4-mapped prefixes and invalid ones are left out: no packet has
// such a source.
func NewAddresses(prefixes ...[]netip.Prefix) *Addresses {
	var v4, v6 []netip.Prefix
	for _, list := range prefixes {
		for _, p := range list {
			switch {
			case p.Addr().Is4():
				v4 = append(v4, p.Masked())
			case p.IsValid() && !p.Addr().Is4In6():
				v6 = append(v6, p.Masked())
			}
		}
	}
	a := &Addresses{v4: fewest(v4), v6: fewest(v6)}
	h := sha256.New()
	for _, p := range append(slices.Clone(a.v4), a.v6...) {
		b, _ := p.MarshalBinary() // never fails
		h.Write(append(b, byte(len(b))))
	}
	a.id = hex.EncodeToString(h.Sum(nil))[:idLength]
	return a
}

// Nobody has no addresses.
var Nobody = NewAddresses()

// IPv4 and IPv6 return the prefixes, in order. They must not be written to.
func (a *Addresses) IPv4() []netip.Prefix {
	if a == nil {
		return nil
	}
	return a.v4
}

// IPv6 is IPv4 for the other family.
func (a *Addresses) IPv6() []netip.Prefix {
	if a == nil {
		return nil
	}
	return a.v6
}

// Len returns the number of prefixes.
func (a *Addresses) Len() int { return len(a.IPv4()) + len(a.IPv6()) }

// ID names the content: the same on each start and each host.
func (a *Addresses) ID() string {
	if a == nil {
		return Nobody.id
	}
	return a.id
}

// Equal reports whether the same addresses are in both.
func (a *Addresses) Equal(b *Addresses) bool {
	return a == b || slices.Equal(a.IPv4(), b.IPv4()) && slices.Equal(a.IPv6(), b.IPv6())
}

// Contains reports whether an address is in the set. An IPv4-mapped address is
// looked up as IPv4; a zone does not count.
func (a *Addresses) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	list := a.IPv4()
	if addr.Is6() {
		list = a.IPv6()
	}
	i, found := slices.BinarySearchFunc(list, addr, func(p netip.Prefix, addr netip.Addr) int { return p.Addr().Compare(addr) })
	return found || i > 0 && list[i-1].Contains(addr)
}

// mostTold is how many prefixes String tells.
const mostTold = 6

// String lists the prefixes, shortened: "10.0.0.0/8 and 2001:db8::/32".
func (a *Addresses) String() string {
	if a.Len() == 0 {
		return "nobody"
	}
	var words []string
	for _, p := range append(slices.Clone(a.IPv4()), a.IPv6()...) {
		if len(words) == mostTold {
			words = append(words, fmt.Sprintf("%d more", a.Len()-mostTold))
			break
		}
		words = append(words, p.String())
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return words[0]
}

// Intersect returns the addresses that are in both.
func (a *Addresses) Intersect(b *Addresses) *Addresses {
	if a.Equal(b) {
		return a
	}
	return NewAddresses(common(a.IPv4(), b.IPv4()), common(a.IPv6(), b.IPv6()))
}

// common returns what is in both lists of disjoint, sorted prefixes. Of two
// prefixes that overlap, one holds the other.
func common(a, b []netip.Prefix) (both []netip.Prefix) {
	for len(a) > 0 && len(b) > 0 {
		p, q := a[0], b[0]
		switch {
		case p.Overlaps(q) && p.Bits() >= q.Bits():
			both, a = append(both, p), a[1:]
		case p.Overlaps(q):
			both, b = append(both, q), b[1:]
		case p.Addr().Less(q.Addr()):
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return both
}

// Minus returns the addresses of a that are not in b.
func (a *Addresses) Minus(b *Addresses) *Addresses {
	return NewAddresses(without(a.IPv4(), b.IPv4()), without(a.IPv6(), b.IPv6()))
}

// without returns what of a is in none of b.
func without(a, b []netip.Prefix) (rest []netip.Prefix) {
	for _, p := range a {
		first, _ := slices.BinarySearchFunc(b, p, func(q, p netip.Prefix) int {
			if q.Overlaps(p) {
				return 0
			}
			return q.Addr().Compare(p.Addr())
		})
		last := first
		for last < len(b) && b[last].Overlaps(p) {
			last++
		}
		rest = append(rest, carve(p, b[first:last])...)
	}
	return rest
}

// carve returns what is left of p when holes, which all overlap it, are out.
func carve(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if len(holes) == 0 {
		return []netip.Prefix{p}
	}
	if holes[0].Bits() <= p.Bits() {
		return nil
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	at, _ := slices.BinarySearchFunc(holes, low, func(h, low netip.Prefix) int {
		if low.Overlaps(h) {
			return -1
		}
		return 1
	})
	return append(carve(low, holes[:at]), carve(sibling(low), holes[at:])...)
}

// sibling returns the upper half of the prefix whose lower half is p.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	i := p.Bits() - 1
	b[i/8] |= 0x80 >> (i % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// fewest returns the fewest prefixes that hold the same addresses, in order.
func fewest(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(p, q netip.Prefix) int {
		return cmp.Or(p.Addr().Compare(q.Addr()), cmp.Compare(p.Bits(), q.Bits()))
	})
	out := list[:0]
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue // sorted: the one before is the larger
		}
		out = append(out, p)
		for n := len(out); n > 1 && halves(out[n-2], out[n-1]); n = len(out) {
			out = append(out[:n-2], parent(out[n-2]))
		}
	}
	return slices.Clip(out)
}

// halves reports whether two prefixes make one together.
func halves(p, q netip.Prefix) bool {
	return p.Bits() == q.Bits() && p.Bits() > 0 && parent(p) == parent(q) && p != q
}

func parent(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() }
