package load

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Echo is echo.c in Go: what the language leaves of the ceiling. It answers
// each datagram on an IPv4 port with size bytes, until an error.
func Echo(port uint16, size int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return fmt.Errorf("IP_PKTINFO: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	in := newBatch(batchSize, maxDatagram)
	names := make([]unix.RawSockaddrInet4, batchSize)
	controls := make([][64]byte, batchSize)
	iovs := make([]unix.Iovec, batchSize)
	reply := make([]byte, batchSize*size)
	for i := range batchSize {
		in.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&names[i]))
		in.msgs[i].hdr.Control = &controls[i][0]
		out := reply[i*size : (i+1)*size]
		out[7] = 1 // REPLY, RFC 5531, Section 9
		iovs[i].Base = &out[0]
		iovs[i].SetLen(size)
	}
	for {
		for i := range batchSize {
			h := &in.msgs[i].hdr
			h.Iov, h.Namelen = &in.iovs[i], unix.SizeofSockaddrInet4
			h.SetControllen(len(controls[i]))
		}
		n, err := in.receive(fd, 0)
		if err != nil {
			return err
		}
		for i := range n {
			copy(reply[i*size:][:4], in.bufs[i]) // the transaction id
			in.msgs[i].hdr.Iov = &iovs[i]
			binary.NativeEndian.PutUint32(controls[i][unix.CmsgLen(0):], 0) // by any interface
		}
		for sent := 0; sent < n; {
			k, err := in.send(fd, sent, n)
			if err != nil {
				return err
			}
			sent += max(k, 1)
		}
	}
}
