package transport

import "time"

// started is when the clock of Origin.At began.
var started = time.Now()

// clock is the time for Origin.At. Reading it costs as much as deciding about a
// call, so that a batch of datagrams has one.
func clock() int64 { return int64(time.Since(started)) }

// hold is a worker's Pause, for goroutines that serve one connection.
func hold(nanoseconds int64) { time.Sleep(time.Duration(nanoseconds)) }
