package load

import (
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is a load of calls.
type Plan struct {
	Network string         // "udp", "tcp" or "unix"
	Addr    netip.AddrPort // of the server
	Path    string         // of the server's unix socket
	Sockets int            // or connections, each with a goroutine and a thread of its own
	Window  int            // calls under way per socket; in an open loop the most
	Rate    float64        // calls per second of all sockets, at even distances; 0 is a closed loop
	Warmup  time.Duration  // before what is measured
	Time    time.Duration  // measured
	Count   uint64         // of calls per socket after which a stream ends early; 0 for none
	Timeout time.Duration  // after which a call is lost
	Asker   func(socket int) Asker
}

// Run does what the plan says. An error means that it could not.
func Run(p Plan) (Result, error) {
	var (
		tallies = make([]*tally, p.Sockets)
		errs    = make([]error, p.Sockets)
		all     sync.WaitGroup
		span    = span{begin: time.Now().Add(p.Warmup)}
	)
	span.end = span.begin.Add(p.Time)
	for i := range p.Sockets {
		tallies[i] = new(tally)
		all.Go(func() {
			runtime.LockOSThread() // it blocks in system calls most of the time
			defer runtime.UnlockOSThread()
			if p.Network == "udp" {
				errs[i] = p.datagrams(i, &span, tallies[i])
			} else {
				errs[i] = p.stream(i, &span, tallies[i])
			}
		})
	}
	time.Sleep(time.Until(span.begin))
	used := processorTime()
	all.Wait()
	took := min(time.Since(span.begin), p.Time)
	for _, err := range errs {
		if err != nil {
			return Result{}, err
		}
	}
	return result(tallies, took, processorTime()-used), nil
}

// span is the measured time: replies count that come in it, and calls as sent
// or lost that were sent in it.
type span struct{ begin, end time.Time }

func (s *span) measures(now time.Time) bool { return !now.Before(s.begin) && now.Before(s.end) }

// slot is a call that may be under way. Its transaction id is its number and,
// above that, how often it was used, so that a late reply is told from a right one.
type slot struct {
	xid    uint32
	busy   bool
	counts bool // was sent in the measured time
	sent   time.Time
	ask    Question
}

// datagramLoop is one socket at work.
type datagramLoop struct {
	*Plan
	*span
	*tally
	fd    int
	asker Asker
	slots []slot
	free  []int // numbers of slots that are not under way
	out   segments
	in    *batch

	start    time.Time // of an open loop
	due      uint64    // calls that the clock has asked for, of which
	begun    uint64    // were begun
	interval time.Duration
}

const maxDatagram = 2048

func (p *Plan) datagrams(socket int, s *span, t *tally) error {
	fd, err := dialUDP(p.Addr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	l := &datagramLoop{
		Plan: p, span: s, tally: t, fd: fd, asker: p.Asker(socket),
		slots: make([]slot, p.Window), free: make([]int, p.Window),
		out: segments{fd: fd}, in: newBatch(min(batchSize, p.Window), maxDatagram),
		start: time.Now(),
	}
	if p.Rate > 0 {
		l.interval = time.Duration(float64(p.Sockets) / p.Rate * float64(time.Second))
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // wake us when we say
	}
	for i := range l.slots {
		l.slots[i].xid = uint32(i)
		l.free[i] = i
	}
	return l.run()
}

func (l *datagramLoop) run() error {
	lookAgain := time.Now().Add(wait)
	for {
		now := time.Now()
		if now.After(l.end) && (len(l.free) == len(l.slots) || now.After(l.end.Add(l.Timeout))) {
			l.expire(now.Add(l.Timeout))
			return nil
		}
		if now.Before(l.end) {
			if err := l.send(now); err != nil {
				return err
			}
		}
		if err := l.receive(now); err != nil {
			return err
		}
		if now.After(lookAgain) {
			l.expire(now)
			lookAgain = now.Add(wait)
		}
	}
}

// send begins as many calls as there are free slots, in an open loop as many as
// are due.
func (l *datagramLoop) send(now time.Time) error {
	n := min(len(l.free), batchSize)
	if l.interval > 0 {
		n = min(n, l.dueBy(now))
	}
	for range n {
		if err := l.put(now); err != nil {
			return err
		}
	}
	return l.out.flush()
}

// dueBy is how many calls of an open loop are due and not begun. When no slot is
// free, the server is so far behind that they are lost.
func (l *datagramLoop) dueBy(now time.Time) int {
	l.due = uint64(now.Sub(l.start)/l.interval) + 1
	if missed := l.due - l.begun; missed > 0 && len(l.free) == 0 {
		l.begun = l.due
		if now.After(l.begin) {
			l.sent += missed
			l.lost += missed
		}
	}
	return int(l.due - l.begun)
}

// put begins a call.
func (l *datagramLoop) put(now time.Time) error {
	number := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	s := &l.slots[number]
	s.xid += uint32(len(l.slots))
	s.ask, s.busy, s.sent = l.asker.Next(), true, now
	if l.interval > 0 {
		// When it should have been sent: a stall of ours is the server's latency too.
		s.sent = l.start.Add(time.Duration(l.begun) * l.interval)
		l.begun++
	}
	if s.counts = !now.Before(l.begin); s.counts {
		l.sent++
	}
	datagram, err := l.out.add(s.ask.Call)
	if err == nil {
		putXID(datagram, s.xid)
	}
	return err
}

// receive takes the replies that are there. It waits for one when nothing can
// be sent before.
func (l *datagramLoop) receive(now time.Time) error {
	flags := 0
	if l.interval > 0 && now.Before(l.end) {
		if l.due > l.begun && len(l.free) > 0 {
			flags = unix.MSG_DONTWAIT
		} else if next := l.start.Add(time.Duration(l.begun) * l.interval).Sub(now); !readable(l.fd, min(next, wait)) {
			return nil
		}
	}
	l.in.room()
	n, err := l.in.receive(l.fd, flags)
	if err != nil || n == 0 {
		return err
	}
	now = time.Now()
	for i := range n {
		l.take(l.in.got(i), now)
	}
	return nil
}

// readable waits for a datagram for as long as it may take.
func readable(fd int, wait time.Duration) bool {
	ts := unix.NsecToTimespec(int64(max(wait, 0)))
	n, _ := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &ts, nil)
	return n > 0
}

// take counts a reply.
func (l *datagramLoop) take(reply []byte, now time.Time) {
	if len(reply) < 4 {
		l.wrong++
		return
	}
	xid := xidOf(reply)
	number := int(xid) % len(l.slots)
	s := &l.slots[number]
	if !s.busy || s.xid != xid {
		l.late++
		return
	}
	s.busy = false
	l.free = append(l.free, number)
	switch {
	case !s.ask.right(reply):
		l.wrong++
	case l.measures(now):
		l.answered++
		l.latency.Record(now.Sub(s.sent))
	}
}

// expire gives up on calls without a reply.
func (l *datagramLoop) expire(now time.Time) {
	for i := range l.slots {
		s := &l.slots[i]
		if !s.busy || now.Sub(s.sent) < l.Timeout {
			continue
		}
		s.busy = false
		l.free = append(l.free, i)
		if s.counts {
			l.lost++
		}
	}
}
