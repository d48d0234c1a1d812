// Package client asks port mappers: every procedure of versions 2, 3 and 4
// over UDP, TCP and unix sockets, and NULL or any other call of any other RPC
// program.
//
// Peers are not trusted. A reply must carry the random transaction id of its
// call and come from the address that was called; what can't be a reply is
// ignored on UDP and ends a stream. A reply costs memory as its bytes arrive,
// never as it claims, and no more than [MaxReply]. Strings in results are what
// the peer sent: they may hold any byte, so a caller that prints them must
// escape them.
//
// Calls wait until their context is done, without one for ever.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// MaxReply is the longest reply in bytes that a stream may carry: more than
// half a million registrations. Over UDP a reply is one datagram.
const MaxReply = 16 << 20

// maxDatagram is the longest UDP payload, rounded up.
const maxDatagram = 64 << 10

var (
	// ErrNotRegistered means that the port mapper answered that it does not
	// know the program.
	ErrNotRegistered = errors.New("program not registered")
	// ErrResult means that a call succeeded but its result can't be decoded.
	ErrResult = errors.New("result can't be decoded")
)

// Client is an association with one RPC server, a port mapper or another
// program. Its methods may be called from several goroutines; calls take turns.
//
// Calls fail with *[oncrpc.ReplyError] if the server says so, with an error
// that wraps the context's if that is done first, with *[net.OpError] if the
// network says so, and with [ErrResult]. After a failure on a stream other
// than a *ReplyError the Client is of no use any more: later calls fail alike.
type Client struct {
	// Cred is sent with each call. The zero value, AUTH_NONE, is what most
	// port mappers want. Set it before the first call.
	Cred oncrpc.OpaqueAuth

	netid rpcbind.NetID
	peer  netip.AddrPort // of IP transports
	path  string         // of local ones
	conn  net.Conn

	mu     sync.Mutex // held during a call; guards what follows
	out    []byte
	in     []byte
	broken error // why a stream can't be used any more
}

// NetID returns the transport.
func (c *Client) NetID() rpcbind.NetID { return c.netid }

// UAddr returns the universal address of the server, RFC 5665, Section 5.2.3:
// a path on local transports. A zone is not part of it.
func (c *Client) UAddr() string {
	if c.netid.IsLocal() {
		return c.path
	}
	return rpcbind.UAddr(netip.AddrPortFrom(c.peer.Addr().WithZone(""), c.peer.Port()))
}

// Close closes the association. A call that waits fails.
func (c *Client) Close() error { return c.conn.Close() }

// Call carries out one call and returns the bytes of its result.
func (c *Client) Call(ctx context.Context, program, version, procedure uint32, args []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	results, err := c.call(ctx, program, version, procedure, args)
	return bytes.Clone(results), err
}

// call returns a result that aliases c.in. The caller holds c.mu.
func (c *Client) call(ctx context.Context, program, version, procedure uint32, args []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	call := oncrpc.Call{
		// The top-level generator is ChaCha8 with a seed of the kernel's: an
		// off-path attacker can't guess the next id.
		XID:     rand.Uint32(),
		Program: program, Version: version, Procedure: procedure,
		Cred: c.Cred, Args: args,
	}
	exchange := c.exchangeRecord
	if c.netid.Datagram() {
		exchange = c.exchangeDatagram
	}
	reply, err := exchange(ctx, &call)
	if err != nil {
		return nil, fmt.Errorf("calling program %d version %d: %w", program, version, err)
	}
	return reply.Results, reply.Err()
}

// query calls the port mapper and decodes the result while it is still the
// Client's own.
func query[T any](ctx context.Context, c *Client, version uint32, proc rpcbind.Proc, args []byte, read func(*xdr.Reader) T) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zero T
	results, err := c.call(ctx, rpcbind.Program, version, uint32(proc), args)
	if err != nil {
		return zero, err
	}
	r := xdr.NewReader(results)
	v := read(&r)
	if err := r.Err(); err != nil {
		return zero, fmt.Errorf("%w: %w", ErrResult, err)
	}
	return v, nil
}
