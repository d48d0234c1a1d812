package load

import (
	"math/bits"
	"time"
)

// A value's bucket is its power of two and its next subBits bits, so that a
// bucket is at most 1/128 wide: percentiles are exact to 0.8 %.
const (
	subBits = 7
	subs    = 1 << subBits
	powers  = 64 - subBits
)

// Histogram counts durations, in nanoseconds, in memory of a fixed size. The
// zero value is empty. It is not for several goroutines at once; see Add.
type Histogram struct {
	counts [powers * subs]uint64
	total  uint64
	max    time.Duration
}

func bucket(v uint64) int {
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift*subs + int(v>>shift)
}

// highest is the highest value of a bucket.
func highest(bucket int) uint64 {
	if bucket < 2*subs {
		return uint64(bucket)
	}
	shift := bucket/subs - 1
	return (uint64(bucket%subs+subs)+1)<<shift - 1
}

// Record counts a duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.total++
	h.max = max(h.max, d)
}

// Add adds what other has counted.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

// Count is the number of durations.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that the share q, 0 to 1, of all does not
// exceed: at most 0.8 % above the true one, never above Max. Of nothing it is 0.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(uint64(q*float64(h.total)+0.5), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(time.Duration(highest(i)), h.max)
		}
	}
	return h.max
}
