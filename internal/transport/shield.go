package transport

import (
	"context"
	"log/slog"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/sourcefilter"
)

// shield has the kernel drop what the policy refuses, for as long as there is a
// flood of it: before it takes a place in a queue that others need, and on the
// processor of whoever sends it where that is this machine.
//
// In quiet times there is none, so that each refusal is seen and logged. The
// policy still decides about all that passes. Streams have none: Linux lets
// nobody without CAP_NET_ADMIN give TCP sockets a filter (seen on 6.18).
type shield struct {
	sockets []*datagramSocket // that strangers can reach
	policy  func() *policy.Policy
	log     *slog.Logger
	dropped func(n uint64) // told what the kernel dropped; may be nil
	hold    time.Duration  // how long a flood must be over

	alarm chan struct{}
	drops []uint32 // of each socket, as last read
}

const (
	// A flood is more than this many refusals in a stretch of time: 20,000 a second.
	floodStretch   = 50 * time.Millisecond
	floodDatagrams = 1000

	// Over is less than this, for as long as shieldHold.
	calmRate   = 1000 // drops a second
	shieldHold = 5 * time.Second
	shieldTick = 250 * time.Millisecond

	sampleOneIn = 64 // of refused datagrams, to tell who sends them
)

// newShield returns a shield for the sockets of s.
func newShield(s *Server, socks *Sockets) *shield {
	sh := &shield{policy: s.mapper.Policy, log: s.log, dropped: s.Dropped, hold: shieldHold, alarm: make(chan struct{}, 1)}
	for _, d := range socks.datagrams {
		if !d.listed.Addr().IsLoopback() {
			sh.sockets = append(sh.sockets, d)
		}
	}
	sh.drops = make([]uint32, len(sh.sockets))
	return sh
}

// floodMeter tells a flood of refusals from a few. It is for one goroutine.
type floodMeter struct {
	began int64 // of this stretch, in the time of clock
	count int
}

// add counts a refusal at now, and reports whether there are more than limit in
// this stretch of time.
func (m *floodMeter) add(now int64, limit int) bool {
	if now-m.began > int64(floodStretch) {
		m.began, m.count = now, 0
	}
	m.count++
	return m.count > limit
}

// raise asks for the shield, from any goroutine.
func (s *shield) raise() {
	select {
	case s.alarm <- struct{}{}:
	default:
	}
}

// run raises the shield when it is asked for, until ctx is done.
func (s *shield) run(ctx context.Context) {
	s.read() // what passed sockets have dropped before
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.alarm:
			s.guard(ctx)
		}
	}
}

// guard keeps the shield up until the flood is over.
func (s *shield) guard(ctx context.Context) {
	p := s.policy()
	defer s.lower()
	if !s.attach(p) {
		sleep(ctx, s.hold)
		return
	}
	s.log.Warn("many calls are refused: the kernel drops them until there are fewer")
	var total uint64 // with what found no room in a queue before
	for calm := time.Duration(0); calm < s.hold && sleep(ctx, shieldTick); calm += shieldTick {
		if next := s.policy(); next != p {
			if p = next; !s.attach(p) {
				s.report()
				return // it has told why
			}
		}
		n := s.report()
		total += n
		if n > calmRate*uint64(shieldTick)/uint64(time.Second) {
			calm = 0
		}
	}
	total += s.report()
	s.log.Info("fewer calls are refused: the kernel lets them through again", "dropped", total)
}

// report tells of the drops since it was called last, and returns their number.
func (s *shield) report() uint64 {
	n := s.read()
	if s.dropped != nil {
		s.dropped(n)
	}
	return n
}

// sleep waits for d, and reports whether ctx is still not done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// attach makes the kernel drop what p refuses. The filter of before stays in
// force until the new one is, if there is room for both.
func (s *shield) attach(p *policy.Policy) bool {
	v4, v6, ok := p.Sources()
	if !ok {
		s.log.Warn("many calls are refused, but rules that look at more than a client's address keep the kernel from dropping them")
		return false
	}
	f := sourcefilter.Filter{IPv4: v4, IPv6: v6, OneIn: sampleOneIn}
	program, err := f.Program()
	if err == nil {
		err = s.load(program)
	}
	if err != nil {
		s.log.Warn("many calls are refused, but the kernel can't be made to drop them", "err", err)
	}
	return err == nil
}

func (s *shield) load(program []bpf.RawInstruction) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(program)))}
	for _, d := range s.sockets {
		err := unix.SetsockoptSockFprog(d.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
		if err == unix.ENOMEM {
			// A socket has room for one of the longest, not for two, where optmem_max is
			// 20 KiB, as by default in older kernels.
			d.detachFilter()
			err = unix.SetsockoptSockFprog(d.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lower lets everything through again. Sockets that were passed to us may live
// longer than we do.
func (s *shield) lower() {
	for _, d := range s.sockets {
		d.detachFilter()
	}
	select {
	case <-s.alarm: // it rang while the shield was up
	default:
	}
}

// read returns how many packets the kernel has dropped at the sockets since it
// was called last: SK_MEMINFO_DROPS of SO_MEMINFO, linux/sock_diag.h.
func (s *shield) read() (sum uint64) {
	for i, d := range s.sockets {
		var info [unix.SK_MEMINFO_VARS]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(d.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if now := info[unix.SK_MEMINFO_DROPS]; errno == 0 {
			sum += uint64(now - s.drops[i]) // modulo 2^32, as the kernel counts
			s.drops[i] = now
		}
	}
	return sum
}
