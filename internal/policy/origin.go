package policy

import (
	"net/netip"

	"rpcward/rpcbind"
)

// Channel says by which kind of socket a call came in. It, not an address in
// the packet, decides who is local.
type Channel uint8

// The channels, from the least to the most trusted.
const (
	Network  Channel = iota // from another host
	Claimed                 // a datagram from the very address that it was sent to
	Loopback                // over the loopback interface, whatever its addresses
	Unix                    // over a unix socket, with peer credentials
)

// A Claimed datagram is one of this host to itself, as far as can be seen: over
// IPv6, and for broadcasts, the kernel does not name the loopback interface. On
// the link it can be forged. What is sent back reaches nobody but this host, so
// it is answered; what has other effects is not done for it.

// String returns "network", "claimed", "loopback" or "unix".
func (c Channel) String() string {
	switch c {
	case Claimed:
		return "claimed"
	case Loopback:
		return "loopback"
	case Unix:
		return "unix"
	}
	return "network"
}

// Origin is what transport knows of where a call came from.
type Origin struct {
	Channel    Channel
	NetID      rpcbind.NetID  // transport that the call arrived on
	Source     netip.AddrPort // caller; zero over a unix socket
	Local      netip.AddrPort // address the caller used for us; zero over a unix socket
	Privileged bool           // Loopback only: only root can have bound the source port
	UID        uint32         // peer's user, unix socket only
	PID        int32          // peer's process, unix socket only; 0 when unknown
	At         int64          // when the call came, in nanoseconds of a clock that is never set back
}
