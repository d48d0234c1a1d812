package lab

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

// dialTime bounds a connection attempt: across a veth pair it takes no time,
// so a longer one means a dropped packet.
const dialTime = 2 * time.Second

// Dial connects from h. The address must be an IP address with a port, or a
// path: looking up a name would take the machine's resolver.
func (h *Host) Dial(network, address string) (net.Conn, error) {
	return h.dial(network, nil, address)
}

// DialFrom is Dial from a local address and port, such as 10.99.0.2:700.
func (h *Host) DialFrom(network string, local netip.AddrPort, address string) (net.Conn, error) {
	if network[0] == 't' {
		return h.dial(network, net.TCPAddrFromAddrPort(local), address)
	}
	return h.dial(network, net.UDPAddrFromAddrPort(local), address)
}

func (h *Host) dial(network string, local net.Addr, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: dialTime, LocalAddr: local}
	err = h.Do(func() error {
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

// Listen listens on h.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a datagram socket on h.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// WaitPort waits until something on h accepts connections on a TCP address or
// a unix path.
func (h *Host) WaitPort(network, address string) {
	h.t.Helper()
	Eventually(h.t, fmt.Sprintf("%s: listener on %s %s", h.Name, network, address), func() error {
		conn, err := h.Dial(network, address)
		if err == nil {
			conn.Close()
		}
		return err
	})
}
