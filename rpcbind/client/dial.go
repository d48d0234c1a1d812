package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"rpcward/rpcbind"
)

// The unix sockets of a port mapper on Linux. The first can only be made by
// root; the other, in the abstract name space, is seen in containers that
// share the host's network and not its files.
const (
	SocketPath     = "/run/rpcbind.sock"
	AbstractSocket = "@/run/rpcbind.sock"
)

// Dialer makes Clients. The zero value is ready to use.
type Dialer struct {
	// ReservedPort asks for a source port below 1024, by which a port mapper
	// knows root over loopback. Without the right to one, any is taken.
	ReservedPort bool
}

// Dial associates with an RPC server using the zero [Dialer].
func Dial(ctx context.Context, network, address string) (*Client, error) {
	return Dialer{}.Dial(ctx, network, address)
}

// Dial associates with an RPC server. network is a netid: "tcp", "udp", "tcp6",
// "udp6", "local" or "unix". address is a name or an IP address of that family
// with or without a port, which is 111 if left out; on the local netids a path,
// with "@" before an abstract one, or "" for [SocketPath].
func (d Dialer) Dial(ctx context.Context, network, address string) (*Client, error) {
	netid := rpcbind.ParseNetID(network)
	if netid.IsLocal() {
		return d.DialLocal(ctx, address)
	}
	if _, err := goNetwork(netid); err != nil {
		return nil, fmt.Errorf("netid %q: %w", network, err)
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, err
	}
	addr, err := lookup(ctx, netid, host)
	if err != nil {
		return nil, err
	}
	return d.DialAddrPort(ctx, netid, netip.AddrPortFrom(addr, port))
}

// DialLocal connects to a unix socket, if path is "" to [SocketPath] or, if
// that is not there, to [AbstractSocket].
func (d Dialer) DialLocal(ctx context.Context, path string) (*Client, error) {
	if path != "" {
		return d.dialUnix(ctx, path)
	}
	c, err := d.dialUnix(ctx, SocketPath)
	if err == nil {
		return c, nil
	}
	if c, err2 := d.dialUnix(ctx, AbstractSocket); err2 == nil {
		return c, nil
	}
	return nil, err // of the two, the one that an administrator can look at
}

func (d Dialer) dialUnix(ctx context.Context, path string) (*Client, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &Client{netid: rpcbind.Local, path: path, conn: conn}, nil
}

// DialAddrPort associates with the RPC server at an IP address.
func (d Dialer) DialAddrPort(ctx context.Context, netid rpcbind.NetID, server netip.AddrPort) (*Client, error) {
	network, err := goNetwork(netid)
	if err != nil {
		return nil, err
	}
	if !netid.Accepts(server.Addr()) {
		return nil, &net.AddrError{Err: "not an address of netid " + netid.String(), Addr: server.String()}
	}
	conn, err := d.dialIP(ctx, network, server)
	if err != nil {
		return nil, err
	}
	return &Client{netid: netid, peer: server, conn: conn}, nil
}

// DialUAddr associates with the RPC server at a universal address.
func (d Dialer) DialUAddr(ctx context.Context, netid rpcbind.NetID, uaddr string) (*Client, error) {
	if netid.IsLocal() {
		return d.dialUnix(ctx, uaddr)
	}
	server, ok := rpcbind.ParseUAddr([]byte(uaddr))
	if !ok {
		return nil, &net.AddrError{Err: "not a universal address", Addr: uaddr}
	}
	return d.DialAddrPort(ctx, netid, server)
}

// dialIP takes the reserved ports from the top, as bindresvport(3) roughly does.
func (d Dialer) dialIP(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var nd net.Dialer
	for port := uint16(1023); d.ReservedPort && port >= 512; port-- {
		if network[0] == 't' {
			nd.LocalAddr = &net.TCPAddr{Port: int(port)}
		} else {
			nd.LocalAddr = &net.UDPAddr{Port: int(port)}
		}
		conn, err := nd.DialContext(ctx, network, server.String())
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
			d.ReservedPort = false // not for us; ask from any
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL):
			return nil, err
		}
	}
	nd.LocalAddr = nil
	return nd.DialContext(ctx, network, server.String())
}

// errNetID is an RPC transport that this package has no sockets for.
var errNetID = errors.New("transport not supported")

// goNetwork returns package net's name of a netid's sockets.
func goNetwork(netid rpcbind.NetID) (string, error) {
	switch netid {
	case rpcbind.TCP:
		return "tcp4", nil
	case rpcbind.UDP:
		return "udp4", nil
	case rpcbind.TCP6, rpcbind.UDP6:
		return netid.String(), nil
	}
	return "", errNetID
}

// splitHostPort reads "host", "host:port", "[v6]", "[v6]:port" and a bare IPv6
// address.
func splitHostPort(s string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, rpcbind.Port, nil
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		if n := len(s); n > 2 && s[0] == '[' && s[n-1] == ']' {
			return s[1 : n-1], rpcbind.Port, nil
		}
		return s, rpcbind.Port, nil
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, &net.AddrError{Err: "port is not a number from 1 to 65535", Addr: s}
	}
	return host, uint16(n), nil
}

// lookup returns the first address of host that netid can use.
func lookup(ctx context.Context, netid rpcbind.NetID, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if !netid.Accepts(addr) {
			return netip.Addr{}, &net.DNSError{Err: "not an address of netid " + netid.String(), Name: host, IsNotFound: true}
		}
		return addr, nil
	}
	family := "ip4"
	if netid.Is6() {
		family = "ip6"
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	var none *net.AddrError
	if errors.As(err, &none) { // it has addresses of the other family only
		err = &net.DNSError{Err: none.Err, Name: host, IsNotFound: true}
	}
	if err != nil {
		return netip.Addr{}, err
	}
	if !netid.Is6() {
		return addrs[0].Unmap(), nil
	}
	return addrs[0], nil
}
