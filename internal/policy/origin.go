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

// Self reports whether the caller used the same address as this host, and so
// is this host. In a datagram that can be forged; what is sent back then
// reaches nobody else, but it is no reason to trust the caller with more.
func (o *Origin) Self() bool {
	return o.Source.Addr().IsValid() && o.Source.Addr().WithZone("") == o.Local.Addr().WithZone("")
}
