package client

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"rpcward/oncrpc"
)

// How long the first datagram may stay without an answer before it is sent
// again, and the longest such wait, to which it doubles.
const (
	firstResend = time.Second
	maxResend   = 8 * time.Second
)

// aLongTimeAgo is a deadline that ends what waits on a connection.
var aLongTimeAgo = time.Unix(1, 0)

// watch makes c's connection fail once ctx is done. The function that it
// returns ends that and tells what the call's error should be.
func (c *Client) watch(ctx context.Context) func(error) error {
	c.conn.SetDeadline(time.Time{})
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		c.conn.SetDeadline(aLongTimeAgo)
	})
	return func(err error) error {
		if !stop() {
			<-ended // or it would end the next call
		}
		if ctxErr := ctx.Err(); ctxErr != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return ctxErr
		}
		return err
	}
}

// exchangeRecord sends a call as one record and reads records up to its reply.
func (c *Client) exchangeRecord(ctx context.Context, call *oncrpc.Call) (oncrpc.Reply, error) {
	if c.broken != nil {
		return oncrpc.Reply{}, c.broken
	}
	explain := c.watch(ctx)
	c.out = oncrpc.AppendCall(oncrpc.BeginRecord(c.out[:0]), call)
	c.out = oncrpc.EndRecord(c.out, 0)
	_, err := c.conn.Write(c.out)
	for err == nil {
		c.in, err = oncrpc.ReadRecord(c.conn, c.in[:0], MaxReply)
		if err != nil {
			break
		}
		var reply oncrpc.Reply
		if reply, err = oncrpc.ParseReply(c.in); err == nil && reply.XID == call.XID {
			explain(nil)
			return reply, nil
		}
	}
	// Whatever arrives next belongs to a call that nobody waits for.
	c.broken = explain(err)
	c.conn.Close()
	return oncrpc.Reply{}, c.broken
}

// exchangeDatagram sends a call, again and again with growing pauses, until
// its reply arrives or ctx is done.
func (c *Client) exchangeDatagram(ctx context.Context, call *oncrpc.Call) (oncrpc.Reply, error) {
	explain := c.watch(ctx)
	if c.in == nil {
		c.in = make([]byte, maxDatagram)
	}
	c.out = oncrpc.AppendCall(c.out[:0], call)
	for wait := firstResend; ; wait = min(2*wait, maxResend) {
		if _, err := c.conn.Write(c.out); err != nil {
			return oncrpc.Reply{}, explain(err)
		}
		c.conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // its deadline may just have been overwritten
			c.conn.SetReadDeadline(aLongTimeAgo)
		}
		reply, err := c.readDatagram(call.XID)
		switch {
		case err == nil:
			explain(nil)
			return reply, nil
		case !isTimeout(err) || ctx.Err() != nil:
			return oncrpc.Reply{}, explain(err)
		}
	}
}

// readDatagram reads the reply with that id. The socket is connected, so the
// kernel passes on what comes from the server's address only; what else is not
// a reply to this call is late or forged, and not worth an error.
func (c *Client) readDatagram(xid uint32) (oncrpc.Reply, error) {
	for {
		n, err := c.conn.Read(c.in)
		if err != nil {
			return oncrpc.Reply{}, err
		}
		reply, err := oncrpc.ParseReply(c.in[:n])
		if err == nil && reply.XID == xid {
			return reply, nil
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
