package guard

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"rpcward/internal/firewall"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// Programs of NFS version 3.
const (
	nfs    = 100003
	mountd = 100005
	nlm    = 100021
	rquota = 100011
	statd  = 100024
)

var nfsPrograms = []uint32{nfs, mountd, nlm, rquota, statd}

// anotherInside is a second address of the inside host, which may not mount.
var anotherInside = netip.MustParseAddr("10.99.0.3")

// NFS as a site runs it, on ports of the kernel's choice. The same packets get
// an answer without the guard and none with it.
func TestNFS(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "rpc.statd", "nfs-ls", "nfs-cat")
	onEach(t, func(t *testing.T, backend string) { testNFS(t, lab.Rpcward(t), backend) })
	t.Run("rpcbind", func(t *testing.T) {
		t.Parallel()
		testNFS(t, lab.Stock(t), firewall.BackendNFT)
	})
}

func testNFS(t *testing.T, pm lab.PortMapper, backend string) {
	n := lab.NewNet(t)
	n.Inside.AddAddr("eth0", netip.PrefixFrom(anotherInside, 24))
	rpcbindRules := "rpcbind: 127.0.0.1 [::1] 10.99.0.0/24 [fd99::]/64"
	n.Server.Allow(lan, rpcbindRules, "mountd: 10.99.0.2")
	n.Server.Deny("rpcbind: ALL")
	lab.StartPortMapper(t, n.Server, pm)
	n.Server.Start("rpc.statd", "--no-notify", "-F")
	lab.WaitRegistered(t, n.Server, "100024", "1", lab.AllIP)
	ganesha, dir := lab.StartGanesha(t, n.Server)
	waitNFS(t, n.Server)
	list := lab.Dump(t, n.Server)
	for _, to := range []netip.Addr{lab.ServerWAN, lab.ServerWAN6} {
		open := ports(list, to, nfsPrograms...)
		if len(open) < 2*len(nfsPrograms) {
			t.Fatalf("ports: %v", open)
		}
		check(t, n.Stranger, netip.Addr{}, true, open...)
		check(t, n.Stranger, netip.Addr{}, true, own(to, "tcp"))
		if pm.Name == "rpcbind" { // rpcward does not answer a stranger's datagram
			check(t, n.Stranger, netip.Addr{}, true, own(to, "udp"))
		}
	}

	guard := startGuard(t, n.Server, backend)
	checkGuarded(t, n)
	checkMounts(t, n, lab.ServerIP, dir)
	n.Server.Allow(lan, rpcbindRules, "mountd: [fd99::2]")
	lab.Eventually(t, "mountd open to fd99::2", func() error {
		return ports(list, lab.ServerIP6, mountd)[0].try(n.Inside, netip.Addr{}, silence)
	})
	checkMounts(t, n, lab.ServerIP6, dir)
	check(t, n.Inside, lab.InsideIP, false, ports(list, lab.ServerIP, mountd)...)
	n.Server.Allow(lan, rpcbindRules, "mountd: 10.99.0.2")

	// The server starts again, on other ports.
	if err := ganesha.Stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_, dir = lab.StartGanesha(t, n.Server)
	waitNFS(t, n.Server)
	if pm.Name == "rpcbind" {
		waitGuarded(t, guard, lab.Dump(t, n.Server))
	}
	checkGuarded(t, n)
	checkMounts(t, n, lab.ServerIP, dir)
}

// ports returns the targets of several programs.
func ports(list []rpcbind.RPCB[string], to netip.Addr, programs ...uint32) (all []target) {
	for _, p := range programs {
		all = append(all, at(list, to, p)...)
	}
	return all
}

// own is the port mapper's port.
func own(to netip.Addr, network string) target {
	return target{network, netip.AddrPortFrom(to, rpcbind.Port), rpcbind.Program, 2}
}

func waitNFS(t *testing.T, h *lab.Host) {
	t.Helper()
	for program, versions := range map[string]string{"100003": "3,4", "100005": "1,3", "100021": "4", "100011": "1,2"} {
		lab.WaitRegistered(t, h, program, versions, lab.AllIP)
	}
}

// waitGuarded waits until a guard that asks for the registrations has seen a list.
func waitGuarded(t *testing.T, guard *lab.Process, list []rpcbind.RPCB[string]) {
	t.Helper()
	lab.Eventually(t, "all ports guarded", func() error {
		log := guard.Log()
		for _, a := range ports(list, lab.ServerIP, nfsPrograms...) {
			if want := fmt.Sprintf("guard %s %d by", a.network, a.addr.Port()); !strings.Contains(log, want) {
				return fmt.Errorf("no %q", want)
			}
		}
		return nil
	})
}

// checkGuarded wants everything closed to the stranger, at each of the server's
// addresses, and open to the inside, save for mountd: that is for 10.99.0.2 alone.
func checkGuarded(t *testing.T, n *lab.Net) {
	t.Helper()
	list := lab.Dump(t, n.Server)
	var shut []target
	for _, to := range []netip.Addr{lab.ServerWAN, lab.ServerWAN6, lab.ServerIP, lab.ServerIP6} {
		shut = append(shut, ports(list, to, nfsPrograms...)...)
		shut = append(shut, own(to, "udp"), own(to, "tcp"))
	}
	check(t, n.Stranger, netip.Addr{}, false, shut...)
	for _, to := range []netip.Addr{lab.ServerIP, lab.ServerIP6} {
		check(t, n.Inside, netip.Addr{}, true, ports(list, to, nfs, nlm, rquota, statd)...)
		check(t, n.Inside, netip.Addr{}, true, own(to, "udp"), own(to, "tcp"))
	}
	check(t, n.Inside, anotherInside, true, ports(list, lab.ServerIP, nfs, nlm, rquota, statd)...)
	check(t, n.Inside, lab.InsideIP, true, ports(list, lab.ServerIP, mountd)...)
	check(t, n.Inside, anotherInside, false, ports(list, lab.ServerIP, mountd)...)
	check(t, n.Inside, netip.Addr{}, false, ports(list, lab.ServerIP6, mountd)...)
	check(t, n.Server, netip.Addr{}, true, ports(list, lab.ServerWAN, nfsPrograms...)...)
}

// checkMounts reads a file from the inside client.
func checkMounts(t *testing.T, n *lab.Net, server netip.Addr, dir string) {
	t.Helper()
	url := "nfs://" + server.String() + dir
	if out := n.Inside.MustRun("nfs-ls", url); !strings.Contains(out, "hello") {
		t.Errorf("nfs-ls %s:\n%s", url, out)
	}
	if out := n.Inside.MustRun("nfs-cat", url+"/hello"); out != lab.ExportedText {
		t.Errorf("nfs-cat: %q", out)
	}
}
