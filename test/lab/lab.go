// Package lab builds test hosts out of Linux namespaces, so that tests talk to
// the real programs and the real kernel instead of to a mock of them.
//
// A [Host] is a network, mount, pid, IPC and UTS namespace with a /run,
// /var/lib/nfs and /var/yp of its own and private, writable copies of /etc and
// /var: unix sockets ignore network namespaces, so a host that only had a
// network of its own would talk to its neighbour's port mapper. Nothing that a
// test does in a host changes the machine that the test runs on.
//
// A host ends with its test. It also ends when the test process dies, by
// whatever signal, because its first process reads from a pipe that only the
// test process holds; with that process the kernel ends all others of the pid
// namespace. Hosts have no names outside, so tests may run in parallel.
//
// Tests need root ([NeedRoot]). A package that runs rpcward also needs
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
package lab

import (
	"context"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"
)

// The addresses of a [Net].
var (
	ServerIP    = netip.MustParseAddr("10.99.0.1")
	ServerIP6   = netip.MustParseAddr("fd99::1")
	InsideIP    = netip.MustParseAddr("10.99.0.2")
	InsideIP6   = netip.MustParseAddr("fd99::2")
	ServerWAN   = netip.MustParseAddr("10.98.0.1")
	ServerWAN6  = netip.MustParseAddr("fd98::1")
	StrangerIP  = netip.MustParseAddr("10.98.0.2")
	StrangerIP6 = netip.MustParseAddr("fd98::2")
)

// Net is three hosts: a server with a link to an inside client (10.99.0.0/24,
// fd99::/64) and another link to a stranger (10.98.0.0/24, fd98::/64). Both
// use the server as their router, so that they can also send to its other
// address; it forwards nothing.
type Net struct {
	Server   *Host // 10.99.0.1, fd99::1 on "lan"; 10.98.0.1, fd98::1 on "wan"
	Inside   *Host // 10.99.0.2, fd99::2 on "eth0"
	Stranger *Host // 10.98.0.2, fd98::2 on "eth0"
}

// NewNet builds the three hosts. It skips the test if it may not.
func NewNet(t testing.TB) *Net {
	t.Helper()
	n := &Net{
		Server:   NewHost(t, "server"),
		Inside:   NewHost(t, "inside"),
		Stranger: NewHost(t, "stranger"),
	}
	Join(t, n.Server, "lan", n.Inside, "eth0")
	Join(t, n.Server, "wan", n.Stranger, "eth0")

	n.Server.AddAddr("lan", netip.PrefixFrom(ServerIP, 24), netip.PrefixFrom(ServerIP6, 64))
	n.Inside.AddAddr("eth0", netip.PrefixFrom(InsideIP, 24), netip.PrefixFrom(InsideIP6, 64))
	n.Server.AddAddr("wan", netip.PrefixFrom(ServerWAN, 24), netip.PrefixFrom(ServerWAN6, 64))
	n.Stranger.AddAddr("eth0", netip.PrefixFrom(StrangerIP, 24), netip.PrefixFrom(StrangerIP6, 64))

	n.Inside.route(ServerIP, ServerIP6)
	n.Stranger.route(ServerWAN, ServerWAN6)
	return n
}

// Join connects two hosts by a veth pair whose ends have the given names, and
// sets both ends up. The pair is born inside the hosts: it never shows outside.
func Join(t testing.TB, a *Host, aName string, b *Host, bName string) {
	t.Helper()
	out, err := exec.Command("ip", "link", "add", "name", aName, "netns", strconv.Itoa(a.pid()),
		"type", "veth", "peer", "name", bName, "netns", strconv.Itoa(b.pid())).CombinedOutput()
	if err != nil {
		t.Fatalf("joining %s and %s: %v\n%s", a.Name, b.Name, err, out)
	}
	a.MustRun("ip", "link", "set", aName, "up")
	b.MustRun("ip", "link", "set", bName, "up")
}

// AddAddr gives addresses to a link of h, with the usual broadcast address if
// IPv4. IPv6 addresses are usable at once, without duplicate address detection:
// switching that off for the link is not enough, the address is tentative
// until a worker of the kernel has seen so.
func (h *Host) AddAddr(link string, prefixes ...netip.Prefix) {
	h.t.Helper()
	for _, p := range prefixes {
		args := []string{"addr", "add", p.String(), "dev", link}
		if p.Addr().Is4() {
			args = append(args, "broadcast", "+")
		} else {
			args = append(args, "nodad")
		}
		h.MustRun("ip", args...)
	}
}

// route sends what has no better way through the two gateways.
func (h *Host) route(gw4, gw6 netip.Addr) {
	h.t.Helper()
	h.MustRun("ip", "-4", "route", "add", "default", "via", gw4.String())
	h.MustRun("ip", "-6", "route", "add", "default", "via", gw6.String())
}

// MustRun is [Host.Run] that ends the test when the command does not succeed.
func (h *Host) MustRun(name string, args ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	out, err := h.Run(ctx, name, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}
