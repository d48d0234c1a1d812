package policy

import (
	"net/netip"

	"rpcward/rpcbind"
)

// Channel says by which kind of socket a call came in. It, not an address in
// the packet, decides who is local.
type Channel uint8

// The channels.
const (
	Network  Channel = iota // from another host (the zero value is the least trusted)
	Loopback                // over the loopback interface, whatever its addresses
	Unix                    // over a unix socket, with peer credentials
)

// String returns "network", "loopback" or "unix".
func (c Channel) String() string {
	switch c {
	case Loopback:
		return "loopback"
	case Unix:
		return "unix"
	}
	return "network"
}

// Origin is what transport knows of where a call came from.
type Origin struct {
	Channel Channel
	NetID   rpcbind.NetID  // transport that the call arrived on
	Source  netip.AddrPort // caller; zero over a unix socket
	Local   netip.AddrPort // address the caller used for us; zero over a unix socket
	UID     uint32         // peer's user, unix socket only
	PID     int32          // peer's process, unix socket only; 0 when unknown
}
