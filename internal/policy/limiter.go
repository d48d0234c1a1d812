package policy

import (
	"hash/maphash"
	"sync/atomic"
)

// Rates are how many calls of one source prefix are answered in a second; 0 is
// as many as come. The zero value limits nothing.
type Rates struct {
	Unlisted uint32 // of clients that are answered by default
	Listed   uint32 // of clients that a rule lets in
	LogOnly  bool   // tell what is over the limit, and answer it
}

// DefaultRates stop a forged source from being flooded through us where anybody
// is answered, and are out of the way of clients that rules let in: a processor
// answers fewer.
func DefaultRates() Rates { return Rates{Unlisted: 100, Listed: 1_000_000} }

// Limiter holds back what is over Rates. Each source prefix has a token bucket
// that holds a second's worth, as an account in BIND's response rate limiting
// does; listed clients have another one than the rest of their prefix. Calls that are held back
// cost nothing, so that whoever comes within the limit is answered again at once.
//
// The buckets are a fixed array of words that goroutines share without a lock.
// A word says when its bucket will be full again (the theoretical arrival time
// of the generic cell rate algorithm, ITU-T I.371) and has a tag of the
// prefix. Which prefixes share a set of words depends on a secret seed.
//
// A prefix that finds no free word takes over the one that is full again
// soonest, as it is. So it may get less than its due, but a prefix that was
// pushed out is never the better for it: all words of its set were emptier
// than its own. Two goroutines that bring a prefix at the same instant may
// give it two words, and one answer more.
type Limiter struct {
	seed    maphash.Seed
	steps   [2]int64 // nanoseconds of one answer, for unlisted and listed clients; 0 for no limit
	logOnly bool
	sets    []limiterSet // their number is a power of two
}

type limiterSet [limiterWays]atomic.Uint64

const (
	// With 100 answers a second each, an answer takes up a word for 10 ms: there
	// is room for 1.6 million answers a second, to ever new prefixes.
	limiterSets = 1 << 11
	limiterWays = 8 // a cache line

	second = 1_000_000_000 // in nanoseconds
	burst  = second        // as long a bucket may take to fill

	// MaxWait is the longest that Take lets a call wait, in nanoseconds.
	MaxWait = 2 * second

	// A word is a tag in its upper 20 bits and a time in nanoseconds modulo 2^44
	// (4.9 hours). What is further ahead than any bucket gets, and than
	// goroutines' clocks are apart, is of an earlier round.
	timeBits = 44
	timeMask = 1<<timeBits - 1
	maxAhead = burst + MaxWait + 5*second
)

// NewLimiter returns a limiter with full buckets.
func NewLimiter(r Rates) *Limiter { return newLimiter(r, limiterSets) }

func newLimiter(r Rates, sets int) *Limiter {
	return &Limiter{
		seed: maphash.MakeSeed(), steps: [2]int64{step(r.Unlisted), step(r.Listed)}, logOnly: r.LogOnly,
		sets: make([]limiterSet, sets),
	}
}

func step(rate uint32) int64 {
	if rate == 0 {
		return 0
	}
	return max(second/int64(rate), 1)
}

// LogOnly reports whether what is over the limit is answered all the same.
func (l *Limiter) LogOnly() bool { return l.logOnly }

// Take takes one answer out of the bucket of o's prefix, at the time o.At, and
// returns after how many nanoseconds it is due: 0 within the limit, and no more
// than patience, which is at most MaxWait. If it would be more, Take takes
// nothing and ok is false.
func (l *Limiter) Take(o *Origin, listed bool, patience int64) (wait int64, ok bool) {
	class := 0
	if listed {
		class = 1
	}
	step := l.steps[class]
	if step == 0 {
		return 0, true
	}
	// The lower bits of a SourcePrefix tell the family, and have room for the class.
	h := maphash.Comparable(l.seed, SourcePrefixOf(o.Source.Addr())+SourcePrefix(class)<<4)
	set, tag := &l.sets[h&uint64(len(l.sets)-1)], h&^timeMask
	for {
		word, old := set.find(tag, o.At)
		full := ahead(old, o.At) + step
		wait = max(full-burst, 0)
		if wait > patience {
			return 0, false
		}
		if word.CompareAndSwap(old, tag|uint64(o.At+full)&timeMask) {
			return wait, true
		}
	}
}

// find returns the word with tag, or the one to take over, and its value.
func (s *limiterSet) find(tag uint64, now int64) (*atomic.Uint64, uint64) {
	soonest, value, least := &s[0], uint64(0), int64(maxAhead+1)
	for i := range s {
		v := s[i].Load()
		if v != 0 && v&^timeMask == tag {
			return &s[i], v
		}
		if a := ahead(v, now); a < least {
			soonest, value, least = &s[i], v, a
		}
	}
	return soonest, value
}

// ahead returns for how many nanoseconds after now a word's bucket is not full.
func ahead(word uint64, now int64) int64 {
	if word == 0 {
		return 0 // never used
	}
	d := int64((word - uint64(now)) & timeMask)
	if d > maxAhead {
		return 0
	}
	return d
}
