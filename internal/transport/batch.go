package transport

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of a batch. Above 64 datagrams a system call the kernel's own work per
// datagram is all that is left (docs/performance.md).
const (
	batchSize = 64
	// maxCall is the longest call in bytes that is read; libtirpc's servers take
	// no more than 9000 (RPC_MAXDATASIZE) over UDP either.
	maxCall = 9 << 10
	// replySpace holds the replies of a batch; a batch with longer ones is sent in parts.
	replySpace = 64 << 10
	// controlSize holds the packet information of both families, ip(7) and ipv6(7),
	// and what a service manager may have asked for besides, such as timestamps.
	// The kernel cuts what has no room, and packets without this are strangers'.
	controlSize = 256
	// sourceSize holds the packet information of one family.
	sourceSize = 64
)

// rawAddr is a struct sockaddr_in or sockaddr_in6, as the kernel writes it.
type rawAddr [unix.SizeofSockaddrInet6]byte

// mmsghdr is the kernel's struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	hdr  unix.Msghdr
	size uint32 // bytes received, or sent
}

// batch is what one system call receives and one sends. It is allocated once:
// the headers point into it for as long as it lives.
type batch struct {
	received [batchSize]mmsghdr
	sent     [batchSize]mmsghdr
	inVec    [batchSize]unix.Iovec
	outVec   [batchSize]unix.Iovec
	from     [batchSize]rawAddr
	controls [batchSize][controlSize]byte // as received
	sources  [batchSize][sourceSize]byte  // to send with

	calls   []byte // batchSize times maxCall
	replies []byte // room for replySpace
	queued  int    // replies that wait to be sent

	// single: this kernel, or the sandbox around us, has only the calls that move
	// one datagram.
	single bool
}

func newBatch() *batch {
	b := &batch{calls: make([]byte, batchSize*maxCall), replies: make([]byte, 0, replySpace)}
	for i := range batchSize {
		b.inVec[i].Base = &b.calls[i*maxCall]
		b.inVec[i].SetLen(maxCall)
		in, out := &b.received[i].hdr, &b.sent[i].hdr
		in.Name, in.Iov, in.Control = &b.from[i][0], &b.inVec[i], &b.controls[i][0]
		in.SetIovlen(1)
		out.Iov = &b.outVec[i]
		out.SetIovlen(1)
		b.renew(i)
	}
	return b
}

// renew makes header i ready to be received into: the kernel has written to it.
func (b *batch) renew(i int) {
	h := &b.received[i].hdr
	h.Namelen = uint32(len(b.from[i]))
	h.SetControllen(controlSize)
}

// receive takes what the socket has, at most batchSize datagrams, and returns
// how many those are. It does not wait: without any it returns EAGAIN.
func (b *batch) receive(fd int) (int, unix.Errno) {
	if b.single {
		return b.receiveOne(fd)
	}
	// Raw, as neither this call nor the ones below can block.
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.received)),
		batchSize, unix.MSG_DONTWAIT, 0, 0)
	if missing(errno) {
		b.single = true
		return b.receiveOne(fd)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (b *batch) receiveOne(fd int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.received[0].hdr)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, errno
	}
	b.received[0].size = uint32(n)
	return 1, 0
}

// missing reports whether errno says that there is no such system call here.
func missing(errno unix.Errno) bool { return errno == unix.ENOSYS || errno == unix.EPERM }

// call returns datagram i, not ok if it was too long to be a call.
func (b *batch) call(i int) (msg []byte, ok bool) {
	m := &b.received[i]
	return b.calls[i*maxCall:][:min(m.size, maxCall)], m.hdr.Flags&unix.MSG_TRUNC == 0
}

// control returns the control messages of datagram i.
func (b *batch) control(i int) []byte {
	return b.controls[i][:min(int(b.received[i].hdr.Controllen), controlSize)]
}

// reply queues an answer to datagram i, which was appended to b.replies, to
// leave from the address local, which is on the given interface. There is room:
// see full.
func (b *batch) reply(i int, data []byte, local netip.Addr, ifindex uint32, is6 bool) {
	b.replies = b.replies[:len(b.replies)+len(data)]
	source := sourceControl(b.sources[b.queued][:0], local, ifindex, is6)
	b.outVec[b.queued].Base = unsafe.SliceData(data)
	b.outVec[b.queued].SetLen(len(data))
	h := &b.sent[b.queued].hdr
	h.Name, h.Namelen = &b.from[i][0], b.received[i].hdr.Namelen
	h.Control = unsafe.SliceData(source)
	h.SetControllen(len(source))
	b.queued++
}

// full reports whether the replies must be sent before another one of the
// longest kind has room.
func (b *batch) full() bool { return cap(b.replies)-len(b.replies) < maxCall }

// send sends the queued replies and returns how many of them it could not
// send: those are lost, as any datagram may be.
func (b *batch) send(fd int) (lost int) {
	for first := 0; first < b.queued; {
		n, errno := b.sendFrom(fd, first)
		switch errno {
		case 0:
			first += n
		case unix.EINTR:
		default: // about the first one; the others can go on
			first, lost = first+1, lost+1
		}
	}
	b.queued, b.replies = 0, b.replies[:0]
	return lost
}

func (b *batch) sendFrom(fd, first int) (int, unix.Errno) {
	if !b.single {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.sent[first])),
			uintptr(b.queued-first), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.ENOSYS { // EPERM is also what a packet filter says
			return int(n), errno
		}
		b.single = true
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.sent[first].hdr)), unix.MSG_DONTWAIT)
	return 1, errno
}

// sockaddr returns a as the wrappers of system calls want it.
func (a *rawAddr) sockaddr() unix.Sockaddr {
	ap, scope := a.addrPort()
	sa := sockaddr(ap)
	if sa6, ok := sa.(*unix.SockaddrInet6); ok {
		sa6.ZoneId = scope
	}
	return sa
}

// addrPort returns the address in a, without the scope of a link-local one,
// which it returns beside it.
func (a *rawAddr) addrPort() (ap netip.AddrPort, scope uint32) {
	port := binary.BigEndian.Uint16(a[2:])
	if binary.NativeEndian.Uint16(a[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), port), 0
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[8:24])), port), binary.NativeEndian.Uint32(a[24:])
}
