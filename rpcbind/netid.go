package rpcbind

import "net/netip"

// NetID names a transport, as /etc/netconfig and RFC 5665, Section 4 do.
// The zero value is not a netid.
type NetID uint8

// The netids that a registration may carry.
const (
	NoNetID NetID = iota
	TCP           // tcp, RFC 5665, Section 5.1
	UDP           // udp
	TCP6          // tcp6
	UDP6          // udp6
	Local         // local, stream sockets of this host
	UnixID        // unix, the older name of local
	SCTP          // sctp, RFC 5665, Section 5.1
	SCTP6         // sctp6
	RDMA          // rdma, RFC 8166
	RDMA6         // rdma6
	numNetIDs
)

// LastNetID is the highest netid; the lowest is 1.
const LastNetID = numNetIDs - 1

// Transport semantics as rpcb_entry carries them, RFC 1833, Section 2.1 (r_nc_semantics).
const (
	SemanticsConnectionless uint32 = 1 // NC_TPI_CLTS
	SemanticsConnection     uint32 = 2 // NC_TPI_COTS
	SemanticsOrderlyRelease uint32 = 3 // NC_TPI_COTS_ORD
)

// Transport describes a netid by the fields of an rpcb_entry.
type Transport struct {
	Name      string // "tcp6"
	Family    string // protocol family: "inet", "inet6" or "loopback"
	Protocol  string // "tcp", "udp", "sctp", "rdma", or "-"
	Semantics uint32 // one of the Semantics constants
	IP        uint32 // IP protocol number as v2's prot carries it, 0 if v2 cannot name it
}

var transports = [numNetIDs]Transport{
	TCP:    {"tcp", "inet", "tcp", SemanticsOrderlyRelease, ProtTCP},
	UDP:    {"udp", "inet", "udp", SemanticsConnectionless, ProtUDP},
	TCP6:   {"tcp6", "inet6", "tcp", SemanticsOrderlyRelease, 0},
	UDP6:   {"udp6", "inet6", "udp", SemanticsConnectionless, 0},
	Local:  {"local", "loopback", "-", SemanticsOrderlyRelease, 0},
	UnixID: {"unix", "loopback", "-", SemanticsOrderlyRelease, 0},
	SCTP:   {"sctp", "inet", "sctp", SemanticsOrderlyRelease, 0},
	SCTP6:  {"sctp6", "inet6", "sctp", SemanticsOrderlyRelease, 0},
	RDMA:   {"rdma", "inet", "rdma", SemanticsConnection, 0},
	RDMA6:  {"rdma6", "inet6", "rdma", SemanticsConnection, 0},
}

// ParseNetID returns the netid of that name, in any case, or NoNetID.
func ParseNetID(name string) NetID { return parseNetID(name) }

// ParseNetIDBytes is ParseNetID for the bytes of a decoded string.
func ParseNetIDBytes(name []byte) NetID { return parseNetID(name) }

func parseNetID[S string | []byte](name S) NetID {
	for id := TCP; id < numNetIDs; id++ {
		if equalFold(name, transports[id].Name) {
			return id
		}
	}
	return NoNetID
}

// equalFold compares ASCII without regard to case; want is in lower case.
func equalFold[S string | []byte](s S, want string) bool {
	if len(s) != len(want) {
		return false
	}
	for i := range len(want) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// Transport returns the description of n; the zero Transport if n is no netid.
func (n NetID) Transport() Transport {
	if n >= numNetIDs {
		return Transport{}
	}
	return transports[n]
}

// String returns the name, "" for NoNetID.
func (n NetID) String() string { return n.Transport().Name }

// IsLocal reports whether n's addresses are paths on this host.
func (n NetID) IsLocal() bool { return n == Local || n == UnixID }

// Is6 reports whether n carries IPv6.
func (n NetID) Is6() bool { return n == TCP6 || n == UDP6 || n == SCTP6 || n == RDMA6 }

// Datagram reports whether n is connectionless.
func (n NetID) Datagram() bool { return n == UDP || n == UDP6 }

// FromProt returns the netid that a v2 protocol number means, or NoNetID.
func FromProt(prot uint32) NetID {
	switch prot {
	case ProtTCP:
		return TCP
	case ProtUDP:
		return UDP
	}
	return NoNetID
}

// Accepts reports whether addr is of n's address family.
func (n NetID) Accepts(addr netip.Addr) bool {
	switch {
	case n == NoNetID || n.IsLocal() || !addr.IsValid():
		return false
	case n.Is6():
		return addr.Is6()
	default:
		return addr.Is4()
	}
}
