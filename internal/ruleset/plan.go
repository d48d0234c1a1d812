package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/rpcbind"
)

// Registration is what a service told the port mapper about itself, as far as
// the firewall needs it.
type Registration struct {
	Program uint32
	NetID   rpcbind.NetID
	At      netip.AddrPort
}

// Options are what else decides on the firewall.
type Options struct {
	Mark Mark
	// Own is the port mapper's own port, 0 for 111. It is guarded over UDP and
	// TCP even if nothing is registered.
	Own uint16
	// Tombstones are ports that were registered and must drop all packets of
	// other hosts until no socket is bound to them any more. A port that is
	// registered again is none: its service's rules count.
	Tombstones []Port
}

// Unguardable is the code of findings about registrations that no packet
// filter can guard.
const Unguardable hostsaccess.Code = "unguardable"

// Key returns what the firewall guards for a registration, and false if there
// is nothing to guard: for local transports, port 0, and RDMA, whose packets
// don't pass the host's packet filter.
func (r Registration) Key() (Port, bool) {
	p := Port{Port: r.At.Port()}
	switch r.NetID {
	case rpcbind.TCP, rpcbind.TCP6:
		p.Proto = TCP
	case rpcbind.UDP, rpcbind.UDP6:
		p.Proto = UDP
	case rpcbind.SCTP, rpcbind.SCTP6:
		p.Proto = SCTP
	}
	return p, p.Proto != 0 && p.Port != 0
}

// Desired returns the state in which each registered port is open to those
// whom the policy allows for its program, and to nobody else.
//
// Where several programs share a port, only those get through whom the policy
// allows for each of them: the kernel can't see which program a packet calls,
// and a client must not reach one that it is kept from. Who means them all names
// the daemon ("ganesha.nfsd"), or all of the programs.
//
// The findings are about the rules that these programs are subject to.
func (p *Policy) Desired(list []Registration, o Options) (*State, []hostsaccess.Diagnostic) {
	if o.Own == 0 {
		o.Own = rpcbind.Port
	}
	b := builder{policy: p, options: o, guarded: map[Port][]uint32{}, noted: map[uint32]bool{}, state: (&State{Base: GoodBase}).Clone()}
	b.note(Registration{rpcbind.Program, rpcbind.UDP, netip.AddrPortFrom(netip.IPv4Unspecified(), o.Own)})
	b.note(Registration{rpcbind.Program, rpcbind.TCP, netip.AddrPortFrom(netip.IPv4Unspecified(), o.Own)})
	for _, r := range list {
		b.note(r)
	}
	for port, programs := range b.guarded {
		b.guard(port, programs)
	}
	for _, port := range o.Tombstones {
		if b.guarded[port] == nil {
			b.point(port, "tombstone", Nobody)
		}
	}
	return b.state, b.findings
}

// builder holds what is known on the way to a desired state.
type builder struct {
	policy   *Policy
	options  Options
	guarded  map[Port][]uint32 // the programs on each port, sorted
	noted    map[uint32]bool   // programs whose findings are reported
	findings []hostsaccess.Diagnostic
	state    *State
}

func (b *builder) note(r Registration) {
	port, ok := r.Key()
	if !ok {
		if r.NetID == rpcbind.RDMA || r.NetID == rpcbind.RDMA6 {
			b.findings = append(b.findings, hostsaccess.Diagnostic{
				Severity: hostsaccess.Warning, Code: Unguardable,
				Message:     fmt.Sprintf("%s is registered on %v port %d", b.policy.names(r.Program)[0], r.NetID, r.At.Port()),
				Consequence: "RDMA does not pass the kernel's packet filter: whoever reaches the adapter reaches the service",
				Hint:        "close the port in the network, or don't serve RDMA",
			})
		}
		return
	}
	programs := b.guarded[port]
	if at, found := slices.BinarySearch(programs, r.Program); !found {
		b.guarded[port] = slices.Insert(programs, at, r.Program)
	}
}

// guard points a port at the chain for its programs.
func (b *builder) guard(port Port, programs []uint32) {
	var allowed *Addresses
	var names []string
	for i, program := range programs {
		s := b.policy.Service(program, port.Port)
		if !b.noted[program] {
			b.noted[program] = true
			b.findings = append(b.findings, s.Findings...)
		}
		names = append(names, s.Name)
		if i == 0 {
			allowed = s.Allowed
		} else {
			allowed = b.policy.intersect(allowed, s.Allowed)
		}
	}
	b.point(port, strings.Join(names, ", "), allowed)
}

// point makes the chain that a port needs, if it is not there yet. Services
// with the same allowed set share the set; each has a chain of its own, whose
// counters are the service's.
func (b *builder) point(port Port, services string, allowed *Addresses) {
	c := Chain{Set: allowed.ID(), Mark: b.options.Mark, Services: services}
	if allowed.Len() == 0 {
		c.Mark = Mark{} // no packet gets one
	}
	name := b.policy.chain(c)
	b.state.Sets[c.Set] = allowed
	b.state.Chains[name] = c
	b.state.Ports[port] = name
}

// The parts of a chain's name. The whole, behind "RPCWARD-", must fit the 28
// bytes that iptables has for one.
const (
	nameWord = 9
	nameHash = 10
)

// chainName names a chain by what it holds, so that a name means the same on
// each start: a word for people, and a hash.
func chainName(c Chain) string {
	word := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return -1
	}, c.Services)
	h := sha256.Sum256(fmt.Appendf(nil, "%q %s %v", c.Services, c.Set, c.Mark))
	return word[:min(len(word), nameWord)] + "_" + hex.EncodeToString(h[:])[:nameHash]
}
