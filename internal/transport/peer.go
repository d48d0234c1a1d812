package transport

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerCred returns who was at the other end of a unix socket when it was
// connected: SO_PEERCRED, unix(7).
func peerCred(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = cerr
	}
	return cred, err
}

// Options that tell of a connected stream what control messages tell of a
// datagram: the interface that the handshake came in on. IP_PKTOPTIONS is in
// linux/in.h, IPV6_2292PKTOPTIONS in linux/in6.h; the kernel answers them with
// a packet information message if the socket wants those.
const (
	ipPktOptions       = 9
	ipv6PktOptions2292 = 6
)

func incomingInterface(fd int, is6 bool) (uint32, error) {
	level, option := unix.IPPROTO_IP, ipPktOptions
	if is6 {
		level, option = unix.IPPROTO_IPV6, ipv6PktOptions2292
	}
	var buf [controlSize]byte
	n := uint32(len(buf))
	wantPacketInfo(fd, is6, false)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0, errno
	}
	return readPacketInfo(buf[:min(n, uint32(len(buf)))]).ifindex, nil
}
