package portmapper

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// validatedTable remembers which addresses completed a TCP exchange lately, and
// so cannot be forged. Only those that a rule lists are entered, for whom alone
// it is asked: others can't push them out. It is a fixed array of words that goroutines share
// without a lock: each word has a tag of the address and the time it expires.
// A full bucket forgets its oldest address, which then gets short answers over
// UDP until it comes over TCP again.
type validatedTable struct {
	seed  maphash.Seed
	words *[validatedBuckets * validatedWays]atomic.Uint64
}

const (
	validatedBuckets = 1 << 12
	validatedWays    = 4
	validatedSeconds = 600 // how long one TCP exchange counts

	// A word is the tag in its upper 40 bits and the expiry, in seconds modulo
	// 2^24 (194 days), in its lower 24.
	expiryBits = 24
	expiryMask = 1<<expiryBits - 1
)

func newValidatedTable() validatedTable {
	return validatedTable{seed: maphash.MakeSeed(), words: new([validatedBuckets * validatedWays]atomic.Uint64)}
}

// bucket returns where addr is kept, and its tag.
func (t *validatedTable) bucket(addr netip.Addr) ([]atomic.Uint64, uint64) {
	h := maphash.Comparable(t.seed, addr.Unmap().WithZone(""))
	first := h % validatedBuckets * validatedWays
	return t.words[first : first+validatedWays], h &^ expiryMask
}

// left returns for how many seconds after now word counts, 0 if it does not.
func left(word uint64, now int64) uint64 {
	if word == 0 {
		return 0
	}
	d := (word - uint64(now)) & expiryMask
	if d > validatedSeconds {
		return 0
	}
	return d
}

// mark notes that addr completed a TCP exchange at now, in seconds.
func (t *validatedTable) mark(addr netip.Addr, now int64) {
	ways, tag := t.bucket(addr)
	word := tag | uint64(now+validatedSeconds)&expiryMask
	oldest := &ways[0]
	for i := range ways {
		old := ways[i].Load()
		if old&^expiryMask == tag {
			oldest = &ways[i]
			break
		}
		if left(old, now) < left(oldest.Load(), now) {
			oldest = &ways[i]
		}
	}
	if oldest.Load() != word {
		oldest.Store(word)
	}
}

// has reports whether addr is marked and the mark still counts at now.
func (t *validatedTable) has(addr netip.Addr, now int64) bool {
	ways, tag := t.bucket(addr)
	for i := range ways {
		word := ways[i].Load()
		if word&^expiryMask == tag && left(word, now) > 0 {
			return true
		}
	}
	return false
}
