package differential

import (
	"math/rand/v2"
	"strconv"
	"strings"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Generator makes random steps. The universe of what they name is small, so
// that later calls meet what earlier ones did.
type Generator struct {
	r   *rand.Rand
	xid uint32
	// NoChanges leaves out SET and UNSET.
	NoChanges bool
}

// NewGenerator returns a generator whose steps depend on seed only.
func NewGenerator(seed uint64) *Generator {
	return &Generator{r: rand.New(rand.NewPCG(seed, 0x72706377617264)), xid: 0x10000000}
}

func pick[T any](g *Generator, list ...T) T { return list[g.r.IntN(len(list))] }

func (g *Generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// Next returns the next step.
func (g *Generator) Next() Step {
	s := Step{Route: g.route(), Fresh: g.chance(4)}
	g.xid++
	c := oncrpc.Call{XID: g.xid, Program: rpcbind.Program, Version: g.version(), Cred: g.cred()}
	if g.chance(3) {
		c.Program = pick[uint32](g, 0, 1, 99999, 100001, 100003, 0xffffffff)
	}
	if g.chance(5) {
		c.Verf = oncrpc.OpaqueAuth{Flavor: pick(g, oncrpc.AuthNone, oncrpc.AuthSys, oncrpc.AuthShort), Body: g.bytes(pick(g, 0, 4, 7, 400, 401))}
	}
	c.Procedure = g.procedure(c.Version)
	c.Args = g.args(c.Version, rpcbind.Proc(c.Procedure))
	s.Msg = oncrpc.AppendCall(nil, &c)
	if g.chance(2) {
		s.Msg = append(s.Msg, g.bytes(1+g.r.IntN(40))...) // trailing bytes
	}
	if g.chance(12) {
		s.Malformed = true
		s.Msg = g.mutate(s.Msg)
	}
	if !Routes[s.Route].Datagram() && g.chance(6) {
		s.Framing = Framing(1 + g.r.IntN(int(numFramings)-1))
	}
	if len(s.Msg) < 12 {
		s.Framing = Whole
	}
	return s
}

// route prefers the callers that may change registrations.
func (g *Generator) route() int {
	switch n := g.r.IntN(100); {
	case n < 20:
		return 0
	case n < 35:
		return 1 + g.r.IntN(2)
	case n < 50:
		return pick(g, 3, 4, 7, 8) // loopback, privileged
	}
	return 3 + g.r.IntN(len(Routes)-3)
}

func (g *Generator) version() uint32 {
	switch n := g.r.IntN(100); {
	case n < 30:
		return 2
	case n < 60:
		return 3
	case n < 95:
		return 4
	}
	return pick[uint32](g, 0, 1, 5, 6, 0xffffffff)
}

func (g *Generator) procedure(version uint32) uint32 {
	n := g.r.IntN(100)
	switch {
	case n < 24 && !g.NoChanges:
		return uint32(rpcbind.ProcSet)
	case n < 34 && !g.NoChanges:
		return uint32(rpcbind.ProcUnset)
	case n < 60:
		return uint32(rpcbind.ProcGetAddr)
	case n < 64:
		return uint32(rpcbind.ProcDump)
	case n < 66:
		return pick[uint32](g, 13, 14, 15, 255, 0xffffffff)
	case n < 90 && version == 4:
		return 5 + uint32(g.r.IntN(8))
	case n < 90 && version == 3:
		return 5 + uint32(g.r.IntN(4))
	case g.NoChanges:
		return pick[uint32](g, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	}
	return uint32(g.r.IntN(13))
}

func (g *Generator) args(version uint32, p rpcbind.Proc) []byte {
	switch p {
	case rpcbind.ProcSet, rpcbind.ProcUnset, rpcbind.ProcGetAddr, rpcbind.ProcGetVersAddr, rpcbind.ProcGetAddrList:
		if version == rpcbind.Version2 {
			return rpcbind.AppendMapping(nil, g.mapping())
		}
		m := g.rpcb(p)
		return rpcbind.AppendRPCB(nil, &m)
	case rpcbind.ProcCallIt, rpcbind.ProcIndirect:
		c := rpcbind.RemoteCall{Program: g.target(), Version: g.progVersion(), Procedure: uint32(g.r.IntN(7)), Args: g.bytes(pick(g, 0, 4, 5, 30))}
		return rpcbind.AppendRemoteCall(nil, &c)
	case rpcbind.ProcUAddr2TAddr:
		return xdr.AppendString(nil, g.addr(true))
	case rpcbind.ProcTAddr2UAddr:
		return g.netbuf()
	}
	if g.chance(10) {
		return g.bytes(g.r.IntN(30))
	}
	return nil
}

func (g *Generator) program() uint32 {
	if g.chance(3) {
		return pick[uint32](g, 0, 0xffffffff, 0x40000000)
	}
	return pick[uint32](g, 100000, 100003, 100005, 100024, 200001, 200002, 200003, 200004)
}

// target is a program to call through the port mapper: rpcbind has rules for
// the first ones (check_callit).
func (g *Generator) target() uint32 {
	return pick[uint32](g, 100000, 100003, 100005, 100007, 100009, 100011, 100004, 100001, 200001, 200002, 300000)
}

func (g *Generator) progVersion() uint32 {
	if g.chance(4) {
		return pick[uint32](g, 0, 5, 0xffffffff)
	}
	return pick[uint32](g, 1, 2, 3, 4)
}

func (g *Generator) mapping() rpcbind.Mapping {
	m := rpcbind.Mapping{Program: g.program(), Version: g.progVersion(), Prot: pick(g, rpcbind.ProtTCP, rpcbind.ProtUDP)}
	if g.chance(6) {
		m.Prot = pick[uint32](g, 0, 1, 132, 0xffffffff)
	}
	m.Port = uint32(g.port())
	if g.chance(4) {
		m.Port = pick[uint32](g, 65536, 70000, 0x6f006f, 0xffffffff)
	}
	return m
}

func (g *Generator) rpcb(p rpcbind.Proc) rpcbind.RPCB[string] {
	m := rpcbind.RPCB[string]{Program: g.program(), Version: g.progVersion(), Owner: pick(g, "", "0", "superuser", "1000")}
	m.NetID, m.Addr = g.place()
	switch {
	case p == rpcbind.ProcUnset && g.chance(50):
		m.NetID = ""
	case p != rpcbind.ProcSet && p != rpcbind.ProcUnset:
		m.Addr = g.hint()
	}
	switch {
	case g.chance(3):
		m.NetID = pick(g, "", "bogus", "TCP", "Udp6", "unix", "sctp", "rdma", "rawip", "tcp\x00x", strings.Repeat("n", 300))
	case g.chance(4):
		m.Addr = g.addr(false)
	case g.chance(1):
		m.Owner = strings.Repeat("o", pick(g, 255, 3000, 8950, 9000, 9001))
	}
	return m
}

// place returns a netid and an address that goes with it.
func (g *Generator) place() (netid, addr string) {
	n := pick(g, rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.UDP6, rpcbind.TCP, rpcbind.UDP, rpcbind.Local)
	host := "0.0.0.0"
	switch {
	case n.IsLocal():
		return n.String(), pick(g, "/run/a.sock", "/run/b.sock")
	case n.Is6():
		host = "::"
	}
	if g.chance(12) {
		host = pick(g, "127.0.0.1", "10.99.0.1", "10.98.0.1", "127.0.0.2", "::1", "fd99::1", "::ffff:10.99.0.1", "8.8.8.8", "2001:db8::1")
	}
	p := g.port()
	return n.String(), host + "." + strconv.Itoa(p>>8) + "." + strconv.Itoa(p&255)
}

func (g *Generator) port() int {
	return pick(g, 5000, 5001, 5002, 32768, 65535, 1024, 1023, 700, 111, 2049, 80, 1, 5003, 0)
}

// hint is where a client says that it found the port mapper.
func (g *Generator) hint() string {
	if g.chance(70) {
		return pick(g, "", "127.0.0.1.0.111", "10.99.0.1.0.111", "::1.0.111", "fd99::1.0.111", "10.98.0.1.0.111", "fd98::1.0.111")
	}
	return pick(g, "0.0.0.0.0.111", "::.0.111", "1.2.3.4.0.111", "10.99.0.2.0.111", "10.99.0.77.0.111", "127.0.0.9.0.111", "fd99::77.0.111",
		"2001:db8::1.0.111", "::ffff:10.99.0.1.0.111", "fe80::1.0.111", "garbage", "/run/rpcbind.sock", "10.99.0.1", "10.99.0.1.0.111.7")
}

// addr is a universal address, or nearly one.
func (g *Generator) addr(good bool) string {
	if good && g.chance(50) {
		_, a := g.place()
		return a
	}
	return pick(g, "", "garbage", "1.2.3.4.5", "1.2.3.4.5.6.7", "1.2.3.4.x.300", "1.2.3.4.0.256", "1.2.3.4.300.1", "1.2.3.400.0.1",
		"0.0.0.0.1000.0", "01.02.03.04.05.06", "1.2.3.4.0.0", "0.0.0.0.0.0", "::.0.0", "::1.1.1", "fe80::1%lan.1.1", "fe80::1%eth9.1.1", "::ffff:1.2.3.4.1.1", "1:2:3:4:5:6:7:8:9.1.1",
		"/", "/x", "relative", "/run/\x01", "/"+strings.Repeat("p", 106), "/"+strings.Repeat("p", 107), "1.2.3.4.0.-1", " 1.2.3.4.0.1", "1.2.3.4.0.1 ", "1.2.3.4..1", ".", "......", "1.2.3.4\x00.0.1", "255.255.255.255.255.255", "224.0.0.1.1.1", "%.1.1")
}

// netbuf is an argument of TADDR2UADDR.
func (g *Generator) netbuf() []byte {
	raw := make([]byte, pick(g, 0, 2, 4, 8, 16, 28, 110))
	for i := range raw {
		raw[i] = byte(g.r.IntN(256))
	}
	if len(raw) >= 2 && g.chance(90) {
		raw[0], raw[1] = pick[byte](g, 1, 2, 10), 0
	}
	size := uint32(len(raw))
	if g.chance(20) {
		size = pick[uint32](g, 0, 16, 28, 128, 9000, 9001, 0xffffffff)
	}
	return xdr.AppendOpaque(xdr.AppendUint32(nil, size), raw)
}

func (g *Generator) cred() oncrpc.OpaqueAuth {
	n := g.r.IntN(100)
	switch {
	case n < 60:
		return oncrpc.OpaqueAuth{}
	case n < 85:
		return oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys, Body: g.sys()}
	}
	flavor := pick(g, oncrpc.AuthNone, oncrpc.AuthSys, oncrpc.AuthShort, oncrpc.AuthDH, oncrpc.RPCSecGSS, oncrpc.AuthTLS, 4, 5, 8, 390000, 0xffffffff)
	if flavor == oncrpc.RPCSecGSS && g.chance(70) {
		return oncrpc.OpaqueAuth{Flavor: flavor, Body: g.gss()}
	}
	return oncrpc.OpaqueAuth{Flavor: flavor, Body: g.bytes(pick(g, 0, 3, 4, 20, 400, 401, 2000))}
}

// sys is the body of an AUTH_SYS credential, mostly a good one.
func (g *Generator) sys() []byte {
	c := oncrpc.SysCred{Stamp: g.r.Uint32(), Machine: pick(g, "client", "", "a.example"), UID: pick[uint32](g, 0, 1000), GIDs: make([]uint32, g.r.IntN(4))}
	if g.chance(4) {
		c.Machine = strings.Repeat("m", pick(g, 254, 255, 256))
	}
	if g.chance(4) {
		c.GIDs = make([]uint32, pick(g, 16, 17, 18))
	}
	b := oncrpc.AppendSysCred(nil, &c)
	if g.chance(6) {
		b = g.mutate(b)
	}
	return b
}

// gss is the body of an RPCSEC_GSS credential, RFC 2203, Section 5.
func (g *Generator) gss() []byte {
	b := xdr.AppendUint32(nil, 1) // rpc_gss_cred_vers_1
	b = xdr.AppendUint32(b, pick[uint32](g, 0, 1, 2, 3))
	b = xdr.AppendUint32(b, 1)
	b = xdr.AppendUint32(b, pick[uint32](g, 1, 2, 3))
	return xdr.AppendOpaque(b, g.bytes(pick(g, 0, 4, 16)))
}

func (g *Generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.r.IntN(256))
	}
	return b
}

// mutate damages msg in one or two ways.
func (g *Generator) mutate(msg []byte) []byte {
	b := append([]byte(nil), msg...)
	for range 1 + g.r.IntN(2) {
		b = g.damage(b)
	}
	return b
}

func (g *Generator) damage(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	switch g.r.IntN(6) {
	case 0:
		return b[:g.r.IntN(len(b))]
	case 1: // an item less, near the end
		return b[:max(0, len(b)-4*(1+g.r.IntN(6)))]
	case 2:
		b[g.r.IntN(len(b))] ^= 1 << g.r.IntN(8)
	case 3: // a hostile number where an item begins
		xdr.AppendUint32(b[:4*g.r.IntN(len(b)/4)], pick[uint32](g, 0, 1, 9000, 9001, 0x7fffffff, 0x80000000, 0xffffffff))
	case 4: // padding that is not zero
		b[len(b)-1] ^= 0xff
	case 5:
		at := 4 * g.r.IntN(len(b)/4)
		return append(b[:at:at], append(g.bytes(1+g.r.IntN(8)), b[at:]...)...)
	}
	return b
}
