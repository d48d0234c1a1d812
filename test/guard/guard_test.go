package guard

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"rpcward/internal/control"
	"rpcward/internal/firewall"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// lan is the line that opens the port mapper, and what follows it, to the inside.
const lan = "portmap: 10.99.0.0/24 [fd99::]/64"

// Backends of the firewall, by their names on the command line.
var backends = []string{firewall.BackendNFT, firewall.BackendIPTablesNFT, firewall.BackendIPTablesLegacy}

// onEach runs test with each backend.
func onEach(t *testing.T, test func(t *testing.T, backend string)) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "nft", "iptables-nft", "iptables-legacy")
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, backend)
		})
	}
}

// serve starts rpcward serve on the server of a new net with a policy.
func serve(t testing.TB, allow ...string) (*lab.Net, *lab.Process) {
	t.Helper()
	n := lab.NewNet(t)
	n.Server.Allow(allow...)
	return n, startServe(t, n.Server)
}

func startServe(t testing.TB, h *lab.Host) *lab.Process {
	t.Helper()
	p := h.Start(lab.Rpcward(t).Toolbox(), "serve")
	p.WaitServing()
	return p
}

// What a guard writes when it has come so far.
const (
	beside  = "registrations wait for the guard" // it has found rpcward serve
	inStep  = "guarding the registered services"
	begun   = "guarding the port mapper"
	alarmed = "somebody changed the firewall's rules"
)

// startGuard starts rpcward guard and waits until it is in step with the port
// mapper.
func startGuard(t testing.TB, h *lab.Host, backend string, options ...string) *lab.Process {
	t.Helper()
	p := launchGuard(t, h, backend, options...)
	p.WaitLog(inStep)
	return p
}

// guarded is a net with rpcward serve and a guard in step.
func guarded(t testing.TB, backend string, allow ...string) (*lab.Net, *lab.Process) {
	t.Helper()
	n, _ := serve(t, allow...)
	guard := startGuard(t, n.Server, backend)
	guard.WaitLog(beside)
	return n, guard
}

// launchGuard only starts it.
func launchGuard(t testing.TB, h *lab.Host, backend string, options ...string) *lab.Process {
	t.Helper()
	return h.Start(lab.Rpcward(t).Toolbox(), append([]string{"guard", "--backend", backend}, options...)...)
}

// status returns what serve's control socket says of the guard.
func status(t testing.TB, h *lab.Host) control.Status {
	t.Helper()
	conn, err := h.Dial("unix", control.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(comes))
	if _, err := conn.Write([]byte("GET /v1/status HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s control.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// waitStatus waits until serve says so of the guard.
func waitStatus(t testing.TB, h *lab.Host, want string) {
	t.Helper()
	lab.Eventually(t, "guard "+want, func() error {
		if s := status(t, h); s.Guard != want {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
}

// silence is how long a caller waits before it takes no answer for an answer.
const silence = 300 * time.Millisecond

// comes is how long an answer is waited for that comes.
const comes = 10 * time.Second

// target is a port of a service.
type target struct {
	network string // of Go
	addr    netip.AddrPort
	program uint32
	version uint32
}

func (a target) String() string {
	return fmt.Sprintf("program %d at %s %v", a.program, a.network, a.addr)
}

// call calls a service's NULL procedure, from an address if from is valid, and
// returns nil if there is an answer, whatever it says. It runs inside a host.
func (a target) call(from netip.Addr, wait time.Duration) error {
	d := net.Dialer{Timeout: wait}
	if from.IsValid() && a.network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	} else if from.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := d.Dial(a.network, a.addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = lab.Call(conn, oncrpc.Call{Program: a.program, Version: a.version}, wait)
	return err
}

// try is call from a host.
func (a target) try(h *lab.Host, from netip.Addr, wait time.Duration) error {
	return h.Do(func() error { return a.call(from, wait) })
}

// check tries targets from a host, at once, and wants an answer of all or
// silence of all.
func check(t *testing.T, h *lab.Host, from netip.Addr, answered bool, targets ...target) {
	t.Helper()
	type outcome struct {
		target
		err error
	}
	wait := silence
	if answered {
		wait = comes
	}
	outcomes := make(chan outcome)
	for _, a := range targets {
		go func() { outcomes <- outcome{a, a.try(h, from, wait)} }()
	}
	for range targets {
		o := <-outcomes
		if answered && o.err != nil {
			t.Errorf("%s %v to %v: %v, want an answer", h.Name, from, o.target, o.err)
		}
		if !answered && !os.IsTimeout(o.err) {
			t.Errorf("%s %v to %v: %v, want silence", h.Name, from, o.target, o.err)
		}
	}
}

// at returns targets of a program's ports, at one address of the server.
func at(list []rpcbind.RPCB[string], addr netip.Addr, program uint32) []target {
	var targets []target
	for _, m := range list {
		n := rpcbind.ParseNetID(m.NetID)
		if m.Program != program || n.IsLocal() || n.Is6() != addr.Is6() {
			continue
		}
		ap, _ := rpcbind.ParseUAddr([]byte(m.Addr))
		a := target{strings.TrimSuffix(m.NetID, "6"), netip.AddrPortFrom(addr, ap.Port()), program, m.Version}
		if !slices.ContainsFunc(targets, func(b target) bool { return a.network == b.network && a.addr == b.addr }) {
			targets = append(targets, a)
		}
	}
	return targets
}
