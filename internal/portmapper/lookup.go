package portmapper

import (
	"net/netip"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// getPort is PMAPPROC_GETPORT, RFC 1833, Section 3.2: the port of the exact
// version, else of another one, so that the service itself tells its versions.
func (w *Worker) getPort(buf []byte) ([]byte, Outcome) {
	r := xdr.NewReader(w.call.Args)
	m := rpcbind.ReadMapping(&r)
	if r.Err() != nil {
		return w.garbage(buf)
	}
	n := rpcbind.FromProt(m.Prot)
	var port uint16
	if reg := w.snap.Lookup(registry.Key{Program: m.Program, Version: m.Version, NetID: n}); reg != nil && w.reachable(reg) {
		port = reg.IP.Port()
	}
	if n != rpcbind.NoNetID {
		w.m.stats.countLookup(w.call.Version, m.Program, m.Version, n, port != 0)
	}
	return xdr.AppendUint32(w.success(buf), uint32(port)), Reply
}

// reachable reports whether the caller can get at an address that reg is bound
// to: the addresses of the loopback interface mean nothing on another host.
func (w *Worker) reachable(reg *registry.Registration) bool {
	return w.thisHost() || !reg.IP.Addr().Unmap().IsLoopback()
}

// getAddr is RPCBPROC_GETADDR and RPCBPROC_GETVERSADDR, RFC 1833, Section 2.2.1.
// The transport is the one that the call came over, whatever netid it names.
func (w *Worker) getAddr(buf []byte, find func(registry.Key) *registry.Registration) ([]byte, Outcome) {
	r := xdr.NewReader(w.call.Args)
	m := rpcbind.ReadRPCB(&r)
	if r.Err() != nil {
		return w.garbage(buf)
	}
	n := w.origin.NetID
	reg := find(registry.Key{Program: m.Program, Version: m.Version, NetID: n})
	buf = w.success(buf)
	at := len(buf)
	buf = xdr.AppendUint32(buf, 0)
	if reg != nil {
		buf = w.appendAddr(buf, reg, m.Addr)
	}
	size := len(buf) - at - 4
	w.m.stats.countLookup(w.call.Version, m.Program, m.Version, n, size > 0)
	return closeString(buf, at), Reply
}

// closeString completes the string whose length stands at at and whose bytes
// go to the end of buf.
func closeString(buf []byte, at int) []byte {
	n := len(buf) - at - 4
	xdr.AppendUint32(buf[:at], uint32(n))
	for ; n%4 != 0; n++ {
		buf = append(buf, 0)
	}
	return buf
}

// appendAddr appends the universal address under which the caller reaches reg,
// or nothing. A service on all addresses gets the one that the caller used for
// us, or the one that it says it used (hint), if that is ours.
func (w *Worker) appendAddr(buf []byte, reg *registry.Registration, hint []byte) []byte {
	switch {
	case reg.NetID.IsLocal():
		if !w.thisHost() {
			return buf
		}
		return append(buf, reg.Addr...)
	case !reg.IP.Addr().IsUnspecified():
		if !w.reachable(reg) {
			return buf
		}
		return append(buf, reg.Addr...)
	}
	local := w.origin.Local.Addr().WithZone("")
	if !local.IsValid() { // over a unix socket
		return append(buf, reg.Addr...)
	}
	at := len(buf)
	buf = rpcbind.AppendUAddr(buf, netip.AddrPortFrom(local, reg.IP.Port()))
	if other, ok := w.hinted(hint, buf[at:]); ok {
		return rpcbind.AppendUAddr(buf[:at], netip.AddrPortFrom(other, reg.IP.Port()))
	}
	return buf
}

// hinted returns the address of ours that the caller says it used, if that is
// another one than what stands in answer.
func (w *Worker) hinted(hint, answer []byte) (netip.Addr, bool) {
	if len(hint) == 0 || sameHost(hint, answer) {
		return netip.Addr{}, false
	}
	ap, ok := rpcbind.ParseUAddr(hint)
	addr := ap.Addr()
	if !ok || addr.IsUnspecified() || addr == w.origin.Local.Addr() || !w.origin.NetID.Accepts(addr) {
		return netip.Addr{}, false
	}
	if addr.Unmap().IsLoopback() && !w.thisHost() {
		return netip.Addr{}, false
	}
	return addr.WithZone(""), w.m.host.Knows(addr)
}

// sameHost reports whether two universal addresses differ in their ports only.
// It saves parsing the hint of most calls.
func sameHost(a, b []byte) bool {
	a, b = cutPort(a), cutPort(b)
	return len(a) > 0 && string(a) == string(b)
}

func cutPort(s []byte) []byte {
	dots := 0
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '.' {
			if dots++; dots == 2 {
				return s[:i]
			}
		}
	}
	return nil
}

// getAddrList is RPCBPROC_GETADDRLIST, RFC 1833, Section 2.2.1: all addresses
// of the exact version on transports of the caller's protocol family.
func (w *Worker) getAddrList(buf []byte) ([]byte, Outcome) {
	r := xdr.NewReader(w.call.Args)
	m := rpcbind.ReadRPCB(&r)
	if r.Err() != nil {
		return w.garbage(buf)
	}
	buf = w.success(buf)
	start, limit := len(buf), w.limit()
	family := w.origin.NetID.Transport().Family
	for reg := range w.snap.NetIDs(m.Program, m.Version) {
		if reg.NetID.Transport().Family != family {
			continue
		}
		buf = w.appendEntry(buf, reg, m.Addr)
		if len(buf)-start > limit {
			break
		}
	}
	w.m.stats.countLookup(w.call.Version, m.Program, m.Version, w.origin.NetID, len(buf) > start)
	return rpcbind.AppendMore(buf, false), Reply
}

func (w *Worker) appendEntry(buf []byte, reg *registry.Registration, hint []byte) []byte {
	entry := len(buf)
	buf = rpcbind.AppendMore(buf, true)
	at := len(buf)
	buf = xdr.AppendUint32(buf, 0)
	buf = w.appendAddr(buf, reg, hint)
	if len(buf) == at+4 {
		return buf[:entry]
	}
	return rpcbind.AppendTransport(closeString(buf, at), reg.NetID)
}

// dumpOn is PMAPPROC_DUMP and RPCBPROC_DUMP, RFC 1833, Sections 2.2.1 and 3.2,
// from w.place on.
func (w *Worker) dumpOn(buf []byte) ([]byte, Outcome) {
	start, limit := len(buf), min(w.limit(), partSize)
	for next, reg := range w.snap.From(w.place) {
		buf = w.appendListed(buf, reg)
		w.place = next
		if len(buf)-start <= limit {
			continue
		}
		if w.origin.NetID.Datagram() {
			break // it will be replaced
		}
		return buf, Part
	}
	return rpcbind.AppendMore(buf, false), Reply
}

// appendListed appends an item of DUMP, unless reg is not for the caller's
// eyes: version 2 can't name all, and other hosts are not told the paths of
// sockets that they can't reach.
func (w *Worker) appendListed(buf []byte, reg *registry.Registration) []byte {
	if w.call.Version == rpcbind.Version2 {
		prot := reg.NetID.Transport().IP
		if prot == 0 {
			return buf
		}
		return rpcbind.AppendMapping(rpcbind.AppendMore(buf, true), rpcbind.Mapping{
			Program: reg.Program, Version: reg.Version, Prot: prot, Port: uint32(reg.IP.Port()),
		})
	}
	if reg.NetID.IsLocal() && !w.thisHost() {
		return buf
	}
	return rpcbind.AppendRPCB(rpcbind.AppendMore(buf, true), &rpcbind.RPCB[string]{
		Program: reg.Program, Version: reg.Version,
		NetID: reg.NetID.String(), Addr: reg.Addr, Owner: reg.Owner,
	})
}
