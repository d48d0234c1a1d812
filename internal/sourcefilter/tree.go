package sourcefilter

import (
	"math"
	"slices"

	"golang.org/x/net/bpf"
)

// tree returns instructions that pass what is in the ranges, which are disjoint
// and ascending, and drop the rest. They look at the 32 bits at offset and,
// where those do not decide, at the next 32.
func tree(all []span, offset uint32) []bpf.Instruction {
	load := bpf.LoadAbsolute{Off: offset, Size: 4}
	return append([]bpf.Instruction{load}, search(pieces(all, offset))...)
}

// piece is a stretch of the values of a word, from first to where the next
// piece begins, and what becomes of packets that have one of them.
type piece struct {
	first uint32
	then  []bpf.Instruction // a return, or the tree of the next word
}

// search returns a binary search for the piece that the accumulator is in.
func search(all []piece) []bpf.Instruction {
	if len(all) == 1 {
		return all[0].then
	}
	middle := len(all) / 2
	low, high := search(all[:middle]), search(all[middle:])
	test := bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: all[middle].first}
	if len(low) <= math.MaxUint8 {
		test.SkipTrue = uint8(len(low))
		return slices.Concat([]bpf.Instruction{test}, low, high)
	}
	test.SkipFalse = 1
	return slices.Concat([]bpf.Instruction{test, bpf.Jump{Skip: uint32(len(low))}}, low, high)
}

// pieces cuts the values of the upper word where what becomes of them changes.
func pieces(all []span, offset uint32) []piece {
	var list []piece
	firsts := cuts(all)
	for i, first := range firsts {
		last := uint32(math.MaxUint32)
		if i+1 < len(firsts) {
			last = firsts[i+1] - 1
		}
		then := verdict(all, first, last, offset)
		if n := len(list); n > 0 && len(then) == 1 && len(list[n-1].then) == 1 && then[0] == list[n-1].then[0] {
			continue
		}
		list = append(list, piece{first, then})
	}
	return list
}

// cuts returns the values of the upper word at which a new stretch begins: each
// is all inside a range, all outside, or one value long.
func cuts(all []span) []uint32 {
	list := []uint32{0}
	for _, s := range all {
		for _, word := range []uint32{s.low.upper(), s.high.upper()} {
			list = append(list, word)
			if word < math.MaxUint32 {
				list = append(list, word+1)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// verdict returns what becomes of the upper words from first to last.
func verdict(all []span, first, last, offset uint32) []bpf.Instruction {
	stretch := span{key(first) << wordBits, key(last)<<wordBits | lower}
	inside := overlapping(all, stretch)
	switch {
	case len(inside) == 0:
		return []bpf.Instruction{drop}
	case inside[0].low <= stretch.low && inside[0].high >= stretch.high:
		return []bpf.Instruction{pass}
	}
	rest := make([]span, len(inside))
	for i, s := range inside {
		s.low, s.high = max(s.low, stretch.low), min(s.high, stretch.high)
		rest[i] = span{s.low << wordBits, s.high<<wordBits | lower}
	}
	return tree(rest, offset+wordBits/8)
}

// overlapping returns those of the ranges that have something in common with s.
func overlapping(all []span, s span) []span {
	first, _ := slices.BinarySearchFunc(all, s.low, func(a span, low key) int {
		if a.high < low {
			return -1
		}
		return 1
	})
	end := first
	for end < len(all) && all[end].low <= s.high {
		end++
	}
	return all[first:end]
}
