package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// Result is what became of a load.
type Result struct {
	Sent      uint64  // calls, or in a flood packets or connections
	Answered  uint64  // replies that were right and in time
	Lost      uint64  // no reply within the timeout
	Wrong     uint64  // replies that are not the wanted ones
	Late      uint64  // replies after the timeout, or to nothing
	Seconds   float64 // measured time
	PerSecond float64 // Answered, or in a flood Sent, by Seconds
	Busy      float64 // share of the time that this process had the processor, 1 is one core
	Micros    Micros  // of right replies
}

// Micros are percentiles of latencies in microseconds.
type Micros struct{ P50, P90, P99, P999, Max float64 }

func micros(h *Histogram) Micros {
	f := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return Micros{f(h.Quantile(.5)), f(h.Quantile(.9)), f(h.Quantile(.99)), f(h.Quantile(.999)), f(h.Max())}
}

// tally is what one goroutine counts.
type tally struct {
	sent, answered, lost, wrong, late uint64
	latency                           Histogram
}

// result adds up what several goroutines counted in a span.
func result(tallies []*tally, took, busy time.Duration) Result {
	var r Result
	all := new(Histogram)
	for _, t := range tallies {
		r.Sent += t.sent
		r.Answered += t.answered
		r.Lost += t.lost
		r.Wrong += t.wrong
		r.Late += t.late
		all.Add(&t.latency)
	}
	r.Seconds = took.Seconds()
	r.PerSecond = float64(r.Answered) / r.Seconds
	r.Busy = float64(busy) / float64(took)
	r.Micros = micros(all)
	return r
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
