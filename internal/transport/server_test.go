package transport

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long the tests wait for what should take a moment.
const patience = 5 * time.Second

// everything is a host that has each address and whose ports are all bound.
type everything struct{}

func (everything) HasAddr(netip.Addr) bool                  { return true }
func (everything) Knows(netip.Addr) bool                    { return true }
func (everything) Bound(rpcbind.NetID, netip.AddrPort) bool { return true }
func (everything) Now() int64                               { return time.Now().Unix() }

// seen keeps the origins of calls, in their order.
type seen struct {
	mu   sync.Mutex
	list []policy.Origin
}

func (s *seen) note(o *policy.Origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, *o)
}

func (s *seen) Answered(o *policy.Origin, _ *oncrpc.Call)                   { s.note(o) }
func (s *seen) Declined(o *policy.Origin, _ *oncrpc.Call)                   { s.note(o) }
func (s *seen) Refused(o *policy.Origin, _ *oncrpc.Call, _ policy.Decision) { s.note(o) }
func (s *seen) Limited(o *policy.Origin, _ *oncrpc.Call)                    { s.note(o) }
func (s *seen) IndirectDenied(*policy.Origin, *rpcbind.RemoteCall)          {}
func (s *seen) NotSaved(error)                                              {}

// all returns the origins that were met so far.
func (s *seen) all() []policy.Origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// rules makes a policy of lines of hosts.allow.
func rules(t testing.TB, allow string) *policy.Policy {
	t.Helper()
	p, _, err := policy.New(hostsaccess.Parse("hosts.allow", []byte(allow+"\n")), nil, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testServer is a server of its own registry.
type testServer struct {
	*Server
	seen     *seen
	registry *registry.Registry
	socks    *Sockets // if serveOn opened them
	policy   atomic.Pointer[policy.Policy]
	stop     func()
}

func newTestServer(t testing.TB, allow string, own []registry.Registration, opt portmapper.Options) *testServer {
	t.Helper()
	s := &testServer{seen: &seen{}, registry: registry.New(own, nil, nil)}
	s.policy.Store(rules(t, allow))
	m := portmapper.New(s.registry, s.policy.Load, everything{}, s.seen, opt)
	s.Server = NewServer(m, slog.New(slog.DiscardHandler))
	return s
}

// start serves on the sockets until the test ends, or stop is called.
func (s *testServer) start(t testing.TB, socks *Sockets) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Serve(ctx, socks)
	}()
	s.stop = func() { cancel(); <-ended }
	t.Cleanup(func() {
		s.stop()
		if n := s.open(); n != (shares{}) {
			t.Errorf("connections are counted after the end: %+v", n)
		}
	})
}

func (s *Server) open() shares {
	s.caps.mu.Lock()
	defer s.caps.mu.Unlock()
	return s.caps.now
}

// passed are sockets of this process's own, passed as a service manager does:
// TCP and UDP on ports of 127.0.0.1, and a unix socket.
func passed(t testing.TB) (socks *Sockets, tcp, udp, path string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	path = t.TempDir() + "/sock"
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	u.SetUnlinkOnClose(false)
	defer u.Close()
	var files []*os.File
	for _, s := range []interface{ File() (*os.File, error) }{l.(*net.TCPListener), c.(*net.UDPConn), u} {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if socks, err = FromFiles(files); err != nil {
		t.Fatal(err)
	}
	return socks, l.Addr().String(), c.LocalAddr().String(), path
}

// null is a record with a call of procedure 0.
func null(xid uint32) []byte {
	c := oncrpc.Call{XID: xid, Program: rpcbind.Program, Version: rpcbind.Version2}
	return oncrpc.EndRecord(oncrpc.AppendCall(oncrpc.BeginRecord(nil), &c), 0)
}

// replyXID reads a reply record and returns the id of its call.
func replyXID(conn net.Conn) (uint32, error) {
	conn.SetReadDeadline(time.Now().Add(patience))
	msg, err := oncrpc.ReadRecord(conn, nil, 1<<20)
	if err != nil {
		return 0, err
	}
	reply, err := oncrpc.ParseReply(msg)
	return reply.XID, err
}
