package ruleset

import (
	"bytes"
	"fmt"
	"net/netip"
)

// The names in the kernel's nftables.
const (
	NFTTable    = "rpcward"       // of family inet
	NFTPorts    = "ports"         // the verdict map
	NFTInput    = "input"         // the base chain
	NFTPriority = -10             // of the base chain: before the host's own filters, which are at 0
	NFTSpare    = "rpcward-spare" // stands in for the table while it is replaced
	nftChain    = "svc_"
	nftPort     = "port_"
	nftSet      = "allow_"
)

// NFTPort returns the name in the kernel of the chain that a port's element in
// the map jumps to, which jumps to a service's chain. The step between is there
// so that a port can move: rules change from one packet to the next, while an
// element that is removed and added again is missed by packets that are under
// way (on Linux 6.18, one of a stranger in 100 such changes passed).
func NFTPort(p Port) string { return fmt.Sprintf("%s%v_%d", nftPort, p.Proto, p.Port) }

// ParseNFTPort is the other way round, false for foreign names.
func ParseNFTPort(name string) (p Port, ok bool) {
	for _, p.Proto = range []Proto{TCP, UDP, SCTP} {
		if n, _ := fmt.Sscanf(name, nftPort+p.Proto.String()+"_%d", &p.Port); n == 1 && NFTPort(p) == name {
			return p, true
		}
	}
	return Port{}, false
}

// NFTChain returns the name in the kernel of the chain of that name, and
// ParseNFTChain the other way round.
func NFTChain(name string) string { return nftChain + name }

// ParseNFTChain returns the chain's name in State, false for foreign names.
func ParseNFTChain(name string) (string, bool) { return cut(name, nftChain, "") }

// NFTSet returns the name in the kernel of a set's part for IPv4 or IPv6.
func NFTSet(id string, six bool) string { return nftSet + id + family(six) }

// ParseNFTSet returns the set's key in State, false for foreign names.
func ParseNFTSet(name string, six bool) (string, bool) { return cut(name, nftSet, family(six)) }

func family(six bool) string {
	if six {
		return "_6"
	}
	return "_4"
}

func cut(name, prefix, suffix string) (string, bool) {
	n := len(name) - len(prefix) - len(suffix)
	if n < 1 || name[:len(prefix)] != prefix || name[len(prefix)+n:] != suffix {
		return "", false
	}
	return name[len(prefix) : len(prefix)+n], true
}

// NFT renders the state as a script for nft -f, which replaces what such a
// script or a guard has left behind. A table that a running guard owns is the
// guard's; nft can't touch it.
func (s *State) NFT() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %[1]s\ntable inet %[1]s {\n", NFTTable)
	for _, id := range s.SortedSets() {
		nftElements(&b, id, false, "ipv4_addr", s.Sets[id].IPv4())
		nftElements(&b, id, true, "ipv6_addr", s.Sets[id].IPv6())
	}
	for _, name := range s.SortedChains() {
		c := s.Chains[name]
		fmt.Fprintf(&b, "\tchain %s {\n", NFTChain(name))
		for _, six := range []bool{false, true} {
			ip := "ip"
			if six {
				ip = "ip6"
			}
			fmt.Fprintf(&b, "\t\t%s saddr @%s counter %saccept\n", ip, NFTSet(c.Set, six), nftMark(c.Mark))
		}
		b.WriteString("\t\tcounter drop\n\t}\n")
	}
	for _, p := range s.SortedPorts() {
		fmt.Fprintf(&b, "\tchain %s {\n\t\tjump %s\n\t}\n", NFTPort(p), NFTChain(s.Ports[p]))
	}
	s.nftBase(&b)
	b.WriteString("}\n")
	return b.Bytes()
}

func nftElements(b *bytes.Buffer, id string, six bool, kind string, list []netip.Prefix) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n", NFTSet(id, six), kind)
	for i, p := range list {
		if i == 0 {
			fmt.Fprintf(b, "\t\telements = { %v", p)
		} else {
			fmt.Fprintf(b, ",\n\t\t\t%v", p)
		}
	}
	if len(list) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func nftMark(m Mark) string {
	if m == (Mark{}) {
		return ""
	}
	return fmt.Sprintf("meta mark set meta mark & %#x | %#x ", ^m.Mask, m.Value&m.Mask)
}

func (s *State) nftBase(b *bytes.Buffer) {
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype inet_proto . inet_service : verdict\n", NFTPorts)
	for i, p := range s.SortedPorts() {
		sep := ",\n\t\t\t"
		if i == 0 {
			sep = "\t\telements = { "
		}
		fmt.Fprintf(b, "%s%v . %d : jump %s", sep, p.Proto, p.Port, NFTPort(p))
	}
	if len(s.Ports) > 0 {
		b.WriteString(" }\n")
	}
	fmt.Fprintf(b, `	}
	chain %s {
		type filter hook input priority %d; policy accept;
		iifname "lo" accept
		meta nfproto ipv4 fib saddr type local accept
		meta l4proto . th dport vmap @%s
	}
`, NFTInput, NFTPriority, NFTPorts)
}
