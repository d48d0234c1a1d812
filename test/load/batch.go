package load

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams go through one system call.
const batchSize = 64

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// batch is the memory of one recvmmsg(2) or sendmmsg(2).
type batch struct {
	bufs [][]byte
	iovs []unix.Iovec
	msgs []mmsghdr
}

// newBatch makes room for n datagrams of at most size bytes.
func newBatch(n, size int) *batch {
	b := &batch{bufs: make([][]byte, n), iovs: make([]unix.Iovec, n), msgs: make([]mmsghdr, n)}
	all := make([]byte, n*size)
	for i := range n {
		b.bufs[i] = all[i*size : (i+1)*size : (i+1)*size]
		b.iovs[i].Base = &b.bufs[i][0]
		b.iovs[i].SetLen(size)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// room restores the full size of all buffers, for receiving.
func (b *batch) room() {
	for i := range b.iovs {
		b.iovs[i].SetLen(len(b.bufs[i]))
	}
}

// put makes datagram i a copy of data.
func (b *batch) put(i int, data []byte) []byte {
	n := copy(b.bufs[i], data)
	b.iovs[i].SetLen(n)
	return b.bufs[i][:n]
}

// got is datagram i as it was received.
func (b *batch) got(i int) []byte { return b.bufs[i][:b.msgs[i].n] }

// toEach sets the address that all datagrams go to, for a socket that is not connected.
func (b *batch) toEach(sa *unix.RawSockaddrInet4) {
	for i := range b.msgs {
		b.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(sa))
		b.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
	}
}

// send sends datagrams first to last-1 and returns how many the kernel took.
func (b *batch) send(fd, first, last int) (int, error) {
	return b.mmsg(unix.SYS_SENDMMSG, fd, first, last, 0)
}

// receive takes what is there, after waiting for the first datagram unless
// flags say MSG_DONTWAIT. No datagram is no error.
func (b *batch) receive(fd, flags int) (int, error) {
	return b.mmsg(unix.SYS_RECVMMSG, fd, 0, len(b.msgs), flags|unix.MSG_WAITFORONE)
}

func (b *batch) mmsg(call uintptr, fd, first, last, flags int) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[first])), uintptr(last-first), uintptr(flags), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR, unix.ENOBUFS, unix.ECONNREFUSED: // also an old datagram's ICMP error
		return 0, nil
	}
	return 0, errno
}

// socketBuffer is what the client's kernel holds for us: a reply must not be
// lost on our side.
const socketBuffer = 16 << 20

// wait is how long a receive waits before the loop looks at its clock.
const wait = 10 * time.Millisecond

// dialUDP opens a socket that is connected to addr and blocks for at most wait.
func dialUDP(addr netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, o := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, socketBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, o-unix.SO_RCVBUFFORCE+unix.SO_RCVBUF, socketBuffer) // as much as we may
		}
	}
	tv := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("SO_RCVTIMEO: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(addr)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connecting to %v: %w", addr, err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
