package differential

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

const (
	patience = 10 * time.Second
	// maxIdle is how long a connection is used again; both close idle ones, the
	// sooner of them after 5 seconds.
	maxIdle = 2 * time.Second
	// fenceXID begins the ids of fences: NULL calls that follow each message.
	// Both programs answer in order, so that the answer to a fence tells that
	// none will come to the message.
	fenceXID = 0xfe000000
)

// twin is one of the two port mappers, on a net of its own.
type twin struct {
	t     *testing.T
	pm    lab.PortMapper
	net   *lab.Net
	proc  *lab.Process
	opts  []string
	links []*link // by route
	fence uint32
	port  uint16 // last privileged port of a connection
}

// link is an open socket of a route.
type link struct {
	conn net.Conn
	used time.Time
}

func newTwin(t *testing.T, pm lab.PortMapper, setup Setup) *twin {
	w := &twin{t: t, pm: pm, net: lab.NewNet(t), links: make([]*link, len(Routes)), port: 600}
	w.net.Inside.AddAddr("eth0", netip.PrefixFrom(Unproven4, 24), netip.PrefixFrom(Unproven6, 64))
	inside := []string{"10.99.0.0/24", "[fd99::]/64"}
	switch {
	case pm.Name == "rpcward" || setup.Denied:
		w.net.Server.Allow("rpcbind: " + inside[0] + " " + inside[1])
	}
	if setup.Denied {
		w.net.Server.Deny("rpcbind: ALL")
	}
	if setup.Forward {
		w.opts = append(w.opts, "-r")
	}
	if setup.Insecure {
		w.opts = append(w.opts, "-i")
	}
	w.proc = lab.StartPortMapper(t, w.net.Server, pm, w.opts...)
	w.prove()
	return w
}

// prove completes a TCP exchange from the inside addresses that have a route
// for it, so that none of them is unproven.
func (w *twin) prove() {
	for i := range Routes {
		if r := &Routes[i]; r.Network == "tcp" && r.From == Inside {
			w.Ask(Step{Route: i, Msg: oncrpc.AppendCall(nil, &oncrpc.Call{XID: 1, Program: rpcbind.Program, Version: 4})})
		}
	}
}

func (w *twin) host(p Place) *lab.Host {
	return []*lab.Host{w.net.Server, w.net.Inside, w.net.Stranger}[p]
}

// open returns the socket of s's route, a new one if there is none to use.
func (w *twin) open(s *Step) *link {
	r := &Routes[s.Route]
	l := w.links[s.Route]
	if l != nil && (r.Datagram() || !s.Fresh && time.Since(l.used) < maxIdle) {
		return l
	}
	w.drop(s.Route)
	conn, err := w.dial(s.Route)
	if err != nil {
		w.t.Fatalf("%s: %v: %v\n%s", w.pm.Name, r, err, w.proc.Log())
	}
	l = &link{conn: conn}
	w.links[s.Route] = l
	return l
}

// drop ends the connection of a route, without leaving a port in TIME_WAIT.
func (w *twin) drop(route int) {
	l := w.links[route]
	if l == nil {
		return
	}
	if c, ok := l.conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	l.conn.Close()
	w.links[route] = nil
}

func (w *twin) dial(route int) (net.Conn, error) {
	r := &Routes[route]
	if r.Network == "unix" {
		return w.dialAs(r.UID)
	}
	to := netip.AddrPortFrom(r.Target, rpcbind.Port).String()
	switch {
	case !r.Privileged:
		return w.host(r.From).DialFrom(r.Network, netip.AddrPortFrom(r.Source, 0), to)
	case r.Datagram():
		return w.host(r.From).DialFrom(r.Network, netip.AddrPortFrom(r.Source, uint16(600+route)), to)
	}
	for range 400 {
		w.port = 600 + (w.port-599)%400
		conn, err := w.host(r.From).DialFrom(r.Network, netip.AddrPortFrom(r.Source, w.port), to)
		if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return conn, err
		}
	}
	return nil, errors.New("all privileged ports are in use")
}

// dialAs connects to the unix socket as another user: what the server will see
// is the user of the thread that connects.
func (w *twin) dialAs(uid uint32) (conn net.Conn, err error) {
	err = w.net.Server.Do(func() error {
		// By the system call: the libraries change all threads. This one ends here.
		if _, _, errno := unix.Syscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
		conn, err = net.Dial("unix", lab.Sock)
		return err
	})
	return conn, err
}

// fenceMessage returns the next fence.
func (w *twin) fenceMessage() []byte {
	w.fence = (w.fence + 1) & 0xffffff
	return oncrpc.AppendCall(nil, &oncrpc.Call{XID: fenceXID + w.fence, Program: rpcbind.Program, Version: 4})
}

// Ask sends s and returns what came of it.
func (w *twin) Ask(s Step) Outcome {
	w.send(&s)
	return w.receive(&s)
}

// send sends s and a fence behind it.
func (w *twin) send(s *Step) {
	l := w.open(s)
	l.used = time.Now()
	l.conn.SetDeadline(time.Now().Add(patience))
	if !Routes[s.Route].Datagram() {
		b, ends := s.frame(nil)
		if !ends {
			f := w.fenceMessage()
			b = append(recordMark(b, len(f), true), f...)
		}
		l.conn.Write(b) // what became of it is seen by reading
		if ends {
			l.conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		return
	}
	if s.Malformed {
		l.conn.Write(poison)
	}
	if _, err := l.conn.Write(s.Msg); err != nil {
		w.t.Errorf("%s: %v: %v", w.pm.Name, s, err)
	}
	fence := w.fenceLink(s)
	fence.conn.SetDeadline(time.Now().Add(patience))
	fence.conn.Write(w.fenceMessage())
}

// fenceLink is where the fence of a datagram goes: strangers get no answer to
// it, but the inside client's calls go to the same socket of the server.
func (w *twin) fenceLink(s *Step) *link {
	r := &Routes[s.Route]
	if r.From != Stranger {
		return w.links[s.Route]
	}
	for i := range Routes {
		if f := &Routes[i]; f.Network == "udp" && f.From == Inside && f.Target.Is4() == r.Target.Is4() {
			return w.open(&Step{Route: i})
		}
	}
	panic("no route for a fence")
}

// receive returns what came back up to the fence.
func (w *twin) receive(s *Step) Outcome {
	if Routes[s.Route].Datagram() {
		return w.receiveDatagram(s)
	}
	return w.receiveStream(s)
}

func (w *twin) isFence(msg []byte) bool {
	return len(msg) >= 4 && binary.BigEndian.Uint32(msg) == fenceXID+w.fence
}

func (w *twin) receiveStream(s *Step) (o Outcome) {
	conn := w.links[s.Route].conn
	for {
		msg, n, err := readRecord(conn)
		switch {
		case err == nil && w.isFence(msg):
			return o
		case err == nil && o.Reply != nil:
			w.t.Errorf("%s: %v: a second reply %x", w.pm.Name, s, msg)
		case err == nil:
			o.Reply, o.Fragments = msg, n
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			o.Closed = true
			w.drop(s.Route)
			return o
		default:
			w.t.Fatalf("%s: %v: %v\n%s", w.pm.Name, s, err, w.proc.Log())
		}
	}
}

// readRecord reads one record and counts its fragments.
func readRecord(r io.Reader) (msg []byte, fragments int, err error) {
	var head [4]byte
	for last := false; !last; fragments++ {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, 0, err
		}
		mark := binary.BigEndian.Uint32(head[:])
		last = mark>>31 == 1
		at := len(msg)
		msg = append(msg, make([]byte, mark&^(1<<31))...)
		if _, err := io.ReadFull(r, msg[at:]); err != nil {
			return nil, 0, err
		}
	}
	return msg, fragments, nil
}

func (w *twin) receiveDatagram(s *Step) (o Outcome) {
	l, fence := w.links[s.Route], w.fenceLink(s)
	w.untilFence(s, fence, l == fence, &o)
	if l == fence {
		return o
	}
	// The fence came another way, and may have been faster by a little.
	for range 2 {
		for msg := poll(l.conn); msg != nil; msg = poll(l.conn) {
			w.take(s, msg, &o)
		}
		if o.Reply != nil {
			return o
		}
		fence.conn.Write(w.fenceMessage())
		w.untilFence(s, fence, false, &o)
	}
	return o
}

// untilFence reads datagrams of l up to the fence. Others belong to s if own.
func (w *twin) untilFence(s *Step, l *link, own bool, o *Outcome) {
	buf := make([]byte, 1<<16)
	for {
		n, err := l.conn.Read(buf)
		if err != nil {
			w.t.Fatalf("%s: waiting after %v: %v\n%s", w.pm.Name, s, err, w.proc.Log())
		}
		if w.isFence(buf[:n]) {
			return
		}
		if !own {
			w.t.Errorf("%s: %v: an unexpected reply %x", w.pm.Name, s, buf[:n])
			continue
		}
		w.take(s, append([]byte(nil), buf[:n]...), o)
	}
}

func (w *twin) take(s *Step, msg []byte, o *Outcome) {
	if o.Reply != nil {
		w.t.Errorf("%s: %v: a second reply %x", w.pm.Name, s, msg)
	}
	o.Reply = msg
}

// forwardTime is how long an answer from a service of the same host may take,
// or the news that there is none.
const forwardTime = 200 * time.Millisecond

// receiveLater waits for the answer to a forwarded call.
func (w *twin) receiveLater(s *Step, o *Outcome) {
	conn := w.links[s.Route].conn
	for deadline := time.Now().Add(forwardTime); o.Reply == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		o.Reply = poll(conn)
	}
}

// poll reads a datagram that is there already.
func poll(conn net.Conn) []byte {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	buf := make([]byte, 1<<16)
	var msg []byte
	raw.Read(func(fd uintptr) bool {
		if n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); err == nil {
			msg = buf[:n]
		}
		return true
	})
	return msg
}

// root asks as root over the unix socket.
func (w *twin) root(version uint32, p rpcbind.Proc, args []byte) oncrpc.Reply {
	o := w.Ask(Step{Msg: oncrpc.AppendCall(nil, &oncrpc.Call{XID: 7, Program: rpcbind.Program, Version: version, Procedure: uint32(p), Args: args})})
	r, err := oncrpc.ParseReply(o.Reply)
	if err != nil || r.Stat != oncrpc.MsgAccepted || r.Accept != oncrpc.Success {
		w.t.Fatalf("%s: procedure %d as root: %v", w.pm.Name, p, o)
	}
	return r
}

// List returns what is registered.
func (w *twin) List() []rpcbind.RPCB[string] {
	r := xdr.NewReader(w.root(4, rpcbind.ProcDump, nil).Results)
	return rpcbind.ReadRPCBs(&r)
}

// list2 returns what version 2 lists.
func (w *twin) list2() []rpcbind.Mapping {
	r := xdr.NewReader(w.root(2, rpcbind.ProcDump, nil).Results)
	return rpcbind.ReadMappings(&r)
}

func (w *twin) unset(program, version uint32) {
	w.root(4, rpcbind.ProcUnset, rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: program, Version: version}))
}

// restart starts the program anew, with nothing registered but its own.
func (w *twin) restart() {
	for i := range w.links {
		w.drop(i)
	}
	if err := w.proc.Stop(syscall.SIGTERM); err != nil {
		w.t.Logf("%s: %v", w.pm.Name, err)
	}
	// rpcbind logs from processes of its own, which hold its lock as well.
	w.net.Server.MustRun("flock", "-w", "10", "/run/rpcbind.lock", "sh", "-c", "rm -rf /run/rpcbind/*.xdr /run/rpcward /var/lib/rpcward")
	w.proc = lab.StartPortMapper(w.t, w.net.Server, w.pm, w.opts...)
	w.prove()
}
