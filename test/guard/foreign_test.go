package guard

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/internal/control"
	"rpcward/internal/firewall"
	"rpcward/test/lab"
)

// wantShut wants a service open to the inside and closed to the stranger.
func wantShut(t *testing.T, n *lab.Net, s *service) {
	t.Helper()
	check(t, n.Inside, netip.Addr{}, true, append(s.targets(lab.ServerIP), s.targets(lab.ServerIP6)...)...)
	check(t, n.Stranger, netip.Addr{}, false, append(s.targets(lab.ServerWAN), s.targets(lab.ServerWAN6)...)...)
}

// wantNoArrivals wants that a stranger who tries all the time has got nowhere.
func wantNoArrivals(t *testing.T, s *service, p *probe) {
	t.Helper()
	if p.sent.Load() == 0 {
		t.Error("the stranger did not try")
	}
	if d, c := s.strangers.Load(), s.connections.Load(); d+c > 0 {
		t.Errorf("%d datagrams and %d connections of the stranger came through", d, c)
	}
}

// probed starts a probe of a service.
func probed(t *testing.T, n *lab.Net, s *service) *probe {
	t.Helper()
	p := startProbe(t, n.Stranger, time.Millisecond)
	p.to.Store(&aim{s.udpPort(), s.tcpPort()})
	return p
}

// What others do to the firewall is undone, and told; of a table that the guard
// owns the kernel refuses it.
func TestOthersChangeFirewall(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, backend string) {
		n, guard := guarded(t, backend, lan)
		s := start(t, n.Server, program, 0)
		wantShut(t, n, s)
		var p *probe
		if backend == firewall.BackendNFT {
			p = probed(t, n, s) // it must never be open
		}
		for _, command := range vandalism[backend] {
			alarms := strings.Count(guard.Log(), alarmed)
			_, err := n.Server.Run(t.Context(), "sh", "-c", command)
			if backend == firewall.BackendNFT {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			lab.Eventually(t, "alarm after "+command, func() error {
				if strings.Count(guard.Log(), alarmed) == alarms {
					return errNotYet
				}
				return nil
			})
			lab.Eventually(t, "rules after "+command, func() error {
				if s.targets(lab.ServerWAN)[0].try(n.Stranger, netip.Addr{}, silence) == nil {
					return errNotYet
				}
				return nil
			})
			wantShut(t, n, s)
		}
		if p != nil {
			wantShutByProbe(t, n, s, p)
		}
	})
}

// wantShutByProbe is wantShut where only a probe is the stranger.
func wantShutByProbe(t *testing.T, n *lab.Net, s *service, p *probe) {
	t.Helper()
	time.Sleep(10 * time.Millisecond)
	wantNoArrivals(t, s, p)
	check(t, n.Inside, netip.Addr{}, true, append(s.targets(lab.ServerIP), s.targets(lab.ServerIP6)...)...)
}

// errNotYet is what Eventually waits to end.
var errNotYet = notYet{}

type notYet struct{}

func (notYet) Error() string { return "not yet" }

var vandalism = map[string][]string{
	firewall.BackendNFT: {"nft flush ruleset", "nft delete table inet rpcward", "nft flush table inet rpcward", "nft flush chain inet rpcward input"},
	firewall.BackendIPTablesNFT: {
		"iptables-nft -F", "iptables-nft -D INPUT 1 && ip6tables-nft -D INPUT 1", "nft flush ruleset",
	},
	firewall.BackendIPTablesLegacy: {
		"iptables-legacy -F", "iptables-legacy -D INPUT 1 && ip6tables-legacy -D INPUT 1", "iptables-legacy -I INPUT -j ACCEPT",
	},
}

// The rules stay when the guard is killed, and the next one takes them over.
func TestKilledGuard(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, backend string) {
		n, guard := guarded(t, backend, lan)
		s := start(t, n.Server, program, 0)
		p := probed(t, n, s)
		guard.Stop(syscall.SIGKILL)
		wantShutByProbe(t, n, s, p)
		if backend == firewall.BackendNFT { // nothing keeps the owner away
			n.Server.MustRun("nft", "list", "table", "inet", "rpcward")
		}
		waitStatus(t, n.Server, control.GuardNone)
		for _, r := range status(t, n.Server).Registrations {
			if r.Guarded {
				t.Errorf("said to be guarded, without a guard: %+v", r)
			}
		}

		// A registration goes on, and is guarded by the next guard.
		other := start(t, n.Server, program+1, 0)
		check(t, n.Stranger, netip.Addr{}, true, other.targets(lab.ServerWAN)...)
		startGuard(t, n.Server, backend)
		waitStatus(t, n.Server, control.GuardInStep)
		wantShut(t, n, other)
		wantShutByProbe(t, n, s, p)
	})
}

// Guard and port mapper start again in any order: no door opens, and the inside
// is let in.
func TestStartAgain(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	n := lab.NewNet(t)
	n.Server.Allow(lan)
	guard := launchGuard(t, n.Server, firewall.BackendNFT)
	guard.WaitLog(begun) // without a port mapper
	server := startServe(t, n.Server)
	guard.WaitLog(beside)
	waitStatus(t, n.Server, control.GuardInStep)
	s := start(t, n.Server, program, 0)
	p := probed(t, n, s)
	again := map[string]func(){
		"guard": func() {
			guard.Stop(syscall.SIGTERM)
			guard = launchGuard(t, n.Server, firewall.BackendNFT)
		},
		"serve": func() {
			server.Stop(syscall.SIGTERM)
			server = startServe(t, n.Server)
		},
		"serve, later": func() {
			server.Stop(syscall.SIGKILL)
			time.Sleep(100 * time.Millisecond)
			server = startServe(t, n.Server)
		},
		"guard while serve is away": func() {
			server.Stop(syscall.SIGTERM)
			guard.Stop(syscall.SIGKILL)
			guard = launchGuard(t, n.Server, firewall.BackendNFT)
			guard.WaitLog(begun)
			check(t, n.Inside, netip.Addr{}, true, s.targets(lab.ServerIP)...)
			server = startServe(t, n.Server)
		},
		"serve while guard is away": func() {
			guard.Stop(syscall.SIGTERM)
			server.Stop(syscall.SIGTERM)
			server = startServe(t, n.Server)
			guard = launchGuard(t, n.Server, firewall.BackendNFT)
		},
	}
	for what, do := range again {
		do()
		waitStatus(t, n.Server, control.GuardInStep)
		wantShutByProbe(t, n, s, p)
		check(t, n.Inside, netip.Addr{}, true, own(lab.ServerIP, "udp"), own(lab.ServerIP6, "tcp"))
		if t.Failed() {
			t.Fatalf("after %s", what)
		}
	}
	other := start(t, n.Server, program+1, 0)
	wantShut(t, n, other)
}
