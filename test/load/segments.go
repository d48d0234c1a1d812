package load

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// segments sends datagrams of one size with one system call and as one packet
// that the kernel takes apart where it arrives, UDP_SEGMENT in udp(7). A client
// that sends them one by one takes longer over a call than the server does, and
// would measure itself.
type segments struct {
	fd   int
	size int // of each datagram
	n    int // datagrams that wait
	all  []byte
}

// add queues a copy of a datagram and returns it, to be changed before flush.
func (s *segments) add(data []byte) ([]byte, error) {
	if s.n == batchSize || s.n > 0 && len(data) != s.size {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	if len(data) != s.size {
		if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, len(data)); err != nil {
			return nil, fmt.Errorf("UDP_SEGMENT, which needs Linux 4.18: %w", err)
		}
		s.size, s.all = len(data), make([]byte, batchSize*len(data))
	}
	at := s.all[s.n*s.size:][:s.size]
	copy(at, data)
	s.n++
	return at, nil
}

// flush sends what is queued.
func (s *segments) flush() error {
	for s.n > 0 {
		_, err := unix.Write(s.fd, s.all[:s.n*s.size])
		switch err {
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS, unix.ECONNREFUSED: // also an earlier datagram's ICMP error
			continue
		case nil:
			s.n = 0
		default:
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}
