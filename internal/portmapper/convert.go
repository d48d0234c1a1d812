package portmapper

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Socket addresses as Linux lays them out, in sys/socket.h and netinet/in.h.
// UADDR2TADDR and TADDR2UADDR carry them raw, the family in the host's byte
// order; the answer means something on a host of the same kind only.
const (
	afUnix  = 1
	afInet  = 2
	afInet6 = 10

	sizeofSockaddrIn  = 16
	sizeofSockaddrIn6 = 28
	sizeofSockaddrUn  = 110
	sizeofFamily      = 2
)

// uaddr2taddr is RPCBPROC_UADDR2TADDR, RFC 1833, Section 2.2.1: a universal
// address of the caller's transport as a netbuf, an empty one if it is none.
func (w *Worker) uaddr2taddr(buf []byte) ([]byte, Outcome) {
	r := xdr.NewReader(w.call.Args)
	uaddr := rpcbind.ReadString(&r)
	if r.Err() != nil {
		return w.garbage(buf)
	}
	buf = w.success(buf)
	if w.origin.NetID.IsLocal() {
		return appendUnixNetbuf(buf, uaddr), Reply
	}
	ap, ok := rpcbind.ParseUAddr(uaddr)
	// The number of a zone, which a sockaddr_in6 needs, is not ours to know.
	if !ok || ap.Addr().Zone() != "" || !w.origin.NetID.Accepts(ap.Addr()) {
		return appendNetbuf(buf, 0, nil), Reply
	}
	return appendIPNetbuf(buf, ap), Reply
}

// appendNetbuf appends a netbuf, RFC 1833, Section 2.1: the size of the
// structure that the caller needs for it, and the bytes that are used.
func appendNetbuf(b []byte, size uint32, sockaddr []byte) []byte {
	return xdr.AppendOpaque(xdr.AppendUint32(b, size), sockaddr)
}

func appendIPNetbuf(b []byte, ap netip.AddrPort) []byte {
	var raw [sizeofSockaddrIn6]byte
	binary.BigEndian.PutUint16(raw[2:], ap.Port())
	if ap.Addr().Is4() {
		binary.NativeEndian.PutUint16(raw[:], afInet)
		a := ap.Addr().As4()
		copy(raw[4:], a[:])
		return appendNetbuf(b, sizeofSockaddrIn, raw[:sizeofSockaddrIn])
	}
	binary.NativeEndian.PutUint16(raw[:], afInet6)
	a := ap.Addr().As16()
	copy(raw[8:], a[:])
	return appendNetbuf(b, sizeofSockaddrIn6, raw[:])
}

func appendUnixNetbuf(b, path []byte) []byte {
	if !validPath(string(path)) {
		return appendNetbuf(b, 0, nil)
	}
	raw := binary.NativeEndian.AppendUint16(nil, afUnix)
	return appendNetbuf(b, sizeofSockaddrUn, append(raw, path...))
}

// taddr2uaddr is RPCBPROC_TADDR2UADDR, RFC 1833, Section 2.2.1: a netbuf of
// the caller's transport as a universal address, empty if it is none.
func (w *Worker) taddr2uaddr(buf []byte) ([]byte, Outcome) {
	r := xdr.NewReader(w.call.Args)
	size := r.Uint32()
	raw := r.Opaque(rpcbind.MaxString)
	if r.Err() != nil || size > rpcbind.MaxString || uint32(len(raw)) > size {
		return w.garbage(buf)
	}
	buf = w.success(buf)
	at := len(buf)
	buf = xdr.AppendUint32(buf, 0)
	if w.origin.NetID.IsLocal() {
		buf = append(buf, sockaddrPath(raw)...)
	} else if ap, ok := sockaddrIP(raw); ok && w.origin.NetID.Accepts(ap.Addr()) {
		buf = rpcbind.AppendUAddr(buf, ap)
	}
	return closeString(buf, at), Reply
}

// sockaddrIP reads a sockaddr_in or sockaddr_in6.
func sockaddrIP(raw []byte) (netip.AddrPort, bool) {
	if len(raw) < sizeofSockaddrIn {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch family := binary.NativeEndian.Uint16(raw); {
	case family == afInet:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port), true
	case family == afInet6 && len(raw) >= sizeofSockaddrIn6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port), true
	}
	return netip.AddrPort{}, false
}

// sockaddrPath reads the path of a sockaddr_un, nil if there is none.
func sockaddrPath(raw []byte) []byte {
	if len(raw) < sizeofFamily || binary.NativeEndian.Uint16(raw) != afUnix {
		return nil
	}
	path := raw[sizeofFamily:]
	if i := bytes.IndexByte(path, 0); i >= 0 {
		path = path[:i]
	}
	if !validPath(string(path)) {
		return nil
	}
	return path
}
