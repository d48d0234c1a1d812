// Package ruleset plans the kernel firewall that rpcward keeps: from the two
// policy files and the registry to the state that the kernel should be in, and
// from the state that it is in to the steps that lead there.
//
//	policy, found, err := ruleset.NewPolicy(allow, deny, ruleset.PolicyOptions{Names: rpcnames.Names})
//	desired, found := policy.Desired(registrations, ruleset.Options{})
//	for _, batch := range ruleset.Diff(current, desired) { ... }
//
// What is guarded is a port: a protocol and a number, over IPv4 and IPv6 and on
// all addresses of the host. A registration names one transport and often one
// address, but that is what the service says of itself: its socket may take
// more (IPv6 sockets take IPv4 too, and libraries that know only a port
// register the wildcard or the first address). A key of less than the port
// would leave the rest open.
//
// The firewall only takes away. A packet from an address that the policy allows
// for the port goes on to the host's own rules, every other one is dropped; this
// host's own packets (over the loopback interface, and its own IPv4 broadcasts)
// are not looked at. Each packet is looked at, those of established connections
// too, so that what the policy takes back ends at once.
//
// Values are immutable once they are returned, except that a State may be
// changed by its owner through Apply. The package is pure: it opens nothing,
// logs nothing and reads no clock. internal/firewall brings a State into the
// kernel and reads it back.
package ruleset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Proto is an IP protocol with ports, by its number in IP.
type Proto uint8

// The protocols that RPC services can be guarded on.
const (
	TCP  Proto = 6   // IPPROTO_TCP
	UDP  Proto = 17  // IPPROTO_UDP
	SCTP Proto = 132 // IPPROTO_SCTP
)

// String returns the name that nft and iptables know.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}

// Port is what is guarded: a port of a protocol, over IPv4 and IPv6.
type Port struct {
	Proto Proto
	Port  uint16
}

// String returns "tcp 2049".
func (p Port) String() string { return fmt.Sprintf("%v %d", p.Proto, p.Port) }

// Compare orders by protocol, then by number.
func (p Port) Compare(q Port) int {
	return cmp.Or(cmp.Compare(p.Proto, q.Proto), cmp.Compare(p.Port, q.Port))
}

// Mark is put on the packets that are let through, for rules of the host that
// accept by it: the bits of Mask become those of Value. The zero Mark is none.
type Mark struct{ Value, Mask uint32 }

// String returns "0x1/0xff", or "" for no mark.
func (m Mark) String() string {
	if m == (Mark{}) {
		return ""
	}
	return fmt.Sprintf("%#x/%#x", m.Value, m.Mask)
}

// Chain decides for one service: sources in its set go on, others are dropped.
type Chain struct {
	Set      string // key of State.Sets
	Mark     Mark
	Services string // whom it guards, for people: "mountd"; not in the kernel
}

// same reports whether two chains do the same with packets.
func (c Chain) same(d Chain) bool { return c.Set == d.Set && c.Mark == d.Mark }

// Unknown as the Set of a Chain says that what is in the kernel under the
// chain's name was not made by us, or was changed.
const Unknown = "?"

// Base says how the part that all ports share stands: the hook of the kernel
// that leads packets to the chains of their ports.
type Base uint8

// The states of the base.
const (
	NoBase    Base = iota // not there: nothing is guarded
	WrongBase             // somebody changed it: nothing can be relied on
	GoodBase              // in place
)

// String returns "missing", "changed" or "in place".
func (b Base) String() string { return [...]string{"missing", "changed", "in place"}[min(b, GoodBase)] }

// State is what the firewall holds, or should hold. The zero State is a kernel
// without rules of ours; its maps may be nil.
type State struct {
	Base   Base
	Sets   map[string]*Addresses // by Addresses.ID; nil where the kernel's content is not what a set of ours can be
	Chains map[string]Chain      // by a name that their content gives them
	Ports  map[Port]string       // the name of the port's chain
	Strays []string              // what others put among our objects, in the backend's words
}

// Allowed returns the sources that get to a port, and whether it is guarded.
func (s *State) Allowed(p Port) (*Addresses, bool) {
	name, ok := s.Ports[p]
	if !ok || s.Base != GoodBase {
		return nil, false
	}
	return s.Sets[s.Chains[name].Set], true
}

// SortedPorts returns the guarded ports in order.
func (s *State) SortedPorts() []Port { return slices.SortedFunc(maps.Keys(s.Ports), Port.Compare) }

// SortedChains returns the names of the chains in order.
func (s *State) SortedChains() []string { return slices.Sorted(maps.Keys(s.Chains)) }

// SortedSets returns the keys of the sets in order.
func (s *State) SortedSets() []string { return slices.Sorted(maps.Keys(s.Sets)) }

// Clone returns a State with maps of its own.
func (s *State) Clone() *State {
	c := &State{Base: s.Base, Sets: map[string]*Addresses{}, Chains: map[string]Chain{}, Ports: map[Port]string{}, Strays: slices.Clone(s.Strays)}
	maps.Copy(c.Sets, s.Sets)
	maps.Copy(c.Chains, s.Chains)
	maps.Copy(c.Ports, s.Ports)
	return c
}

// Equal reports whether two states do the same with packets, and hold nothing
// different otherwise.
func (s *State) Equal(t *State) bool { return s.Base == t.Base && len(Diff(s, t)) == 0 }

// String describes the state on several lines, for people and tests.
func (s *State) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "base %v\n", s.Base)
	for _, p := range s.SortedPorts() {
		fmt.Fprintf(&b, "port %v: chain %s\n", p, s.Ports[p])
	}
	for _, name := range s.SortedChains() {
		c := s.Chains[name]
		fmt.Fprintf(&b, "chain %s: set %s %v\n", name, c.Set, c.Mark)
	}
	for _, id := range s.SortedSets() {
		fmt.Fprintf(&b, "set %s: %v\n", id, s.Sets[id])
	}
	for _, stray := range s.Strays {
		fmt.Fprintf(&b, "stray %s\n", stray)
	}
	return b.String()
}
