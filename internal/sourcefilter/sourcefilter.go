// Package sourcefilter writes socket filters (classic BPF, socket(7)
// SO_ATTACH_FILTER) that let packets pass by their source address, so that the
// kernel drops a flood of strangers' packets before they take a place in a
// socket's queue.
//
// A filter passes at least what it is told to pass. Where that has more ranges
// than a filter has room for, neighbours are joined, and where IPv6 prefixes
// are longer than 64 bits, their whole /64 passes: whoever reads the socket
// decides all the same.
package sourcefilter

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Filter says what passes. The zero Filter passes what this host sends itself.
type Filter struct {
	IPv4, IPv6 []netip.Prefix // sources that pass, in any order
	// OneIn lets one in so many of all other packets pass too, to see who sends
	// them; 0 lets none. It must be a power of two.
	OneIn uint32
}

// maxRanges4 and maxRanges6 keep a program below 4096 instructions, which is
// BPF_MAXINSNS in linux/bpf_common.h. At each end of an IPv6 range both words of
// its 64 bits may have to be tested.
const (
	maxRanges4 = 256
	maxRanges6 = 128
)

// Verdicts of a filter: how many bytes of the packet to keep.
var (
	pass = bpf.RetConstant{Val: 0x40000}
	drop = bpf.RetConstant{Val: 0}
)

// Offsets of the source address from the network header, RFC 791 and RFC 8200,
// which is where the kernel's SKF_NET_OFF (linux/filter.h) lets a filter look.
const (
	networkHeader = 0xfff00000 // -0x100000
	source4       = 12
	source6       = 8
)

const (
	etherIPv4     = 0x0800 // ETH_P_IP, linux/if_ether.h
	loopbackIndex = 1      // LOOPBACK_IFINDEX, include/net/flow.h
)

// Program returns the filter as SO_ATTACH_FILTER wants it.
func (f *Filter) Program() ([]bpf.RawInstruction, error) {
	prologue := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: loopbackIndex, SkipTrue: 1},
		pass,
	}
	if f.OneIn > 0 {
		prologue = append(prologue,
			bpf.LoadExtension{Num: bpf.ExtRand},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: f.OneIn - 1, SkipTrue: 1},
			pass)
	}
	four := tree(ranges(f.IPv4, 1, maxRanges4), networkHeader+source4)
	prologue = append(prologue,
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(four))})
	six := tree(ranges(f.IPv6, 2, maxRanges6), networkHeader+source6)
	return bpf.Assemble(slices.Concat(prologue, four, six))
}

// key is the first 64 bits of an address. IPv4 has its address in the upper
// half, and ranges have all values of the lower one.
type key uint64

const (
	wordBits = 32 // of what classic BPF loads at once
	lower    = key(math.MaxUint32)
)

func (k key) upper() uint32 { return uint32(k >> wordBits) }

// span is a range of keys, both ends included.
type span struct{ low, high key }

// ranges returns prefixes as disjoint, ascending ranges, not more than most:
// those that lie closest together are joined.
func ranges(prefixes []netip.Prefix, words, most int) []span {
	all := make([]span, 0, len(prefixes))
	for _, p := range prefixes {
		all = append(all, spanOf(p, words))
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.low, b.low) })
	joined := all[:0]
	for _, s := range all {
		if n := len(joined); n > 0 && (s.low <= joined[n-1].high || s.low == joined[n-1].high+1) {
			joined[n-1].high = max(joined[n-1].high, s.high)
			continue
		}
		joined = append(joined, s)
	}
	return coarsen(joined, most)
}

// spanOf returns the range of a prefix whose key has the given number of words.
func spanOf(p netip.Prefix, words int) span {
	bytes := p.Masked().Addr().AsSlice()
	var low key
	for i := range words * wordBits / 8 {
		low |= key(bytes[i]) << (56 - 8*i)
	}
	bits := min(p.Bits(), words*wordBits)
	return span{low, low | ^key(0)>>bits} // a shift by 64 leaves nothing
}

// coarsen joins the ranges with the smallest gaps between them.
func coarsen(all []span, most int) []span {
	if len(all) <= most {
		return all
	}
	gaps := make([]key, 0, len(all)-1)
	for i := 1; i < len(all); i++ {
		gaps = append(gaps, all[i].low-all[i-1].high)
	}
	slices.Sort(gaps)
	joins := len(all) - most
	limit := gaps[joins-1]
	first, _ := slices.BinarySearch(gaps, limit)
	ties := joins - first // of the gaps as wide as limit, so many close
	joined := all[:1]
	for _, s := range all[1:] {
		last := &joined[len(joined)-1]
		switch gap := s.low - last.high; {
		case gap > limit || gap == limit && ties == 0:
			joined = append(joined, s)
			continue
		case gap == limit:
			ties--
		}
		last.high = s.high
	}
	return joined
}
