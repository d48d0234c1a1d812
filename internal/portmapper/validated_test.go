package portmapper

import (
	"net/netip"
	"sync"
	"testing"
)

// address returns the nth of many addresses.
func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestValidatedTable(t *testing.T) {
	const now = 1_700_000_000
	a, b := netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.3")
	tests := []struct {
		name string
		mark netip.Addr
		ask  netip.Addr
		when int64 // after the mark
		want bool
	}{
		{"at once", a, a, 0, true},
		{"at the last second", a, a, 599, true},
		{"after the last second", a, a, 600, false},
		{"much later", a, a, 3600, false},
		{"after the clock was set back a little", a, a, -1, false},
		{"another address", a, b, 0, false},
		{"mapped into IPv6", a, netip.MustParseAddr("::ffff:10.99.0.2"), 0, true},
		{"with a zone", netip.MustParseAddr("fe80::2%lan"), netip.MustParseAddr("fe80::2"), 0, true},
		{"never marked", netip.Addr{}, a, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newValidatedTable()
			if tt.mark.IsValid() {
				table.mark(tt.mark, now)
			}
			if got := table.has(tt.ask, now+tt.when); got != tt.want {
				t.Errorf("has() = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestValidatedTableAcrossWrap: times are kept modulo 2^24 seconds.
func TestValidatedTableAcrossWrap(t *testing.T) {
	table := newValidatedTable()
	for _, now := range []int64{expiryMask - 300, 7*(expiryMask+1) - 1, 7 * (expiryMask + 1)} {
		table.mark(address(1), now)
		for d, want := range map[int64]bool{0: true, 599: true, 600: false} {
			if got := table.has(address(1), now+d); got != want {
				t.Errorf("%d seconds after %d: %v, want %v", d, now, got, want)
			}
		}
	}
}

// TestValidatedTableUnderFlood: however many addresses come, the table has its
// size, the newest are in it, and renewing one does not push out others.
func TestValidatedTableUnderFlood(t *testing.T) {
	const now, newest = 1_700_000_000, 100
	table := newValidatedTable()
	for i := range 200_000 {
		table.mark(address(i), now+int64(i/1000))
	}
	last := int64(now + 199)
	found := 0
	for i := 200_000 - newest; i < 200_000; i++ {
		if table.has(address(i), last) {
			found++
		}
	}
	// Of those with one time, a bucket that is full of them loses some.
	if found < newest*9/10 {
		t.Errorf("%d of the newest %d addresses are known", found, newest)
	}
	known := 0
	for i := range 200_000 {
		if table.has(address(i), last) {
			known++
		}
	}
	if size := validatedBuckets * validatedWays; known > size {
		t.Errorf("%d addresses known, but there is room for %d", known, size)
	}
	quiet := newValidatedTable()
	quiet.mark(address(1), now)
	for range 1000 {
		quiet.mark(address(2), now)
	}
	if !quiet.has(address(1), now) {
		t.Error("marking one address again and again pushed out another")
	}
}

// TestValidatedTableShared lets goroutines share the table, for the race detector.
func TestValidatedTableShared(t *testing.T) {
	table := newValidatedTable()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				table.mark(address(i*4+g), 1000)
				table.has(address(i), 1000)
			}
		})
	}
	wg.Wait()
}
