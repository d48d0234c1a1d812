package portmapper_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// machine is what a Mapper is told of the machine it runs on. It can be told
// what a real one can't on demand: a time, and which ports are bound.
type machine struct {
	addrs []netip.Addr
	bound []uint16
	now   int64
}

func (m *machine) HasAddr(a netip.Addr) bool { return slices.Contains(m.addrs, a.WithZone("").Unmap()) }

func (m *machine) Knows(a netip.Addr) bool { return m.HasAddr(a) }
func (m *machine) Now() int64              { return m.now }
func (m *machine) Bound(_ rpcbind.NetID, ap netip.AddrPort) bool {
	return slices.Contains(m.bound, ap.Port())
}

var (
	loop4, loop6     = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	server4, server6 = netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("fd99::1")
	second4          = netip.MustParseAddr("10.98.0.1")
	client4, client6 = netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd99::2")
	alien4, alien6   = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")
	startTime        = int64(1_700_000_000)
)

// fixture is a Mapper with what it rests on.
type fixture struct {
	*portmapper.Mapper
	registry *registry.Registry
	machine  *machine
	notes    *notes
}

// setup says how a fixture differs from the usual one.
type setup struct {
	allow, deny string // rules; none opens to 10.99.0.0/24 and fd99::/64
	def         policy.Default
	options     portmapper.Options
	store       registry.Store
}

func newFixture(t testing.TB, s setup) *fixture {
	t.Helper()
	if s.allow == "" {
		s.allow = "portmap: 10.99.0.0/24 [fd99::]/64"
	}
	p, _, err := policy.New(hostsaccess.Parse("hosts.allow", []byte(s.allow+"\n")), hostsaccess.Parse("hosts.deny", []byte(s.deny+"\n")), policy.Options{Default: s.def})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		registry: registry.New(own(), nil, s.store),
		machine:  &machine{addrs: []netip.Addr{loop4, loop6, server4, server6, second4}, now: startTime},
		notes:    &notes{},
	}
	f.Mapper = portmapper.New(f.registry, func() *policy.Policy { return p }, f.machine, f.notes, s.options)
	return f
}

// own are the port mapper's own registrations, in rpcbind's order.
func own() []registry.Registration {
	var list []registry.Registration
	for _, r := range []struct {
		netid rpcbind.NetID
		addr  string
		low   uint32
	}{{rpcbind.TCP6, "::.0.111", 3}, {rpcbind.UDP6, "::.0.111", 3}, {rpcbind.TCP, "0.0.0.0.0.111", 2}, {rpcbind.UDP, "0.0.0.0.0.111", 2}, {rpcbind.Local, "/run/rpcbind.sock", 3}} {
		for v := uint32(4); v >= r.low; v-- {
			ip, _ := rpcbind.ParseUAddr([]byte(r.addr))
			list = append(list, registry.Registration{Key: registry.Key{Program: 100000, Version: v, NetID: r.netid}, Addr: r.addr, IP: ip, Owner: "superuser"})
		}
	}
	return list
}

// register puts registrations in, written "program version netid address owner".
func (f *fixture) register(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		w := strings.Fields(line)
		reg := registry.Registration{Key: registry.Key{Program: number(w[0]), Version: number(w[1]), NetID: rpcbind.ParseNetID(w[2])}, Addr: w[3], Owner: w[4]}
		reg.IP, _ = rpcbind.ParseUAddr([]byte(w[3]))
		if ok, err := f.registry.Set(reg); !ok || err != nil {
			t.Fatalf("registering %s: %v, %v", line, ok, err)
		}
	}
}

// number reads a number of ours.
func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

// services lists the registrations that are not the port mapper's own, as
// register takes them.
func (f *fixture) services() []string {
	var list []string
	for r := range f.registry.Snapshot().Services() {
		list = append(list, fmt.Sprint(r.Program, " ", r.Version, " ", r.NetID, " ", r.Addr, " ", r.Owner))
	}
	return list
}

// notes counts what a Mapper tells its Observer.
type notes struct{ refused, limited, declined, indirect, answered, notSaved int }

func (n *notes) Refused(*policy.Origin, *oncrpc.Call, policy.Decision) { n.refused++ }
func (n *notes) Limited(*policy.Origin, *oncrpc.Call)                  { n.limited++ }
func (n *notes) Declined(*policy.Origin, *oncrpc.Call)                 { n.declined++ }
func (n *notes) IndirectDenied(*policy.Origin, *rpcbind.RemoteCall)    { n.indirect++ }
func (n *notes) Answered(*policy.Origin, *oncrpc.Call)                 { n.answered++ }
func (n *notes) NotSaved(error)                                        { n.notSaved++ }

// Origins.

func unix(uid uint32) policy.Origin {
	return policy.Origin{Channel: policy.Unix, NetID: rpcbind.Local, UID: uid}
}

func over(ch policy.Channel, n rpcbind.NetID, source netip.Addr, port uint16, local netip.Addr) policy.Origin {
	return policy.Origin{Channel: ch, NetID: n, Source: netip.AddrPortFrom(source, port), Local: netip.AddrPortFrom(local, 111)}
}

func loopback(n rpcbind.NetID, port uint16) policy.Origin {
	o := over(policy.Loopback, n, loop4, port, loop4)
	if n.Is6() {
		o = over(policy.Loopback, n, loop6, port, loop6)
	}
	o.Privileged = port < 1024
	return o
}

func client(n rpcbind.NetID) policy.Origin {
	if n.Is6() {
		return over(policy.Network, n, client6, 40000, server6)
	}
	return over(policy.Network, n, client4, 40000, server4)
}

func alien(n rpcbind.NetID) policy.Origin {
	if n.Is6() {
		return over(policy.Network, n, alien6, 40000, server6)
	}
	return over(policy.Network, n, alien4, 40000, server4)
}

// words makes XDR out of numbers, strings, and bytes that are XDR already. It
// is written apart from package xdr, so that the two check each other.
func words(items ...any) []byte {
	var b []byte
	for _, item := range items {
		switch v := item.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
			for len(b)%4 != 0 {
				b = append(b, 0)
			}
		case []byte:
			b = append(b, v...)
		default:
			panic("words takes int, uint32, string and []byte")
		}
	}
	return b
}

const xid = 0x11223344

// call is a call to the port mapper without credentials.
func call(version, proc int, args ...any) []byte {
	return words(
		xid, 0, 2, // CALL, RPC version 2
		100000, version, proc,
		0, 0, // AUTH_NONE
		0, 0, // no verifier
		words(args...),
	)
}

// The heads of replies.
var (
	success     = words(xid, 1, 0, 0, 0, 0) // REPLY, MSG_ACCEPTED, null verifier, SUCCESS
	progUnavail = words(xid, 1, 0, 0, 0, 1)
	mismatch    = words(xid, 1, 0, 0, 0, 2)
	procUnavail = words(xid, 1, 0, 0, 0, 3)
	garbageArgs = words(xid, 1, 0, 0, 0, 4)
	systemErr   = words(xid, 1, 0, 0, 0, 5)
	tooWeak     = words(xid, 1, 1, 1, 5) // REPLY, MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK
)

func reply(head []byte, results ...any) []byte {
	return append(slices.Clone(head), words(results...)...)
}

// ask sends msg from o and returns the reply, nil if there is none.
func (f *fixture) ask(o policy.Origin, msg []byte) ([]byte, portmapper.Outcome) {
	w := f.NewWorker()
	return whole(w)(w.Answer(nil, msg, &o))
}

// whole goes on until a reply is complete.
func whole(w *portmapper.Worker) func([]byte, portmapper.Outcome) ([]byte, portmapper.Outcome) {
	return func(got []byte, outcome portmapper.Outcome) ([]byte, portmapper.Outcome) {
		for outcome == portmapper.Part {
			got, outcome = w.Continue(got)
		}
		return got, outcome
	}
}
