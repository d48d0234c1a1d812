package portmapper

import (
	"net/netip"
	"strconv"
	"strings"

	"rpcward/internal/policy"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Ports with rules of their own for ordinary users.
const (
	firstFreePort = 1024 // IPPORT_RESERVED: lower ones are the superuser's to bind
	nfsPort       = 2049 // not reserved, but whoever answers there is trusted with files
)

// change is SET and UNSET of every version, RFC 1833, Sections 2.2.1 and 3.2.
func (w *Worker) change(buf []byte) ([]byte, Outcome) {
	owner, ok := w.owner()
	if !ok {
		if w.m.observer != nil {
			w.m.observer.Declined(w.origin, &w.call)
		}
		return oncrpc.AppendAuthError(buf, w.call.XID, oncrpc.AuthTooWeak), Reply
	}
	w.answered()
	r := xdr.NewReader(w.call.Args)
	var a changeArgs
	if w.call.Version == rpcbind.Version2 {
		a = mappingArgs(rpcbind.ReadMapping(&r))
	} else {
		a = rpcbArgs(rpcbind.ReadRPCB(&r))
	}
	if r.Err() != nil {
		return w.garbage(buf)
	}
	done := false
	if rpcbind.Proc(w.call.Procedure) == rpcbind.ProcSet {
		done = w.set(a, owner)
	} else {
		done = w.unset(a, owner)
	}
	return xdr.AppendBool(w.success(buf), done), Reply
}

// owner tells in whose name the caller changes the registry; not ok means that
// it may not at all. Only the kernel's word counts: the peer's credentials on a
// unix socket, the interface and the privileged port over IP.
func (w *Worker) owner() (string, bool) {
	o := w.origin
	switch {
	case o.Channel == policy.Unix && o.UID == 0:
		return registry.Superuser, true
	case o.Channel == policy.Unix:
		return strconv.FormatUint(uint64(o.UID), 10), true
	case o.Channel == policy.Loopback && o.Privileged:
		return registry.Superuser, true
	case o.Channel == policy.Loopback:
		return registry.Unknown, w.m.options.InsecureLocal || w.m.options.InsecureRemote
	default:
		return registry.Unknown, o.Channel == policy.Network && w.m.options.InsecureRemote
	}
}

// changeArgs is what SET and UNSET name, in any version. For UNSET no netids
// means all of them.
type changeArgs struct {
	program, version uint32
	netids           []rpcbind.NetID
	known            bool // false: a netid that nothing can be registered under
	addr             string
}

func mappingArgs(m rpcbind.Mapping) changeArgs {
	a := changeArgs{program: m.Program, version: m.Version, known: true}
	// UNSET takes both protocols, whichever the caller names. RFC 1833, Section 3.2.
	a.netids = []rpcbind.NetID{rpcbind.TCP, rpcbind.UDP}
	if n := rpcbind.FromProt(m.Prot); n != rpcbind.NoNetID && m.Port <= 0xffff {
		a.netids = []rpcbind.NetID{n, otherProtocol(n)}
		a.addr = rpcbind.UAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(m.Port)))
	}
	return a
}

func otherProtocol(n rpcbind.NetID) rpcbind.NetID {
	if n == rpcbind.TCP {
		return rpcbind.UDP
	}
	return rpcbind.TCP
}

func rpcbArgs(m rpcbind.RPCB[[]byte]) changeArgs {
	a := changeArgs{program: m.Program, version: m.Version, known: true, addr: string(m.Addr)}
	if len(m.NetID) > 0 {
		n := rpcbind.ParseNetIDBytes(m.NetID)
		a.netids = []rpcbind.NetID{n}
		a.known = n != rpcbind.NoNetID
	}
	return a
}

// set registers under the first netid of a.
func (w *Worker) set(a changeArgs, owner string) bool {
	if !a.known || len(a.netids) == 0 || a.program == rpcbind.Program {
		return false
	}
	reg := registry.Registration{
		Key:  registry.Key{Program: a.program, Version: a.version, NetID: a.netids[0]},
		Addr: a.addr, Owner: owner,
	}
	if reg.NetID.IsLocal() {
		if !validPath(reg.Addr) {
			return false
		}
	} else if !w.validIP(&reg) {
		return false
	}
	done, err := w.m.registry.Set(reg)
	if err != nil && w.m.observer != nil {
		w.m.observer.NotSaved(err)
	}
	if done {
		w.m.stats.countSet(w.call.Version)
	}
	return done
}

// validIP parses the address of reg and checks that this host can serve it and
// that its owner may claim it.
func (w *Worker) validIP(reg *registry.Registration) bool {
	ap, ok := rpcbind.ParseUAddr([]byte(reg.Addr))
	addr := ap.Addr()
	switch {
	case !ok || ap.Port() == 0 || !reg.NetID.Accepts(addr) || addr.Is4In6():
		return false
	case addr.Zone() != "" && !addr.IsLinkLocalUnicast():
		return false // what has no scope but carries one was not written by the kernel
	case !addr.IsUnspecified() && !w.m.host.HasAddr(addr):
		return false
	}
	reg.IP = ap
	switch {
	case reg.Owner == registry.Superuser:
		return true
	case w.ownPort(reg):
		return false
	case ap.Port() >= firstFreePort && ap.Port() != nfsPort:
		return true
	}
	// Services that drop their rights after binding, such as rpc.statd -p 662,
	// register as an ordinary user. Nobody else can have bound such a port.
	return w.m.host.Bound(reg.NetID, ap)
}

// ownPort reports whether reg claims the port that the port mapper itself serves.
func (w *Worker) ownPort(reg *registry.Registration) bool {
	own := w.snap.Lookup(registry.Key{Program: rpcbind.Program, NetID: reg.NetID})
	return own != nil && own.IP.Port() == reg.IP.Port()
}

// maxPath is the longest path of a unix socket in bytes, sockaddr_un in unix(7).
const maxPath = 107

func validPath(p string) bool {
	if len(p) < 2 || len(p) > maxPath || p[0] != '/' {
		return false
	}
	return !strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f })
}

func (w *Worker) unset(a changeArgs, owner string) bool {
	done := true // under a netid that nobody knows, nothing is registered
	if a.known {
		var err error
		done, err = w.m.registry.Unset(a.program, a.version, a.netids, owner)
		if err != nil && w.m.observer != nil {
			w.m.observer.NotSaved(err)
		}
	}
	if done {
		w.m.stats.countUnset(w.call.Version)
	}
	return done
}
