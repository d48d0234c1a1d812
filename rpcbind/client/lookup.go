package client

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// Lookup returns the universal address of a program on the transport that the
// port mapper is asked over, or [ErrNotRegistered].
//
// It asks version 4, then 3, then on IPv4 version 2, and goes on to the next
// only if the server has not the version or does not understand the call, as
// libtirpc does: a denial or silence is an answer too.
func (c *Client) Lookup(ctx context.Context, program, version uint32) (string, error) {
	m := &rpcbind.RPCB[string]{
		Program: program, Version: version,
		NetID: c.netid.String(), Addr: c.UAddr(),
	}
	var err error
	for _, v := range []uint32{rpcbind.Version4, rpcbind.Version3} {
		var uaddr string
		uaddr, err = c.GetAddr(ctx, v, m)
		if !wrongVersion(err) {
			return uaddr, err
		}
	}
	prot := c.netid.Transport().IP
	if prot == 0 {
		return "", err // version 2 can't name this transport
	}
	port, err := c.GetPort(ctx, rpcbind.Mapping{Program: program, Version: version, Prot: prot})
	if err != nil {
		return "", err
	}
	return rpcbind.UAddr(netip.AddrPortFrom(c.peer.Addr(), port)), nil
}

func wrongVersion(err error) bool {
	var re *oncrpc.ReplyError
	return errors.As(err, &re) && re.WrongVersion()
}

// DialService looks a program up and associates with it.
func (c *Client) DialService(ctx context.Context, program, version uint32) (*Client, error) {
	uaddr, err := c.Lookup(ctx, program, version)
	if err != nil {
		return nil, err
	}
	if c.netid.IsLocal() {
		return Dialer{}.dialUnix(ctx, uaddr)
	}
	server, ok := rpcbind.ParseUAddr([]byte(uaddr))
	if !ok {
		return nil, &net.AddrError{Err: "not a universal address", Addr: uaddr}
	}
	return Dialer{}.DialAddrPort(ctx, c.netid, c.withZone(server))
}

// withZone gives a link-local address that the port mapper named the zone in
// which we found the port mapper: a universal address has none.
func (c *Client) withZone(server netip.AddrPort) netip.AddrPort {
	addr := server.Addr()
	if addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "" {
		addr = addr.WithZone(c.peer.Addr().Zone())
	}
	return netip.AddrPortFrom(addr, server.Port())
}
