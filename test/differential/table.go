package differential

import (
	"bytes"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// difference is one way in which the two may differ.
type difference struct {
	// Name is a heading of docs/differences.md.
	Name string
	// reconcile reports whether c shows this difference, after it has replaced
	// an outcome by what the other program must have got or said without it.
	// Entries compare their answer with a second question where they can, so
	// that only what the heading speaks of is tolerated.
	reconcile func(c *Case) bool
	// quiet reports whether the registrations may differ after c, although the
	// answers do not.
	quiet func(c *Case) bool
}

// table is in the order in which differences are looked for: first those of
// how a call gets in, then who is answered, then what.
var table = []difference{
	{Name: "fragments", reconcile: fragments},
	{Name: "exact-bytes", reconcile: exactBytes},
	{Name: "longer-datagrams", reconcile: longerDatagrams},
	{Name: "closed-until-opened", reconcile: closedUntilOpened},
	{Name: "silence-over-udp", reconcile: silenceOverUDP},
	{Name: "gate-first", reconcile: gateFirst},
	{Name: "this-host-always", reconcile: thisHostAlways},
	{Name: "no-amplification", reconcile: noAmplification},
	{Name: "null-verifier", reconcile: nullVerifier},
	{Name: "gss", reconcile: gss},
	{Name: "auth-sys-checked", reconcile: authSysChecked},
	{Name: "loopback-interface", reconcile: loopbackInterface, quiet: loopbackOwner},
	{Name: "privileged-port", reconcile: privilegedPort},
	{Name: "own-program", reconcile: ownProgram},
	{Name: "set-local-path", reconcile: refusedSet(badPath)},
	{Name: "set-checked", reconcile: refusedSet(badAddr)},
	{Name: "reserved-ports", reconcile: refusedSet(reservedPort)},
	{Name: "netid-case", quiet: netidCase},
	{Name: "one-store", quiet: oneStore},
	{Name: "unset-whole", reconcile: unsetWhole, quiet: unsetWholeQuiet},
	{Name: "dump-over-udp", reconcile: dumpOverUDP},
	{Name: "hidden-paths", reconcile: hiddenPaths},
	{Name: "addrlist", reconcile: addrList},
	{Name: "specific-address", reconcile: specificAddress},
	{Name: "address-asked", reconcile: addressAsked},
	{Name: "uaddr-syntax", reconcile: uaddrSyntax},
	{Name: "getstat-bounded", reconcile: getStatBounded}, // see also statistics
	{Name: "getstat-counts", quiet: getStatCounts},       // see also statistics
	{Name: "forward-itself", reconcile: forwardItself},
	{Name: "forward-silent", reconcile: forwardSilent},
	{Name: "forward-list", reconcile: forwardList},
	{Name: "forward-failed", reconcile: forwardFailed},
	{Name: "forward-port"}, // see TestForwardedAnswers: other sockets don't hear it
	{Name: "calls-off", reconcile: callsOff},
}

// Names returns the names of all differences that the test tolerates.
func Names() []string {
	var names []string
	for _, d := range table {
		names = append(names, d.Name)
	}
	return names
}

func fragments(c *Case) bool {
	if c.Route.Datagram() {
		return false
	}
	if c.Step.Framing == Cut && c.Stock.Closed && !c.Ours.Closed {
		// What rpcbind may have answered is only what the first fragment means.
		whole := c.Step
		whole.Framing, whole.Fresh = Whole, true
		c.Stock = c.stock.Ask(whole)
		return true
	}
	if c.Step.Framing == Open && c.Stock.Reply != nil && c.Ours.Reply == nil && c.Ours.Closed {
		// rpcbind answers what it has when the connection ends.
		whole := c.Step
		whole.Framing, whole.Fresh = Whole, true
		c.Ours, c.Stock.Closed = c.ours.Ask(whole), false
		return true
	}
	if c.Step.Framing == Cut && len(c.Step.Msg) > bufferSize && c.Stock.Closed && c.Ours.Closed && c.Ours.Reply == nil {
		return c.settle() // too long for us, and rpcbind has seen the first fragment only
	}
	return false
}

func exactBytes(c *Case) bool {
	if !c.buffered() || c.askedBuffered || !accepted(&c.Ours, oncrpc.GarbageArgs) && !silent(&c.Ours) {
		return false
	}
	if own, err := oncrpc.ParseCall(c.Step.Msg); err == nil && c.complete(own.Args) {
		return false
	}
	c.askedBuffered = true
	return c.askOurs(asBuffered(c.Step.Msg))
}

func longerDatagrams(c *Case) bool {
	if !c.Route.Datagram() || len(c.Step.Msg) <= bufferSize || c.askedShorter {
		return false
	}
	c.askedShorter = true
	return c.askOurs(c.Step.Msg[:bufferSize])
}

func closedUntilOpened(c *Case) bool {
	if c.Route.From != Stranger || c.Setup.Denied {
		return false
	}
	return refused(c) && c.settle()
}

// refused reports whether we treated the caller as a stranger.
func refused(c *Case) bool {
	if c.Route.Datagram() {
		return silent(&c.Ours)
	}
	return authError(&c.Ours, oncrpc.AuthTooWeak)
}

func silenceOverUDP(c *Case) bool {
	return c.Route.From == Stranger && c.Setup.Denied && c.Route.Datagram() &&
		silent(&c.Ours) && authError(&c.Stock, oncrpc.AuthTooWeak) && c.settle()
}

// gateFirst is for what rpcbind answers to callers that it refuses.
func gateFirst(c *Case) bool {
	if c.Changes() && accepted(&c.Stock, oncrpc.GarbageArgs) && authError(&c.Ours, oncrpc.AuthTooWeak) {
		return c.settle()
	}
	if c.Route.From != Stranger || !c.Setup.Denied || !refused(c) {
		return false
	}
	_, known := c.proc()
	if known && c.call.CheckCred() == oncrpc.AuthOK && !accepted(&c.Stock, oncrpc.GarbageArgs) && !c.isAny(rpcbind.ProcNull, rpcbind.ProcCallIt, rpcbind.ProcIndirect) {
		return false
	}
	return c.settle()
}

func thisHostAlways(c *Case) bool {
	return c.Setup.Denied && c.Route.From == Server && c.Route.Network != "unix" &&
		authError(&c.Stock, oncrpc.AuthTooWeak) && !authError(&c.Ours, oncrpc.AuthTooWeak) && !silent(&c.Ours) && c.settle()
}

func noAmplification(c *Case) bool {
	if !c.Route.Unproven || !authError(&c.Ours, oncrpc.AuthTooWeak) || c.Changes() {
		return false
	}
	tooLong := silent(&c.Stock) || accepted(&c.Stock, oncrpc.SystemErr) // for rpcbind, too
	if len(c.Stock.Reply) <= len(c.Step.Msg) && !tooLong {
		return false
	}
	// With bytes behind its arguments, which mean nothing, the call may get
	// the whole answer.
	return c.askOurs(append(slices.Clone(c.Step.Msg), make([]byte, bufferSize-len(c.Step.Msg))...))
}

func nullVerifier(c *Case) bool {
	r, err := oncrpc.ParseReply(c.Stock.Reply)
	if err != nil || r.Stat != oncrpc.MsgAccepted || c.call.Cred.Flavor != oncrpc.AuthSys {
		return false
	}
	if r.Verf.Flavor == oncrpc.AuthNone && len(r.Verf.Body) == 0 ||
		r.Verf.Flavor != c.call.Verf.Flavor || !bytes.Equal(r.Verf.Body, c.call.Verf.Body) {
		return false
	}
	const header = 12 // xid, REPLY, MSG_ACCEPTED
	verf := 8 + (len(r.Verf.Body)+3)&^3
	null := make([]byte, 8)
	c.Stock.Reply = slices.Concat(c.Stock.Reply[:header], null, c.Stock.Reply[header+verf:])
	return true
}

func gss(c *Case) bool {
	return c.call.Cred.Flavor == oncrpc.RPCSecGSS && authError(&c.Ours, oncrpc.AuthBadCred) &&
		!bytes.Equal(c.Stock.Reply, c.Ours.Reply) && c.settle()
}

func authSysChecked(c *Case) bool {
	if c.call.Cred.Flavor != oncrpc.AuthSys || !authError(&c.Ours, oncrpc.AuthBadCred) {
		return false
	}
	return !wellFormedSys(c.call.Cred.Body) && c.settle()
}

// wellFormedSys checks an AUTH_SYS body, RFC 5531, Appendix A, by its sizes alone.
func wellFormedSys(b []byte) bool {
	at := func(i int) int {
		if i < 0 || i+4 > len(b) {
			return 1 << 30
		}
		r := xdr.NewReader(b[i:])
		return int(r.Uint32())
	}
	name := at(4)
	if name > 255 {
		return false
	}
	gids := 8 + (name+3)&^3 + 8
	return at(gids) <= 16 && gids+4+4*at(gids) <= len(b)
}

// loopbackInterface is a change from an address of the host that rpcbind does
// not take for one.
func loopbackInterface(c *Case) bool {
	if c.Setup.Insecure && c.Changes() && c.claimed() {
		return authError(&c.Ours, oncrpc.AuthTooWeak) && c.settle()
	}
	if !c.Changes() || !c.otherLoopback() {
		return false
	}
	declined := authError(&c.Stock, oncrpc.AuthTooWeak)
	notOwner := c.isAny(rpcbind.ProcUnset) && answers(&c.Stock, false) && answers(&c.Ours, true)
	return (declined || c.Setup.Insecure && notOwner) && c.settle()
}

// loopbackOwner: with -i rpcbind takes such registrations, but as those of
// somebody unknown.
func loopbackOwner(c *Case) bool { return c.Setup.Insecure && c.Changes() && c.otherLoopback() }

// claimed reports whether the call is a datagram from a network address of the
// host to itself, which we do not let change anything, with -i either.
func (c *Case) claimed() bool {
	r := c.Route
	return r.From == Server && r.Network == "udp" && !r.Target.IsLoopback()
}

// otherLoopback reports whether the caller has a privileged port of this host
// on an address that is not 127.0.0.1 or ::1, and came over the loopback
// interface. Datagrams between network addresses of the host name another one.
func (c *Case) otherLoopback() bool {
	r := c.Route
	return r.From == Server && r.Privileged && (r.Target == other || r.Network == "tcp" && !r.Target.IsLoopback())
}

func privilegedPort(c *Case) bool {
	r := c.Route
	return c.Changes() && r.From == Server && r.Network != "unix" && !r.Privileged && !c.Setup.Insecure &&
		(r.Target == loop4 || r.Target == loop6) && authError(&c.Ours, oncrpc.AuthTooWeak) && c.settle()
}

func ownProgram(c *Case) bool {
	return c.Changes() && c.change().Program == rpcbind.Program && answers(&c.Ours, false) && answers(&c.Stock, true) && c.settle()
}

// refusedSet is a SET that rpcbind takes and we do not, for the given reason.
func refusedSet(reason func(*Case, Change) bool) func(*Case) bool {
	return func(c *Case) bool {
		return c.isAny(rpcbind.ProcSet) && answers(&c.Ours, false) && answers(&c.Stock, true) && reason(c, c.change()) && c.settle()
	}
}

func badPath(_ *Case, a Change) bool {
	if a.NetID == "" || !rpcbind.ParseNetID(a.NetID).IsLocal() {
		return false
	}
	printable := !strings.ContainsFunc(a.Addr, func(r rune) bool { return r < ' ' || r == 0x7f })
	return !strings.HasPrefix(a.Addr, "/") || len(a.Addr) < 2 || len(a.Addr) > 107 || !printable
}

// serverAddrs are the addresses of the server of a lab.Net.
var serverAddrs = []netip.Addr{
	netip.IPv4Unspecified(), netip.IPv6Unspecified(), loop6,
	lab.ServerIP, lab.ServerIP6, lab.ServerWAN, lab.ServerWAN6,
}

func ofServer(a netip.Addr) bool {
	return slices.Contains(serverAddrs, a.Unmap()) || a.Unmap().IsLoopback()
}

func badAddr(c *Case, a Change) bool {
	if c.call.Version == rpcbind.Version2 {
		return a.Port == 0 || a.Port > 65535
	}
	n := rpcbind.ParseNetID(a.NetID)
	if n == rpcbind.NoNetID {
		return true
	}
	ap, ok := parseUAddr(a.Addr)
	return !n.IsLocal() && (!ok || ap.Port() == 0 || ap.Addr().Is4() == n.Is6() || ap.Addr().Is4In6() ||
		ap.Addr().Zone() != "" && !ap.Addr().IsLinkLocalUnicast() || !ofServer(ap.Addr()))
}

// parseUAddr reads a universal address, RFC 5665, Section 5.2.3, the plain way.
func parseUAddr(s string) (netip.AddrPort, bool) {
	f := strings.Split(s, ".")
	if len(f) < 3 {
		return netip.AddrPort{}, false
	}
	host := strings.Join(f[:len(f)-2], ".")
	addr, err := netip.ParseAddr(host)
	port := 0
	for _, o := range f[len(f)-2:] {
		n := 0
		for _, d := range o {
			if d < '0' || d > '9' || len(o) > 3 {
				return netip.AddrPort{}, false
			}
			n = 10*n + int(d-'0')
		}
		if n > 255 || o == "" {
			return netip.AddrPort{}, false
		}
		port = port<<8 | n
	}
	return netip.AddrPortFrom(addr, uint16(port)), err == nil
}

func reservedPort(c *Case, a Change) bool {
	if c.Route.Network != "unix" && !c.Setup.Insecure || c.Route.UID == 0 && c.Route.Network == "unix" {
		return false
	}
	port := a.Port
	if ap, ok := parseUAddr(a.Addr); ok {
		port = uint32(ap.Port())
	}
	return port < 1024 || port == 2049
}

// netidCase is a SET whose netid is not spelled as netconfig(5) does.
func netidCase(c *Case) bool {
	n := c.change().NetID
	return c.isAny(rpcbind.ProcSet) && n != strings.ToLower(n) && answers(&c.Stock, true) && answers(&c.Ours, true)
}

// oneStore is an UNSET after which rpcbind's version 2 goes on listing what it
// removed from the others: it compares netids in two ways.
func oneStore(c *Case) bool {
	n := c.change().NetID
	return c.isAny(rpcbind.ProcUnset) && n != strings.ToLower(n) && answers(&c.Stock, true) && answers(&c.Ours, true)
}

// unsetWhole is an UNSET that we refuse for a registration of somebody else.
func unsetWhole(c *Case) bool {
	return c.isAny(rpcbind.ProcUnset) && answers(&c.Ours, false) && answers(&c.Stock, true) && c.mixedOwners() && c.settle()
}

func unsetWholeQuiet(c *Case) bool {
	return c.isAny(rpcbind.ProcUnset) && answers(&c.Ours, false) && c.mixedOwners()
}

// mixedOwners reports whether an UNSET that we refused names a registration of
// somebody else.
func (c *Case) mixedOwners() bool {
	a, owner := c.change(), c.owner()
	return slices.ContainsFunc(c.ours.List(), func(r rpcbind.RPCB[string]) bool {
		return r.Program == a.Program && r.Version == a.Version && r.Owner != owner && owner != "superuser"
	})
}

// owner is what the caller's registrations are listed under.
func (c *Case) owner() string {
	r := c.Route
	switch {
	case r.Network == "unix" && r.UID != 0:
		return strconv.FormatUint(uint64(r.UID), 10)
	case r.Network == "unix", r.Privileged && (r.Target.IsLoopback() || c.otherLoopback()):
		return "superuser"
	}
	return "unknown"
}

func dumpOverUDP(c *Case) bool {
	if !c.Route.Datagram() || !accepted(&c.Ours, oncrpc.SystemErr) || c.isAny(rpcbind.ProcIndirect) {
		return false
	}
	over := c.Step
	over.Route = 0
	whole := c.ours.Ask(over)
	// Of GETSTAT, which counts differently, rpcbind's answer may be shorter.
	stock := silent(&c.Stock) || len(c.Stock.Reply) > 8800 || c.is(4, rpcbind.ProcGetStat)
	return len(whole.Reply) > 8800 && stock && c.settle()
}

func hiddenPaths(c *Case) bool {
	if c.Route.From == Server || !c.is(3, rpcbind.ProcDump) && !c.is(4, rpcbind.ProcDump) {
		return false
	}
	res, ok := success(&c.Stock)
	if !ok {
		return false
	}
	r := xdr.NewReader(res)
	list := rpcbind.ReadRPCBs(&r)
	head := c.Stock.Reply[:len(c.Stock.Reply)-len(res)]
	b := slices.Clone(head)
	for i := range list {
		if !rpcbind.ParseNetID(list[i].NetID).IsLocal() {
			b = rpcbind.AppendRPCB(rpcbind.AppendMore(b, true), &list[i])
		}
	}
	b = rpcbind.AppendMore(b, false)
	if r.Err() != nil || bytes.Equal(b, c.Stock.Reply) {
		return false
	}
	c.Stock.Reply = b
	return true
}

// counted is the number of names that we count in each table of GETSTAT.
const counted = 128

// getStatBounded is an answer that is too long for a datagram of rpcbind only.
func getStatBounded(c *Case) bool {
	res, ok := success(&c.Ours)
	if !ok || !c.is(4, rpcbind.ProcGetStat) || !c.Route.Datagram() || !accepted(&c.Stock, oncrpc.SystemErr) {
		return false
	}
	r := xdr.NewReader(res)
	full := false
	for range rpcbind.NumStats {
		s := rpcbind.ReadStat(&r)
		full = full || len(s.Addrs) == counted || len(s.Remote) == counted
	}
	return full && r.Err() == nil && c.settle()
}

// answered returns the addresses that o gives, each with its netid.
func (c *Case) answered(o *Outcome) ([]rpcbind.AddrEntry, bool) {
	res, ok := success(o)
	if !ok {
		return nil, false
	}
	r := xdr.NewReader(res)
	switch {
	case c.is(4, rpcbind.ProcGetAddrList):
		list := rpcbind.ReadAddrEntries(&r)
		return list, r.Err() == nil
	case c.is(2, rpcbind.ProcGetAddr):
		e := rpcbind.AddrEntry{NetID: c.change().NetID}
		if port := r.Uint32(); port != 0 {
			e.Addr = rpcbind.UAddr(netip.AddrPortFrom(c.Route.Target, uint16(port)))
		}
		return []rpcbind.AddrEntry{e}, r.Err() == nil
	case c.isAny(rpcbind.ProcGetAddr, rpcbind.ProcGetVersAddr):
		s, ok := text(o)
		return []rpcbind.AddrEntry{{NetID: c.Route.NetID().String(), Addr: s}}, ok
	}
	return nil, false
}

// addrList is an address list that rpcbind does not give: over a unix socket
// it has none, and it falls silent at a netid that it does not serve.
func addrList(c *Case) bool {
	ours, ok := c.answered(&c.Ours)
	if !ok || !c.is(4, rpcbind.ProcGetAddrList) {
		return false
	}
	if silent(&c.Stock) {
		return slices.ContainsFunc(c.ours.List(), func(r rpcbind.RPCB[string]) bool {
			return r.Program == c.change().Program && r.Version == c.change().Version && !slices.Contains(configured, r.NetID)
		}) && c.settle()
	}
	stock, ok := c.answered(&c.Stock)
	return ok && len(stock) == 0 && c.Route.NetID().IsLocal() && !slices.ContainsFunc(ours, func(e rpcbind.AddrEntry) bool {
		return !slices.Contains(c.registered(e.NetID), e.Addr)
	}) && c.settle()
}

// configured are the netids that rpcbind serves.
var configured = []string{"udp", "tcp", "udp6", "tcp6", "local"}

// specificAddress is an answer in which an address was registered as it is, or
// left out since the caller can't reach it.
func specificAddress(c *Case) bool {
	return c.compareAddrs(func(stock, ours string, registered []string) bool {
		if ours == "" {
			return c.Route.From != Server && slices.ContainsFunc(registered, loopbackUAddr)
		}
		return slices.Contains(registered, ours) && !wildcardUAddr(ours)
	})
}

// addressAsked is an answer with the address that the caller used, or says
// that it used, instead of one that rpcbind took from an interface.
func addressAsked(c *Case) bool {
	if c.is(4, rpcbind.ProcGetAddrList) && c.badHint() {
		// rpcbind leaves out what it can't merge with the hint.
		if stock, ok := c.answered(&c.Stock); ok && len(stock) == 0 {
			return c.settle()
		}
	}
	return c.compareAddrs(func(stock, ours string, registered []string) bool {
		s, sok := parseUAddr(stock)
		o, ook := parseUAddr(ours)
		if !sok || !ook || s.Port() != o.Port() || !slices.ContainsFunc(registered, wildcardUAddr) {
			return false
		}
		hint, ok := parseUAddr(c.change().Addr)
		followed := ok && hint.Addr() == o.Addr() && ofServer(hint.Addr()) && (c.Route.From == Server || !hint.Addr().Unmap().IsLoopback())
		return ofServer(s.Addr()) && (o.Addr() == c.Route.Target || followed)
	})
}

// badHint reports whether the hint is not an address of the call's transport.
func (c *Case) badHint() bool {
	hint := c.change().Addr
	ap, ok := parseUAddr(hint)
	return hint != "" && (!ok || ap.Addr().Is6() != c.Route.NetID().Is6())
}

func loopbackUAddr(s string) bool {
	ap, ok := parseUAddr(s)
	return ok && ap.Addr().Unmap().IsLoopback()
}
func wildcardUAddr(s string) bool {
	ap, ok := parseUAddr(s)
	return ok && ap.Addr().IsUnspecified()
}

// compareAddrs settles a look-up if allowed accepts each address in which the
// answers differ; one that is missing is "".
func (c *Case) compareAddrs(allowed func(stock, ours string, registered []string) bool) bool {
	stock, sok := c.answered(&c.Stock)
	ours, ook := c.answered(&c.Ours)
	if !sok || !ook {
		return false
	}
	found := false
	for i := range stock {
		at := slices.IndexFunc(ours, func(e rpcbind.AddrEntry) bool { return e.NetID == stock[i].NetID })
		addr := ""
		if at >= 0 {
			addr = ours[at].Addr
		}
		if addr == stock[i].Addr {
			continue
		}
		if !allowed(stock[i].Addr, addr, c.registered(stock[i].NetID)) {
			continue
		}
		found = true
		stock[i].Addr = addr
	}
	if !found {
		return false
	}
	stock = slices.DeleteFunc(stock, func(e rpcbind.AddrEntry) bool { return e.Addr == "" && c.is(4, rpcbind.ProcGetAddrList) })
	if slices.EqualFunc(stock, ours, func(a, b rpcbind.AddrEntry) bool { return a.NetID == b.NetID && a.Addr == b.Addr }) {
		return c.settle()
	}
	return false
}

// registered lists where we have the program that c asks for on netid.
func (c *Case) registered(netid string) []string {
	var list []string
	for _, r := range c.ours.List() {
		if r.Program == c.change().Program && r.NetID == netid {
			list = append(list, r.Addr)
		}
	}
	return list
}

// zeroBefore finds an IPv4 address with a zero before another digit, which
// inet_pton(3) takes for octal and refuses.
var zeroBefore = regexp.MustCompile(`^(\d+\.){0,3}0\d+(\.\d+){2,5}$`)

// uaddrSyntax is an address that we don't convert, for it is none.
func uaddrSyntax(c *Case) bool {
	res, ok := success(&c.Ours)
	r := xdr.NewReader(c.call.Args)
	switch {
	case !ok:
		return false
	case len(bytes.Trim(res, "\x00")) > 0:
		s := rpcbind.ReadString(&r)
		return c.isAny(rpcbind.ProcUAddr2TAddr) && zeroBefore.Match(s) && c.settle()
	case c.isAny(rpcbind.ProcUAddr2TAddr):
		return !c.convertible(string(rpcbind.ReadString(&r))) && c.settle()
	case c.isAny(rpcbind.ProcTAddr2UAddr):
		r.Uint32()
		return !c.isSockaddr(r.Opaque(rpcbind.MaxString)) && c.settle()
	}
	return false
}

// convertible reports whether s is a universal address of the call's transport.
func (c *Case) convertible(s string) bool {
	n := c.Route.NetID()
	if n.IsLocal() {
		return !badPath(c, Change{NetID: "local", Addr: s})
	}
	ap, ok := parseUAddr(s)
	return ok && ap.Addr().Is6() == n.Is6()
}

// isSockaddr reports whether raw is a socket address of the call's transport
// on Linux.
func (c *Case) isSockaddr(raw []byte) bool {
	n := c.Route.NetID()
	family, size := byte(2), 16
	switch {
	case n.IsLocal():
		family, size = 1, 3
	case n.Is6():
		family, size = 10, 28
	}
	if len(raw) < size || raw[0] != family || raw[1] != 0 {
		return false
	}
	path, _, _ := strings.Cut(string(raw[2:]), "\x00")
	return !n.IsLocal() || !badPath(c, Change{NetID: "local", Addr: path})
}

// remoteCall returns the call that is to be forwarded.
func (c *Case) remoteCall() (rpcbind.RemoteCall, bool) {
	r := xdr.NewReader(c.call.Args)
	rc := rpcbind.ReadRemoteCall(&r)
	return rc, r.Err() == nil && c.isAny(rpcbind.ProcCallIt, rpcbind.ProcIndirect) && c.Route.Datagram()
}

func callsOff(c *Case) bool {
	_, ok := c.remoteCall()
	if !ok || c.Setup.Forward {
		return false
	}
	if c.isAny(rpcbind.ProcIndirect) {
		stock := authError(&c.Stock, oncrpc.AuthTooWeak) || accepted(&c.Stock, oncrpc.ProgUnavail) || accepted(&c.Stock, oncrpc.ProgMismatch)
		return accepted(&c.Ours, oncrpc.SystemErr) && stock && c.settle()
	}
	return silent(&c.Ours) && authError(&c.Stock, oncrpc.AuthTooWeak) && c.settle()
}

func forwardItself(c *Case) bool {
	rc, ok := c.remoteCall()
	return ok && c.Setup.Forward && rc.Program == rpcbind.Program && c.settle()
}

func forwardSilent(c *Case) bool {
	_, ok := c.remoteCall()
	return ok && c.Setup.Forward && silent(&c.Ours) && authError(&c.Stock, oncrpc.AuthTooWeak) && c.settle()
}

// Forwards reports whether the call may be one that is forwarded, and whose
// answer comes later.
func (c *Case) Forwards() bool {
	rc, ok := c.remoteCall()
	return ok && c.Setup.Forward && c.isAny(rpcbind.ProcIndirect) && slices.ContainsFunc(c.ours.List(), func(r rpcbind.RPCB[string]) bool {
		return r.Program == rc.Program && r.NetID == c.Route.NetID().String()
	})
}

// forwardFailed is a call to a service that is registered and not there.
func forwardFailed(c *Case) bool {
	return c.Forwards() && accepted(&c.Ours, oncrpc.SystemErr) && silent(&c.Stock) && c.settle()
}

// getStatCounts is a call for another program: what is not forwarded counts as
// a failure; with rpcbind it depends on why.
func getStatCounts(c *Case) bool {
	_, ok := c.remoteCall()
	return ok
}

func forwardList(c *Case) bool {
	rc, ok := c.remoteCall()
	forged := c.claimed() && c.Route.Target.Is6() // as far as we can know
	return ok && c.Setup.Forward && (rc.Procedure != 0 || forged) && c.isAny(rpcbind.ProcIndirect) &&
		authError(&c.Ours, oncrpc.AuthTooWeak) && c.settle()
}
