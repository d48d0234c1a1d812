package guard

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpcward/internal/firewall"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// number returns what an environment variable says, or without it usual.
func number(t testing.TB, name string, usual int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// program is one that no rule names.
const program = 300100

// follower is a client that looks a service up and calls it where it is said to
// be, again and again.
type follower struct {
	lookUp  net.Conn
	rounds  sync.Mutex   // held from a look-up to the end of the call
	first   atomic.Int64 // time of the first look-up that found the UDP port
	reached atomic.Int64 // calls that were answered
	wrong   atomic.Pointer[string]
	stop    atomic.Bool
}

// getPort is PMAPPROC_GETPORT, RFC 1833, Section 3.2.
const getPort = 3

func (f *follower) ask(prot uint32) (uint16, error) {
	reply, err := lab.Call(f.lookUp, oncrpc.Call{Program: rpcbind.Program, Version: 2, Procedure: getPort,
		Args: rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: program, Version: 1, Prot: prot})}, comes)
	if err != nil {
		return 0, err
	}
	r := xdr.NewReader(reply.Results)
	port := r.Uint32()
	return uint16(port), r.Err()
}

// run looks up and calls until it is stopped or refused. It runs inside.
func (f *follower) run() {
	for i := 0; !f.stop.Load() && f.wrong.Load() == nil; i++ {
		if err := f.round(i); err != nil {
			s := err.Error()
			f.wrong.Store(&s)
		}
	}
}

// round is one look-up and call; of four, each is of another kind.
func (f *follower) round(i int) error {
	f.rounds.Lock()
	defer f.rounds.Unlock()
	prot, network, to := uint32(17), "udp", lab.ServerIP
	if i%2 == 1 {
		prot, network = 6, "tcp"
	}
	if i%4 > 1 {
		to = lab.ServerIP6
	}
	port, err := f.ask(prot)
	if err != nil {
		return fmt.Errorf("looking up: %w", err)
	}
	if port == 0 {
		return nil
	}
	if prot == 17 {
		f.first.CompareAndSwap(0, time.Now().UnixNano())
	}
	if err := (target{network, netip.AddrPortFrom(to, port), program, 1}).call(netip.Addr{}, comes); err != nil {
		return fmt.Errorf("%s port %d is said to be the service's and refuses: %w", network, port, err)
	}
	f.reached.Add(1)
	return nil
}

// TestRestarts moves a service to other ports again and again while a stranger
// tries each of them from the moment it is bound, and a client looks it up and
// calls it. RPCWARD_GUARD_RESTARTS says how often, RPCWARD_GUARD_BACKEND with
// which backend.
func TestRestarts(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	backend := os.Getenv("RPCWARD_GUARD_BACKEND")
	if backend == "" {
		backend = firewall.BackendNFT
	}
	n, _ := guarded(t, backend, lan)
	lookUp, err := n.Inside.Dial("tcp", netip.AddrPortFrom(lab.ServerIP, rpcbind.Port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer lookUp.Close()
	f := &follower{lookUp: lookUp}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Inside.Do(func() error { f.run(); return nil })
	}()
	defer func() { f.stop.Store(true); <-ended }()
	p := startProbe(t, n.Stranger, 200*time.Microsecond)

	early, connections := int64(0), 0
	restarts := number(t, "RPCWARD_GUARD_RESTARTS", 200)
	for range restarts {
		s := bind(t, n.Server, program, 0)
		p.to.Store(&aim{s.udpPort(), s.tcpPort()})
		s.workers.Go(s.answerUDP)
		time.Sleep(time.Millisecond) // as long as services take
		f.first.Store(0)
		s.register()
		registered := time.Now().UnixNano()
		connections += s.drain()
		before := s.strangers.Load()
		s.workers.Go(s.answerTCP)
		waitReached(t, f)
		f.rounds.Lock()
		s.unregister()
		f.rounds.Unlock()
		early += before
		if first := f.first.Load(); first != 0 {
			registered = min(registered, first)
		}
		if last := s.lastArrival.Load(); last > registered {
			t.Errorf("a datagram of the stranger came %v after udp %d could be looked up", time.Duration(last-registered), s.udpPort())
		}
		s.close()
		if late := s.connections.Load(); late > 0 {
			t.Errorf("%d connections of the stranger were made after tcp %d was registered", late, s.tcpPort())
		}
	}
	if early == 0 || connections == 0 {
		t.Errorf("the stranger reached no port before it was registered (%d datagrams, %d connections), which it could", early, connections)
	}
	t.Logf("%d restarts: %d calls of the client, %d datagrams and attempts each of the stranger; %d datagrams and %d connections came before the port was registered",
		restarts, f.reached.Load(), p.sent.Load(), early, connections)
}

// waitReached waits until the client has called the service where it is now
// over UDP and TCP, and IPv4 and IPv6.
func waitReached(t *testing.T, f *follower) {
	t.Helper()
	for enough := f.reached.Load() + 4; f.reached.Load() < enough; time.Sleep(100 * time.Microsecond) {
		if wrong := f.wrong.Load(); wrong != nil {
			t.Fatal(*wrong)
		}
	}
}
