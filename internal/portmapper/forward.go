package portmapper

import (
	"net/netip"

	"rpcward/internal/policy"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// ForwardList says which calls for other programs may be forwarded: a
// forwarded call reaches a service with this host's address instead of the
// caller's, so only what is meant to be asked by broadcast belongs here.
// The zero value forwards procedure 0 (NULL), which only tells who is there.
type ForwardList map[uint32][]uint32 // program to procedures

// DefaultForwardList has the procedures that clients ask by broadcast.
func DefaultForwardList() ForwardList {
	return ForwardList{
		100001: {1},    // rstatd: RSTATPROC_STATS, for rup
		100002: {2, 3}, // rusersd: RUSERSPROC_NAMES, RUSERSPROC_ALLNAMES, for rusers
		100004: {1, 2}, // ypserv: YPPROC_DOMAIN, YPPROC_DOMAIN_NONACK, for ypbind -broadcast
		100026: {1},    // bootparamd: BOOTPARAMPROC_WHOAMI, for diskless clients
	}
}

// allows reports whether c may be forwarded. A nil list allows none.
func (l *ForwardList) allows(c *rpcbind.RemoteCall) bool {
	if l == nil || c.Program == rpcbind.Program {
		return false
	}
	if c.Procedure == 0 {
		return true
	}
	for _, p := range (*l)[c.Program] {
		if p == c.Procedure {
			return true
		}
	}
	return false
}

// Forwarding is a call that the policy and the ForwardList let pass on to the
// service at Target. Its answer goes back to the caller through Reply.
type Forwarding struct {
	Target   netip.AddrPort     // the service, on this host
	Call     rpcbind.RemoteCall // aliases the message
	Origin   policy.Origin
	XID      uint32
	Version  uint32 // of the port mapper, which decides the shape of the answer
	Indirect bool   // INDIRECT tells of errors, the others are silent
	limit    int    // longest reply in bytes
	addr     string // universal address of the service, for versions 3 and 4
	m        *Mapper
}

// callIt is PMAPPROC_CALLIT, RPCBPROC_CALLIT, RPCBPROC_BCAST and
// RPCBPROC_INDIRECT, RFC 1833, Sections 2.2.1 and 3.2.
func (w *Worker) callIt(buf []byte) ([]byte, Outcome) {
	if !w.origin.NetID.Datagram() {
		return buf, Silence
	}
	r := xdr.NewReader(w.call.Args)
	w.remote = rpcbind.ReadRemoteCall(&r)
	c := &w.remote
	indirect := rpcbind.Proc(w.call.Procedure) == rpcbind.ProcIndirect
	if r.Err() != nil && indirect {
		return w.garbage(buf)
	}
	if r.Err() != nil {
		return buf, Silence // it may be a broadcast, and nobody is to answer that with an error
	}
	if c.Program == rpcbind.Program && c.Procedure == 0 && w.m.options.Forward != nil {
		return w.callSelf(buf, c)
	}
	if !w.m.options.Forward.allows(c) || w.origin.Channel == policy.Claimed && w.origin.NetID.Is6() {
		// The kernel drops forged datagrams of its own addresses over IPv4 only.
		return w.denyForward(buf, c, indirect)
	}
	reg := w.snap.Exact(registry.Key{Program: c.Program, Version: c.Version, NetID: w.origin.NetID})
	if reg == nil || !w.served(reg) {
		return w.noService(buf, c, indirect)
	}
	at := len(buf)
	buf = w.appendAddr(buf, reg, nil)
	addr := string(buf[at:])
	w.Forwarded = Forwarding{
		Target: target(reg), Call: *c, Origin: *w.origin, XID: w.call.XID, Version: w.call.Version,
		Indirect: indirect, limit: w.limit(), addr: addr, m: w.m,
	}
	return buf[:at], Forward
}

// served reports whether the address of reg is this host's, now. A registration
// may be older than a change of addresses.
func (w *Worker) served(reg *registry.Registration) bool {
	return reg.IP.Addr().IsUnspecified() || w.m.host.HasAddr(reg.IP.Addr())
}

// target is where this host reaches reg.
func target(reg *registry.Registration) netip.AddrPort {
	addr := reg.IP.Addr()
	switch {
	case !addr.IsUnspecified():
	case addr.Is4():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		addr = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(addr, reg.IP.Port())
}

// callSelf answers a broadcast that looks for port mappers. It is never
// forwarded: what answers is this one.
func (w *Worker) callSelf(buf []byte, c *rpcbind.RemoteCall) ([]byte, Outcome) {
	reg := w.snap.Exact(registry.Key{Program: c.Program, Version: c.Version, NetID: w.origin.NetID})
	if reg == nil {
		return w.noService(buf, c, rpcbind.Proc(w.call.Procedure) == rpcbind.ProcIndirect)
	}
	buf = w.success(buf)
	if w.call.Version == rpcbind.Version2 {
		buf = xdr.AppendUint32(buf, uint32(reg.IP.Port()))
	} else {
		at := len(buf)
		buf = closeString(w.appendAddr(xdr.AppendUint32(buf, 0), reg, nil), at)
	}
	return xdr.AppendOpaque(buf, nil), Reply
}

func (w *Worker) denyForward(buf []byte, c *rpcbind.RemoteCall, indirect bool) ([]byte, Outcome) {
	w.m.stats.countRemote(w.call.Version, c, w.origin.NetID, false, indirect)
	if w.m.observer != nil && w.m.options.Forward != nil {
		w.m.observer.IndirectDenied(w.origin, c)
	}
	if !indirect {
		return buf, Silence // it may be a broadcast, which nobody but the asked one answers
	}
	if w.m.options.Forward == nil {
		return oncrpc.AppendAccepted(buf, w.call.XID, oncrpc.SystemErr), Reply
	}
	return oncrpc.AppendAuthError(buf, w.call.XID, oncrpc.AuthTooWeak), Reply
}

func (w *Worker) noService(buf []byte, c *rpcbind.RemoteCall, indirect bool) ([]byte, Outcome) {
	w.m.stats.countRemote(w.call.Version, c, w.origin.NetID, false, indirect)
	if !indirect {
		return buf, Silence
	}
	low, high, ok := w.snap.Versions(c.Program, w.origin.NetID)
	if !ok {
		return oncrpc.AppendAccepted(buf, w.call.XID, oncrpc.ProgUnavail), Reply
	}
	return oncrpc.AppendProgMismatch(buf, w.call.XID, low, high), Reply
}

// Reply appends the answer to the caller of f, given the service's reply, or
// nil if there was none. With nothing to send it returns buf as it was.
func (f *Forwarding) Reply(buf []byte, service *oncrpc.Reply) []byte {
	ok := service != nil && service.Stat == oncrpc.MsgAccepted && service.Accept == oncrpc.Success
	f.m.stats.countRemote(f.Version, &f.Call, f.Origin.NetID, ok, f.Indirect)
	if !ok {
		if f.Indirect {
			return oncrpc.AppendAccepted(buf, f.XID, oncrpc.SystemErr)
		}
		return buf
	}
	start := len(buf)
	buf = oncrpc.AppendAccepted(buf, f.XID, oncrpc.Success)
	if f.Version == rpcbind.Version2 {
		buf = xdr.AppendUint32(buf, uint32(f.Target.Port()))
	} else {
		buf = xdr.AppendString(buf, f.addr)
	}
	buf = xdr.AppendOpaque(buf, service.Results)
	if len(buf)-start > f.limit {
		return buf[:start]
	}
	return buf
}
