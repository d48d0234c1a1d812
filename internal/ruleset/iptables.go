package ruleset

import (
	"bytes"
	"fmt"
	"net/netip"
)

// The names in the filter tables of iptables and ip6tables, and in ipset.
const (
	IPTablesInput = "RPCWARD-INPUT" // jumped to by the first rule of INPUT
	iptChain      = "RPCWARD-"
	iptSet        = "rpcward-"
	iptMark       = "RPCWARD-M" // and value and mask in hexadecimal
)

// IPTablesChain returns the name in the kernel of the chain of that name.
func IPTablesChain(name string) string { return iptChain + name }

// ParseIPTablesChain returns the chain's name in State, false for names that
// are not those of services' chains.
func ParseIPTablesChain(name string) (string, bool) {
	if _, isMark := ParseIPTablesMark(name); isMark || name == IPTablesInput {
		return "", false
	}
	return cut(name, iptChain, "")
}

// IPSet returns the name in the kernel of a set's part for IPv4 or IPv6.
func IPSet(id string, six bool) string { return iptSet + id + family(six) }

// ParseIPSet returns the set's key in State, false for foreign names.
func ParseIPSet(name string, six bool) (string, bool) { return cut(name, iptSet, family(six)) }

// IPTablesMark returns the chain that a mark is set in.
func IPTablesMark(m Mark) string { return fmt.Sprintf("%s%08x%08x", iptMark, m.Value, m.Mask) }

// ParseIPTablesMark returns the mark of such a chain.
func ParseIPTablesMark(chain string) (Mark, bool) {
	var m Mark
	rest, ok := cut(chain, iptMark, "")
	if !ok || len(rest) != 16 {
		return m, false
	}
	n, _ := fmt.Sscanf(rest, "%08x%08x", &m.Value, &m.Mask)
	return m, n == 2 && IPTablesMark(m) == chain
}

// IPTablesOptions say how to render for iptables.
type IPTablesOptions struct {
	IPv6 bool // for ip6tables
	Sets bool // refer to ipsets, which must be there, instead of listing addresses
}

// IPTables renders the state for iptables-restore --noflush or
// ip6tables-restore --noflush. Chains of ours are replaced, what else is in the
// table stays, and the jump to ours becomes the first rule of INPUT.
func (s *State) IPTables(o IPTablesOptions) []byte {
	var b bytes.Buffer
	b.WriteString("*filter\n")
	s.IPTablesMarks(&b)
	for _, name := range s.SortedChains() {
		s.IPTablesService(&b, name, o)
	}
	s.IPTablesBase(&b, o)
	fmt.Fprintf(&b, "-I INPUT 1 -j %s\nCOMMIT\n", IPTablesInput)
	return b.Bytes()
}

// IPTablesBase renders the chain that all packets go through. Declaring a chain
// empties it, in the same transaction.
func (s *State) IPTablesBase(b *bytes.Buffer, o IPTablesOptions) {
	fmt.Fprintf(b, ":%s - [0:0]\n-A %[1]s -i lo -j RETURN\n", IPTablesInput)
	if !o.IPv6 {
		fmt.Fprintf(b, "-A %s -m addrtype --src-type LOCAL -j RETURN\n", IPTablesInput)
	}
	for _, p := range s.SortedPorts() {
		fmt.Fprintf(b, "-A %s -p %v -m %[2]v --dport %d -j %s\n", IPTablesInput, p.Proto, p.Port, IPTablesChain(s.Ports[p]))
	}
}

// IPTablesMarks renders the chains that set a mark.
func (s *State) IPTablesMarks(b *bytes.Buffer) {
	done := map[Mark]bool{{}: true}
	for _, name := range s.SortedChains() {
		if m := s.Chains[name].Mark; !done[m] {
			done[m] = true
			fmt.Fprintf(b, ":%s - [0:0]\n-A %[1]s -j MARK --set-xmark %v\n", IPTablesMark(m), m)
		}
	}
}

// IPTablesService renders the chain of a service. What is allowed returns to
// INPUT, so that the host's own rules still see it.
func (s *State) IPTablesService(b *bytes.Buffer, name string, o IPTablesOptions) {
	c, chain := s.Chains[name], IPTablesChain(name)
	allow := "-j RETURN"
	if c.Mark != (Mark{}) {
		// A goto: its end returns to where the service's chain was called.
		allow = "-g " + IPTablesMark(c.Mark)
	}
	fmt.Fprintf(b, ":%s - [0:0]\n", chain)
	switch {
	case o.Sets:
		fmt.Fprintf(b, "-A %s -m set --match-set %s src %s\n", chain, IPSet(c.Set, o.IPv6), allow)
	default:
		for _, p := range s.Sets[c.Set].Family(o.IPv6) {
			fmt.Fprintf(b, "-A %s -s %v %s\n", chain, p, allow)
		}
	}
	fmt.Fprintf(b, "-A %s -j DROP\n", chain)
}

// Family returns IPv6 or IPv4.
func (a *Addresses) Family(six bool) []netip.Prefix {
	if six {
		return a.IPv6()
	}
	return a.IPv4()
}
