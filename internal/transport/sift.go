package transport

import (
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
)

// siftTime is how long a flood of connections is sifted before it is looked at
// again.
const (
	siftTime = time.Second
	siftPoll = 50 // milliseconds, after which it looks whether it is to end
)

// sift takes connections for a while in a flood of those that the policy
// refuses. These are reset at once: to make a connection of the net package and
// a goroutine of each, wait for its call and word an error costs three times as
// much. Others are served as ever.
func (l *streamSocket) sift(s *Server) {
	if l.path != "" {
		return
	}
	until := time.Now().Add(siftTime)
	count := 0
	l.control(func(listener int) {
		for time.Now().Before(until) && !s.stopping.Load() {
			fd, from, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				count += l.siftOne(s, fd, from)
			case unix.EAGAIN:
				unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, siftPoll)
			case unix.EINTR, unix.ECONNABORTED:
			default:
				return // accept tells of it
			}
		}
	})
	s.sifted(count)
}

// siftOne serves or ends one connection, and returns 1 if it ended it.
func (l *streamSocket) siftOne(s *Server, fd int, from unix.Sockaddr) int {
	local, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return 0
	}
	o := l.originIP(fd, l.links.addrPort(from), l.links.addrPort(local), s.reserved)
	if s.mapper.Decide(&o).Verdict != policy.Answer {
		// Without its part of the end of a connection we need not remember it.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
		return 1
	}
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	if conn, err := net.FileConn(f); err == nil {
		s.admit(conn, o)
	}
	return 0
}

// siftReport is how often the log tells of connections that were reset.
const siftReport = 10 * time.Second

// sifted tells how many connections were reset.
func (s *Server) sifted(n int) {
	if n == 0 {
		return
	}
	s.counts.sifted.Add(uint64(n))
	now := clock()
	last := s.counts.siftTold.Load()
	if last != 0 && now-last < int64(siftReport) || !s.counts.siftTold.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("many connections of refused hosts: they are reset without an answer", "reset", s.counts.sifted.Swap(0))
}
