package transport

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
)

// Limits of forwarding. It is for a few broadcasts a minute, and each of them
// costs a socket and a goroutine for as long as the service takes.
const (
	maxForwards    = 64              // at the same time
	forwardTimeout = 5 * time.Second // for the service's answer
	forwardRate    = 40              // calls a second from one source prefix
	maxUDP         = 64 << 10        // bytes; more than any datagram has
)

// forwarder calls services on behalf of others. Look-ups never wait for it:
// each call has a goroutine, a connected socket and a random xid of its own,
// and carries no credential.
type forwarder struct {
	slots   chan struct{}
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
	limiter *policy.Limiter // for this host, too
}

func newForwarder() *forwarder {
	ctx, cancel := context.WithCancel(context.Background())
	return &forwarder{
		slots: make(chan struct{}, maxForwards), limiter: policy.NewLimiter(policy.Rates{Unlisted: forwardRate}),
		ctx: ctx, cancel: cancel,
	}
}

// close ends all calls and waits for them.
func (f *forwarder) close() {
	f.cancel()
	f.running.Wait()
}

// submit forwards the call fw and gives the answer, if there is one to give,
// to send. What exceeds the limits is dropped, as the network might have done.
func (f *forwarder) submit(fw *portmapper.Forwarding, send func(reply []byte)) {
	if _, ok := f.limiter.Take(&fw.Origin, false, 0); !ok {
		return
	}
	select {
	case f.slots <- struct{}{}:
	default:
		return
	}
	own := *fw
	own.Call.Args = append([]byte(nil), fw.Call.Args...)
	f.running.Go(func() {
		defer func() { <-f.slots }()
		if reply := own.Reply(nil, f.call(&own)); len(reply) > 0 {
			send(reply)
		}
	})
}

// call asks the service; nil means that it gave no answer.
func (f *forwarder) call(fw *portmapper.Forwarding) *oncrpc.Reply {
	ctx, cancel := context.WithTimeout(f.ctx, forwardTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "udp", fw.Target.String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	call := oncrpc.Call{
		XID: rand.Uint32(), Program: fw.Call.Program, Version: fw.Call.Version,
		Procedure: fw.Call.Procedure, Args: fw.Call.Args,
	}
	if _, err := conn.Write(oncrpc.AppendCall(nil, &call)); err != nil {
		return nil
	}
	buf := make([]byte, maxUDP)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil
		}
		if reply, err := oncrpc.ParseReply(buf[:n]); err == nil && reply.XID == call.XID {
			return &reply
		}
	}
}
