package firewall

import (
	"encoding/binary"
	"net/netip"
	"reflect"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// The rules in the kernel, as expressions of its virtual machine. Registers are
// numbered as the kernel's dumps do: 1 is the first of 16 bytes, 9 its second
// four.

// isFamily passes packets of IPv4 or IPv6.
func isFamily(six bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if six {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// serviceRules are the rules of a service's chain.
func serviceRules(c ruleset.Chain) [][]expr.Any {
	return [][]expr.Any{
		allowRule(c, false),
		allowRule(c, true),
		{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}},
	}
}

func allowRule(c ruleset.Chain, six bool) []expr.Any {
	offset, length := uint32(12), uint32(4) // saddr in struct iphdr
	if six {
		offset, length = 8, 16 // in struct ipv6hdr
	}
	rule := append(isFamily(six),
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: ruleset.NFTSet(c.Set, six)},
		&expr.Counter{},
	)
	if m := c.Mark; m != (ruleset.Mark{}) {
		rule = append(rule,
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^m.Mask), Xor: native(m.Value & m.Mask)},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		)
	}
	return append(rule, &expr.Verdict{Kind: expr.VerdictAccept})
}

// portRules are the rules of a port's chain.
func portRules(service string) [][]expr.Any {
	return [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictJump, Chain: ruleset.NFTChain(service)}}}
}

// portChain recognises a port's chain by its rules and returns the service's.
func portChain(rules [][]expr.Any) string {
	if len(rules) == 1 && len(rules[0]) == 1 {
		if v, ok := rules[0][0].(*expr.Verdict); ok && v.Kind == expr.VerdictJump {
			if name, ours := ruleset.ParseNFTChain(v.Chain); ours {
				return name
			}
		}
	}
	return ruleset.Unknown
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// baseRules are the rules of the base chain. This host's own packets pass: those
// over the loopback interface, to whichever of its addresses, and its own IPv4
// broadcasts and multicasts, of which the kernel gives back a copy on the
// interface that they left by. From outside, the kernel refuses IPv4 packets
// with a source that is ours; IPv6 ones it takes, so there the source proves
// nothing.
func baseRules() [][]expr.Any {
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")
	return [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: lo},
			&expr.Verdict{Kind: expr.VerdictAccept},
		},
		append(isFamily(false),
			&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(unix.RTN_LOCAL)},
			&expr.Verdict{Kind: expr.VerdictAccept},
		),
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 9, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: ruleset.NFTPorts, IsDestRegSet: true},
		},
	}
}

// sameRules compares rules from the kernel with those that should be there,
// leaving out what the kernel counts and numbers.
func sameRules(got, want [][]expr.Any) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if len(got[i]) != len(want[i]) {
			return false
		}
		for j := range got[i] {
			if !reflect.DeepEqual(plain(got[i][j]), plain(want[i][j])) {
				return false
			}
		}
	}
	return true
}

func plain(e expr.Any) expr.Any {
	switch e := e.(type) {
	case *expr.Counter:
		return &expr.Counter{}
	case *expr.Lookup:
		p := *e
		p.SetID = 0
		return &p
	}
	return e
}

// chainOf recognises a service's chain by its rules.
func chainOf(rules [][]expr.Any) ruleset.Chain {
	c := ruleset.Chain{Set: ruleset.Unknown}
	if len(rules) == 0 {
		return c
	}
	guess := ruleset.Chain{}
	for _, e := range rules[0] {
		switch e := e.(type) {
		case *expr.Lookup:
			guess.Set, _ = ruleset.ParseNFTSet(e.SetName, false)
		case *expr.Bitwise:
			if len(e.Mask) == 4 && len(e.Xor) == 4 {
				guess.Mark = ruleset.Mark{Value: binary.NativeEndian.Uint32(e.Xor), Mask: ^binary.NativeEndian.Uint32(e.Mask)}
			}
		}
	}
	if guess.Set != "" && sameRules(rules, serviceRules(guess)) {
		return guess
	}
	return c
}

// portKey is the key of a port in the map: inet_proto . inet_service, each
// padded to four bytes.
func portKey(p ruleset.Port) []byte {
	return []byte{byte(p.Proto), 0, 0, 0, byte(p.Port >> 8), byte(p.Port), 0, 0}
}

func parsePortKey(b []byte) (ruleset.Port, bool) {
	if len(b) != 8 {
		return ruleset.Port{}, false
	}
	return ruleset.Port{Proto: ruleset.Proto(b[0]), Port: binary.BigEndian.Uint16(b[4:])}, true
}

// intervals returns the elements of an interval set that hold the prefixes:
// for each run of addresses its first, and the one behind its last, if any.
func intervals(list []netip.Prefix) []element {
	var out []element
	for _, p := range list {
		first, behind := p.Masked().Addr(), last(p).Next()
		if n := len(out); n > 0 && out[n-1].end && string(out[n-1].key) == string(first.AsSlice()) {
			out = out[:n-1] // goes on where the one before ended
		} else {
			out = append(out, element{key: first.AsSlice()})
		}
		if behind.IsValid() {
			out = append(out, element{key: behind.AsSlice(), end: true})
		}
	}
	return out
}

// last returns the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// prefixes returns the prefixes that make a run of addresses.
func prefixes(first, end netip.Addr) []netip.Prefix {
	var list []netip.Prefix
	for first.IsValid() && !end.Less(first) {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || end.Less(last(wider)) {
				break
			}
			p = wider
		}
		list = append(list, p)
		first = last(p).Next()
	}
	return list
}
