package policy

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

const millisecond = second / 1000

// buckets is the slow twin of a Limiter: a token bucket for each prefix and
// class in a map, for ever. A token is a nanosecond.
type buckets struct {
	rates Rates
	of    map[bucketName]*bucket
}

type bucketName struct {
	prefix netip.Prefix
	listed bool
}

type bucket struct{ tokens, when int64 }

func newBuckets(r Rates) *buckets { return &buckets{r, map[bucketName]*bucket{}} }

// filled returns the bucket of a caller as it is at a time, and the price of an
// answer.
func (b *buckets) filled(o *Origin, listed bool) (*bucket, int64) {
	bits, rate := 24, b.rates.Unlisted
	if o.Source.Addr().Is6() {
		bits = 56
	}
	if listed {
		rate = b.rates.Listed
	}
	name := bucketName{netip.PrefixFrom(o.Source.Addr(), bits).Masked(), listed}
	if b.of[name] == nil {
		b.of[name] = &bucket{second, o.At}
	}
	k := b.of[name]
	k.tokens, k.when = min(k.tokens+o.At-k.when, second), o.At
	if rate == 0 {
		return k, 0
	}
	return k, second / int64(rate)
}

func (b *buckets) take(o *Origin, listed bool, patience int64) (wait int64, ok bool) {
	k, price := b.filled(o, listed)
	if price == 0 {
		return 0, true
	}
	if wait = max(price-k.tokens, 0); wait > patience {
		return 0, false
	}
	k.tokens -= price
	return wait, true
}

// caller is a network client, the nth of its kind.
func caller(n int, at int64) *Origin {
	o := network(fmt.Sprintf("10.%d.%d.7", n>>8&0xff, n&0xff))
	o.At = at
	return o
}

// limited is a call in a random history.
type limited struct {
	prefix   int
	listed   bool
	later    int64 // nanoseconds since the one before
	patience int64
}

func history(prefixes int) *rapid.Generator[[]limited] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) limited {
		return limited{
			prefix:   rapid.IntRange(0, prefixes-1).Draw(t, "prefix"),
			listed:   rapid.Bool().Draw(t, "listed"),
			later:    rapid.SampledFrom([]int64{0, 0, 0, 1, 999, millisecond, 30 * millisecond, second / 3, second, 2 * second}).Draw(t, "later"),
			patience: rapid.SampledFrom([]int64{0, 0, 10 * millisecond, MaxWait}).Draw(t, "patience"),
		}
	}), 1, 200)
}

// starts are times at which histories begin: near the ends of rounds, too.
var starts = []int64{0, 1, 12345 * second, timeMask - second, timeMask - 1, timeMask, 7 * (timeMask + 1)}

// TestLimiterIsAMapOfBuckets: with few prefixes, each decision is that of the twin.
func TestLimiterIsAMapOfBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rates := Rates{
			Unlisted: rapid.SampledFrom([]uint32{0, 1, 3, 20}).Draw(t, "rate"),
			Listed:   rapid.SampledFrom([]uint32{0, 2, 7, 1 << 31}).Draw(t, "rate of listed"),
		}
		if rates.Listed > second {
			rates.Listed = second // the twin knows no shorter time than a nanosecond
		}
		fast, slow := NewLimiter(rates), newBuckets(rates)
		at := rapid.SampledFrom(starts).Draw(t, "start")
		for i, c := range history(3).Draw(t, "calls") {
			at += c.later
			wait, ok := fast.Take(caller(c.prefix, at), c.listed, c.patience)
			wantWait, want := slow.take(caller(c.prefix, at), c.listed, c.patience)
			if wait != wantWait || ok != want {
				t.Fatalf("call %d: %d, %v; want %d, %v", i, wait, ok, wantWait, want)
			}
		}
	})
}

// TestLimiterGivesNobodyMore: with more buckets than there are words, whatever
// is answered is within the prefix's own bucket. Pushing a prefix out never
// makes it fresh.
func TestLimiterGivesNobodyMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rates := Rates{Unlisted: 1, Listed: 2}
		fast, slow := newLimiter(rates, 1), newBuckets(rates)
		at := rapid.SampledFrom(starts).Draw(t, "start")
		for i, c := range history(limiterWays).Draw(t, "calls") {
			at += c.later
			o := caller(c.prefix, at)
			wait, ok := fast.Take(o, c.listed, c.patience)
			if !ok {
				continue
			}
			k, price := slow.filled(o, c.listed)
			if k.tokens -= price; k.tokens < -wait {
				t.Fatalf("call %d was answered after %d ns, %d ns too early", i, wait, -wait-k.tokens)
			}
		}
	})
}

// TestLimiterFullSet: prefixes that take turns in pushing each other out get no
// more together than there is in the buckets of their set, and none more than
// its own.
func TestLimiterFullSet(t *testing.T) {
	const rate, prefixes, calls = 5, 20, 2000
	l := newLimiter(Rates{Unlisted: rate}, 1)
	all, answered := 0, [prefixes]int{}
	for at := range int64(3) {
		for i := range calls {
			n := i % prefixes
			if _, ok := l.Take(caller(n, at*second/rate), false, 0); ok {
				answered[n]++
				all++
			}
		}
		if most := limiterWays * (rate + int(at)); all > most || all < most-limiterWays {
			t.Errorf("%d answers after %d calls, want %d", all, calls*(at+1), most)
		}
		for n, got := range answered {
			if got > rate+int(at) {
				t.Errorf("prefix %d got %d answers, want at most %d", n, got, rate+at)
			}
		}
	}
}

// TestLimiterUnderForgedFlood: one prefix is at its limit. However many others
// come by, it gets its rate and no more, and each of them gets its answer.
func TestLimiterUnderForgedFlood(t *testing.T) {
	const rate, others, seconds = 100, 100_000, 3
	l := NewLimiter(Rates{Unlisted: rate})
	answered, refused := 0, 0
	for i := range others * seconds {
		at := int64(i) * second / others
		if _, ok := l.Take(caller(-1, at), false, 0); ok {
			answered++
		}
		o := network("172.16.0.7")
		o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(11 + i%others>>16), byte(i >> 8), byte(i), 1}), 700)
		o.At = at
		if _, ok := l.Take(o, false, 0); !ok {
			refused++
		}
	}
	// A second's worth at once, and then the rate.
	if want := rate * (1 + seconds); answered < want-1 || answered > want {
		t.Errorf("%d answers to the prefix at its limit, want %d", answered, want)
	}
	if refused > 0 {
		t.Errorf("%d of %d others were refused their one call a second", refused, others*seconds)
	}
}

// TestLimiterPrefixes tells who shares a bucket.
func TestLimiterPrefixes(t *testing.T) {
	l := NewLimiter(Rates{Unlisted: 1, Listed: 2})
	for _, tt := range []struct {
		name   string
		origin Origin
		listed bool
		want   int // answers of five
	}{
		{"unlisted", *network("192.0.2.7"), false, 1},
		{"unlisted, of the same prefix", *network("192.0.2.8"), false, 0},
		{"listed, of the same prefix", *network("192.0.2.9"), true, 2},
		{"another prefix", *network("192.0.3.7"), false, 1},
		{"IPv6", *network("2001:db8::7"), false, 1},
		{"IPv6, of the same prefix", *network("2001:db8:0:ff::7"), false, 0},
		{"IPv6, with a zone", *network("fe80::1%lan"), false, 1},
		{"IPv6, another link", *network("fe80::2%wan"), false, 0},
	} {
		got := 0
		for range 5 {
			if _, ok := l.Take(&tt.origin, tt.listed, 0); ok {
				got++
			}
		}
		if got != tt.want {
			t.Errorf("%s: %d answers, want %d", tt.name, got, tt.want)
		}
	}
}

// TestLimiterWorkersApart: goroutines stamp calls by batches, so that one is
// behind the other. None takes what another has written for a time long past.
func TestLimiterWorkersApart(t *testing.T) {
	l := NewLimiter(Rates{Unlisted: 1})
	const now = 100 * second
	if _, ok := l.Take(caller(1, now), false, MaxWait); !ok {
		t.Fatal("the first call was refused")
	}
	if _, ok := l.Take(caller(1, now), false, MaxWait); !ok {
		t.Fatal("a call that may wait was refused")
	}
	for _, behind := range []int64{0, 1, millisecond, second, 4 * second} {
		if _, ok := l.Take(caller(1, now-behind), false, 0); ok {
			t.Errorf("a goroutine that is %d ns behind answered", behind)
		}
	}
}

// TestLimiterShared lets goroutines take out of the same buckets: together they
// get what is in it. The race detector looks on.
func TestLimiterShared(t *testing.T) {
	const rate, prefixes = 1000, 5
	l := NewLimiter(Rates{Unlisted: rate})
	var got [prefixes]atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 4 * rate * prefixes {
				if _, ok := l.Take(caller(i%prefixes, 0), false, 0); ok {
					got[i%prefixes].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range got {
		// One more, if two goroutines brought the prefix at the same instant.
		if n := got[i].Load(); n < rate || n > rate+3 {
			t.Errorf("prefix %d got %d answers, want %d", i, n, rate)
		}
	}
}

func TestLimiterDoesNotAllocate(t *testing.T) {
	l := NewLimiter(Rates{Unlisted: 1, Listed: 1_000_000})
	o, n := caller(1, 0), 0
	for _, listed := range []bool{false, true} {
		if allocs := testing.AllocsPerRun(100, func() {
			n++
			o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1}), 700)
			l.Take(o, listed, 0)
			l.Take(o, listed, 0)
		}); allocs != 0 {
			t.Errorf("listed %v: %v allocations", listed, allocs)
		}
	}
}

func BenchmarkLimiter(b *testing.B) {
	for _, bench := range []struct {
		name     string
		prefixes int64
		rates    Rates
		later    int64
	}{
		{"one listed prefix", 1, DefaultRates(), 2000},
		{"a thousand listed prefixes", 1000, DefaultRates(), 2000},
		{"over the limit", 1, Rates{Listed: 100}, 2000},
		{"forged prefixes", 1 << 16, Rates{Listed: 100}, 2000},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l, o := NewLimiter(bench.rates), caller(0, 0)
			for b.Loop() {
				o.At += bench.later
				n := o.At / bench.later % bench.prefixes
				o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 7}), 700)
				l.Take(o, true, 0)
			}
		})
	}
}
