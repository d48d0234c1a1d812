package transport

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// service is an RPC service on a port of its own. It keeps what it is asked.
type service struct {
	conn  *net.UDPConn
	mu    sync.Mutex
	calls []oncrpc.Call
}

func (s *service) port() uint16 { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// newService answers each call with what reply makes of it.
func newService(t *testing.T, reply func(oncrpc.Call) [][]byte) *service {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{conn: conn}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			b := make([]byte, maxUDP)
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c, err := oncrpc.ParseCall(b[:n])
			if err != nil {
				t.Errorf("the service got % x: %v", b[:n], err)
				continue
			}
			s.mu.Lock()
			s.calls = append(s.calls, c)
			s.mu.Unlock()
			for _, r := range reply(c) {
				conn.WriteToUDPAddrPort(r, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return s
}

const forwardedProgram = 400000

// forwarding is a server that forwards calls of procedure 1 to svc.
func forwarding(t *testing.T, svc *service) string {
	t.Helper()
	socks, _, udp, _ := passed(t)
	s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{
		Forward: &portmapper.ForwardList{forwardedProgram: {1}}})
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), svc.port())
	if ok, err := s.registry.Set(registry.Registration{
		Key:  registry.Key{Program: forwardedProgram, Version: 1, NetID: rpcbind.UDP},
		Addr: rpcbind.UAddr(ap), IP: ap, Owner: "superuser"}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	s.start(t, socks)
	return udp
}

// callIt asks for a call of procedure 1 with the credentials of a user, and
// returns the reply, or nil if there is none.
func callIt(t *testing.T, udp string, args []byte, wait time.Duration) *oncrpc.Reply {
	t.Helper()
	conn, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := oncrpc.Call{
		XID: 77, Program: rpcbind.Program, Version: rpcbind.Version4, Procedure: uint32(rpcbind.ProcCallIt),
		Cred: oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys, Body: oncrpc.AppendSysCred(nil, &oncrpc.SysCred{Machine: "host"})},
		Args: rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{Program: forwardedProgram, Version: 1, Procedure: 1, Args: args}),
	}
	conn.Write(oncrpc.AppendCall(nil, &c))
	conn.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, maxUDP)
	n, err := conn.Read(b)
	if err != nil {
		return nil
	}
	reply, err := oncrpc.ParseReply(b[:n])
	if err != nil || reply.XID != c.XID {
		t.Fatalf("reply %+v, %v", reply, err)
	}
	return &reply
}

// The service sees the caller's arguments, but nobody's credentials and another
// transaction id; the caller sees the service's results.
func TestForward(t *testing.T) {
	svc := newService(t, func(c oncrpc.Call) [][]byte {
		return [][]byte{append(oncrpc.AppendAccepted(nil, c.XID, oncrpc.Success), c.Args...)}
	})
	udp := forwarding(t, svc)
	args := []byte("arguments...")
	reply := callIt(t, udp, args, patience)
	if reply == nil || reply.Accept != oncrpc.Success {
		t.Fatalf("reply %+v", reply)
	}
	r := xdr.NewReader(reply.Results)
	addr, results := r.Opaque(100), r.Opaque(100)
	if want := rpcbind.UAddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), svc.port())); string(addr) != want {
		t.Errorf("address %q, want %q", addr, want)
	}
	if string(results) != string(args) {
		t.Errorf("results %q, want %q", results, args)
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if len(svc.calls) != 1 {
		t.Fatalf("the service got %d calls", len(svc.calls))
	}
	if c := svc.calls[0]; c.Cred.Flavor != oncrpc.AuthNone || len(c.Cred.Body) != 0 || c.XID == 77 {
		t.Errorf("the service got credentials %v and transaction id %d", c.Cred, c.XID)
	}
}

// Replies that are not to our call, or not by the service's success, are not
// passed on.
func TestForwardBadReplies(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply func(oncrpc.Call) [][]byte
		want  bool
	}{
		{"none", func(oncrpc.Call) [][]byte { return nil }, false},
		{"another id", func(c oncrpc.Call) [][]byte {
			return [][]byte{oncrpc.AppendAccepted(nil, c.XID+1, oncrpc.Success)}
		}, false},
		{"garbage, then the reply", func(c oncrpc.Call) [][]byte {
			return [][]byte{[]byte("garbage"), nil, oncrpc.AppendAccepted(nil, c.XID, oncrpc.Success)}
		}, true},
		{"an error", func(c oncrpc.Call) [][]byte {
			return [][]byte{oncrpc.AppendAccepted(nil, c.XID, oncrpc.ProcUnavail)}
		}, false},
		{"more than the caller may get", func(c oncrpc.Call) [][]byte {
			return [][]byte{append(oncrpc.AppendAccepted(nil, c.XID, oncrpc.Success), make([]byte, 20000)...)}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			udp := forwarding(t, newService(t, tt.reply))
			if reply := callIt(t, udp, nil, 300*time.Millisecond); (reply != nil) != tt.want {
				t.Errorf("reply %+v, want one: %v", reply, tt.want)
			}
		})
	}
}

// The one who calls for others can't be made to wait for a slow service: the
// end comes at once.
func TestForwardEnds(t *testing.T) {
	var begin time.Time
	t.Cleanup(func() { // after those of the server
		if d := time.Since(begin); d > forwardTimeout/2 {
			t.Errorf("the end took %v", d)
		}
	})
	svc := newService(t, func(oncrpc.Call) [][]byte { return nil })
	udp := forwarding(t, svc)
	callIt(t, udp, nil, 50*time.Millisecond)
	begin = time.Now()
}

// However fast a prefix asks, a service gets so many calls a second from it,
// this host's own, too.
func TestForwardRate(t *testing.T) {
	svc := newService(t, func(c oncrpc.Call) [][]byte { return [][]byte{oncrpc.AppendAccepted(nil, c.XID, oncrpc.Success)} })
	udp := forwarding(t, svc)
	begin := time.Now()
	for range 4 * forwardRate {
		callIt(t, udp, nil, 10*time.Millisecond)
	}
	most := int(forwardRate * (1 + time.Since(begin).Seconds()))
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if n := len(svc.calls); n < forwardRate || n > most {
		t.Errorf("the service got %d of %d calls, want %d to %d", n, 4*forwardRate, forwardRate, most)
	}
}
