package transport

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// streamSocket is one listening socket, of TCP or unix.
type streamSocket struct {
	listener net.Listener
	netid    rpcbind.NetID
	listed   netip.AddrPort // where a TCP socket is bound
	device   string         // interface that it is bound to, if any
	dual     bool           // an IPv6 socket that gets IPv4 too
	path     string         // of a unix socket
}

func (l *streamSocket) control(f func(fd int)) {
	if raw, err := l.listener.(syscall.Conn).SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

func (l *streamSocket) netids() []rpcbind.NetID { return netids(l.netid, l.dual) }

// Limits of stream connections. Those of this host may be idle for ever: the
// kernel and services keep theirs open for as long as they run.
const (
	maxRecord   = 9000 // bytes of a call; libtirpc's servers take no longer one
	maxFragment = 8996 // bytes of a reply at once, as libtirpc's servers cut them

	idleTimeout    = 2 * time.Minute  // between calls of a client that the policy allows
	refusedTimeout = 5 * time.Second  // between calls of one that it refuses
	stallTimeout   = 10 * time.Second // from a call's first byte to its last, and for a peer to take a fragment of its reply
	replyTimeout   = 5 * time.Minute  // for a peer to take all of a reply: until then the registry of that time is kept

	maxPause = time.Second // between attempts to accept when out of descriptors
)

// accept hands connections to goroutines of their own until the listener is closed.
func (l *streamSocket) accept(s *Server) {
	pause := time.Duration(0)
	for {
		conn, err := l.listener.Accept()
		switch {
		case err == nil:
			pause = 0
			o, err := l.origin(conn, s.reserved)
			if err != nil {
				conn.Close()
				continue
			}
			s.admit(conn, o)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.ECONNABORTED):
		default:
			// Out of descriptors or memory: others must end first. The queue of
			// waiting connections is the kernel's, and bounded.
			pause = min(max(2*pause, 5*time.Millisecond), maxPause)
			s.log.Warn("accepting connections on "+l.listener.Addr().String(), "err", rootCause(err), "retry", pause)
			time.Sleep(pause)
		}
	}
}

// admit starts to serve conn if its source has not too many already.
func (s *Server) admit(conn net.Conn, o policy.Origin) {
	c := &stream{server: s, conn: conn, worker: s.mapper.NewWorker(), origin: o}
	c.worker.Pause = hold
	c.refused = s.mapper.Decide(&c.origin).Verdict != policy.Answer
	if !s.caps.enter(&c.origin, c.refused) {
		s.counts.capped.Add(1)
		conn.Close()
		return
	}
	if !s.track(c) {
		s.caps.leave(&c.origin, c.refused)
		conn.Close()
		return
	}
	go func() {
		defer s.untrack(c)
		defer s.caps.leave(&c.origin, c.refused)
		defer conn.Close()
		c.serve()
	}()
}

func (l *streamSocket) origin(conn net.Conn, reserved uint16) (policy.Origin, error) {
	if u, ok := conn.(*net.UnixConn); ok {
		cred, err := peerCred(u)
		if err != nil {
			return policy.Origin{}, err
		}
		return policy.Origin{Channel: policy.Unix, NetID: rpcbind.Local, UID: cred.Uid, PID: cred.Pid}, nil
	}
	t := conn.(*net.TCPConn)
	raw, err := t.SyscallConn()
	if err != nil {
		return policy.Origin{}, err
	}
	var o policy.Origin
	err = raw.Control(func(fd uintptr) {
		o = l.originIP(int(fd), addrPort(t.RemoteAddr()), addrPort(t.LocalAddr()), reserved)
	})
	return o, err
}

// originIP is where a TCP connection comes from.
func (l *streamSocket) originIP(fd int, source, local netip.AddrPort, reserved uint16) policy.Origin {
	o := policy.Origin{Channel: policy.Network, NetID: l.netid, Source: source, Local: local}
	if source.Addr().IsValid() && source.Addr() == local.Addr() {
		// The handshake has proved the source, so that this host speaks to itself.
		// For IPv6 the kernel names the interface that has the address instead.
		o.Channel = policy.Loopback
	} else if ifindex, err := incomingInterface(fd, l.netid.Is6()); err == nil && ifindex == loopbackIndex {
		o.Channel = policy.Loopback
	}
	o.Privileged = o.Channel == policy.Loopback && source.Port() < reserved
	if l.dual && source.Addr().Is4() {
		o.NetID = rpcbind.TCP
	}
	return o
}

// addrPort returns a's address, the zero one if the kernel did not tell it.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// stream is one connection.
type stream struct {
	server  *Server
	conn    net.Conn
	worker  *portmapper.Worker
	origin  policy.Origin
	refused bool        // when it was accepted
	busy    atomic.Bool // a call has begun and its reply is not out yet
}

// readAhead is how much of a connection's calls is read at once, in bytes; a
// usual call is shorter.
const readAhead = 512

// buffers are for one call and its reply. Idle connections hold none.
type buffers struct{ in, out []byte }

var bufferPool = sync.Pool{New: func() any { return new(buffers) }}

// keepBuffer is the size in bytes above which a buffer isn't kept for others.
const keepBuffer = 64 << 10

func (c *stream) serve() {
	r := bufio.NewReaderSize(c.conn, readAhead)
	for {
		c.beginIdle()
		if _, err := r.Peek(1); err != nil {
			return
		}
		c.beginCall()
		b := bufferPool.Get().(*buffers)
		ok := c.serveCall(r, b)
		if cap(b.out) <= keepBuffer {
			bufferPool.Put(b)
		}
		if !ok {
			return
		}
	}
}

// beginIdle sets how long the connection may wait for its next call.
func (c *stream) beginIdle() {
	c.busy.Store(false)
	c.setReadDeadline(c.idle())
	// After busy is false: Server.stop looks at the two in the other order, so
	// that one of us sees what the other did.
	if c.server.stopping.Load() {
		c.conn.SetReadDeadline(time.Now())
	}
}

// beginCall sets how long the call that has begun may take. Our end does not
// interrupt it.
func (c *stream) beginCall() {
	c.busy.Store(true)
	c.setReadDeadline(stallTimeout)
}

// idle is how long a network client may wait with its next call.
func (c *stream) idle() time.Duration {
	if c.refused {
		return refusedTimeout
	}
	return idleTimeout
}

// setReadDeadline bounds what network clients may make us wait.
func (c *stream) setReadDeadline(d time.Duration) {
	if c.origin.Channel == policy.Network {
		c.conn.SetReadDeadline(time.Now().Add(d))
	} else {
		c.conn.SetReadDeadline(time.Time{})
	}
}

// serveCall answers one call; false means that the connection ends.
func (c *stream) serveCall(r *bufio.Reader, b *buffers) bool {
	var err error
	if b.in, err = oncrpc.ReadRecord(r, b.in[:0], maxRecord); err != nil {
		return false
	}
	c.origin.At = clock()
	reply, outcome := c.worker.Answer(oncrpc.BeginRecord(b.out[:0]), b.in, &c.origin)
	b.out = reply[:0]
	switch outcome {
	case portmapper.Reply, portmapper.Part:
		return c.reply(b, reply, outcome) == nil
	case portmapper.HangUp:
		return false
	}
	return true
}

// reply sends a reply that begins with room for a record's header, and what
// follows a part. It is cut as libtirpc's servers do.
func (c *stream) reply(b *buffers, reply []byte, outcome portmapper.Outcome) error {
	const header = oncrpc.RecordHeaderSize
	until := time.Now().Add(replyTimeout)
	for {
		for len(reply) > header+maxFragment {
			if err := c.send(oncrpc.EndFragment(reply[:header+maxFragment], 0), until); err != nil {
				return err
			}
			reply = reply[maxFragment:] // the next header takes the place of what is sent
		}
		if outcome == portmapper.Reply {
			return c.send(oncrpc.EndRecord(reply, 0), until)
		}
		reply, outcome = c.worker.Continue(append(b.out, reply...))
		b.out = reply[:0]
	}
}

// send sends a fragment. A peer that takes none holds memory, whoever it is.
func (c *stream) send(b []byte, until time.Time) error {
	deadline := time.Now().Add(stallTimeout)
	if until.Before(deadline) {
		deadline = until
	}
	c.conn.SetWriteDeadline(deadline)
	_, err := c.conn.Write(b)
	return err
}
