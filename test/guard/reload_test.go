package guard

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/firewall"
	"rpcward/test/lab"
)

// policies let the inside in and keep the stranger out, each by other sets.
func policies() []string {
	many := func(count int) string {
		var b strings.Builder
		for i := range count {
			fmt.Fprintf(&b, "300100: 172.16.%d.0/25 [2001:db8:%x::]/48\n", i%256, i)
		}
		return b.String()
	}
	return []string{
		lan + "\n300100: 10.99.0.0/24 [fd99::]/64\n" + many(300),
		"portmap: 10.99.0.0/25 [fd99::]/65\n300100: 10.99.0.2 [fd99::2]\n" + many(100),
		"ALL: ALL EXCEPT 10.98.0.0/16 [fd98::]/16",
	}
}

// counters are rules that count what comes to a port before and after the
// guard's: by the inside and by the stranger.
func counters(n *lab.Net, port uint16) {
	var b strings.Builder
	b.WriteString("table inet counted {\n")
	hosts := map[string][2]netip.Addr{"inside": {lab.InsideIP, lab.InsideIP6}, "stranger": {lab.StrangerIP, lab.StrangerIP6}}
	for host := range hosts {
		fmt.Fprintf(&b, "counter %s_before {}\ncounter %s_after {}\n", host, host)
	}
	for when, hook := range map[string]string{"before": "prerouting priority -250", "after": "input priority 250"} {
		fmt.Fprintf(&b, "chain %s { type filter hook %s\n", when, hook)
		for host, addrs := range hosts {
			fmt.Fprintf(&b, "ip saddr %v udp dport %d counter name %s_%s\n", addrs[0], port, host, when)
			fmt.Fprintf(&b, "ip6 saddr %v udp dport %d counter name %s_%s\n", addrs[1], port, host, when)
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	n.Server.WriteFile("/run/counted.nft", b.String())
	n.Server.MustRun("nft", "-f", "/run/counted.nft")
}

var counted = regexp.MustCompile(`counter (\w+) \{\s*packets (\d+)`)

// count reads the counters.
func count(n *lab.Net) map[string]int {
	values := map[string]int{}
	for _, m := range counted.FindAllStringSubmatch(n.Server.MustRun("nft", "list", "counters", "table", "inet", "counted"), -1) {
		values[m[1]], _ = strconv.Atoi(m[2])
	}
	return values
}

// flood is a client that sends datagrams to the server, one by one, over IPv4 and
// IPv6: a segment of many would be one packet to the firewall.
type flood struct {
	sent int
	stop atomic.Bool
	done chan struct{}
}

// startFlood starts a flood of so many packets a second, or as many as it can.
func startFlood(t *testing.T, h *lab.Host, port uint16, rate int) *flood {
	t.Helper()
	f := &flood{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		if err := h.Do(func() error { return f.run(port, rate) }); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(f.end)
	return f
}

func (f *flood) end() {
	f.stop.Store(true)
	<-f.done
}

func (f *flood) run(port uint16, rate int) error {
	const pause = 500 * time.Microsecond
	var fds []int
	for _, to := range []netip.Addr{lab.ServerIP, lab.ServerIP6} {
		family := unix.AF_INET
		if to.Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(to, port)); err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	message := make([]byte, 40)
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for begin := time.Now(); !f.stop.Load(); {
		due := int(time.Since(begin).Seconds()*float64(rate)) - f.sent
		for range min(due, rate/500) { // after a stall not all of it is made up for
			if _, err := unix.Write(fds[f.sent%2], message); err == nil {
				f.sent++
			}
		}
		ts := unix.NsecToTimespec(int64(pause))
		unix.Nanosleep(&ts, nil)
	}
	return nil
}

// TestReloadUnderLoad changes the policy again and again while an allowed client
// sends what it can, and a stranger too: not one packet of the client is dropped
// by the firewall, and none of the stranger passes. RPCWARD_GUARD_RELOADS says
// how often, RPCWARD_GUARD_RATE how many packets a second,
// RPCWARD_GUARD_BACKEND with which backend.
func TestReloadUnderLoad(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "nft")
	backend := os.Getenv("RPCWARD_GUARD_BACKEND")
	if backend == "" {
		backend = firewall.BackendNFT
	}
	all := policies()
	n, guard := guarded(t, backend, all[0])
	s := bind(t, n.Server, program, 0)
	defer s.close()
	s.mute = true // it has enough to do
	s.answer()
	s.register()
	counters(n, s.udpPort())
	p := probed(t, n, s)
	other := startProbe(t, n.Inside, 300*time.Microsecond)
	other.to.Store(&aim{s.udpPort(), s.tcpPort()})

	reloads := number(t, "RPCWARD_GUARD_RELOADS", 40)
	begin := time.Now()
	f := startFlood(t, n.Inside, s.udpPort(), number(t, "RPCWARD_GUARD_RATE", 100_000))
	applied := fmt.Sprintf("firewall: guard udp %d by", s.udpPort())
	for i := range reloads {
		before := strings.Count(guard.Log(), applied)
		n.Server.Allow(all[(i+1)%len(all)])
		guard.Signal(syscall.SIGHUP)
		lab.Eventually(t, "a new policy in the firewall", func() error {
			if strings.Count(guard.Log(), applied) == before {
				return errNotYet
			}
			return nil
		})
	}
	f.end()
	took := time.Since(begin)
	other.end()
	p.end()
	time.Sleep(50 * time.Millisecond) // what is under way arrives
	c := count(n)
	if c["inside_before"] < 1000 || c["stranger_before"] < 100 {
		t.Errorf("too few packets: %v", c)
	}
	if lost := c["inside_before"] - c["inside_after"]; lost != 0 {
		t.Errorf("%d of the client's %d packets were dropped", lost, c["inside_before"])
	}
	if c["stranger_after"] != 0 || s.strangers.Load()+s.connections.Load() != 0 {
		t.Errorf("of the stranger's %d packets %d passed; the service got %d and %d connections", c["stranger_before"], c["stranger_after"], s.strangers.Load(), s.connections.Load())
	}
	if s.insiders.Load() == 0 {
		t.Error("the service got nothing")
	}
	t.Logf("%d reloads in %v: %d packets of the client (%.0f a second), %d read by the service; %d of the stranger",
		reloads, took.Round(time.Millisecond), c["inside_before"], float64(f.sent)/took.Seconds(), s.insiders.Load(), c["stranger_before"])
}
