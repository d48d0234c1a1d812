package peers

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"rpcward/test/lab"
)

// NFS behind one command: the inside mounts, and the stranger reaches neither
// the port mapper nor a service whose port he knows.
func TestProtectNFS(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "showmount", "nfs-ls", "nfs-cat", "nft")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n := lab.NewNet(t)
		n.Server.Allow("# nobody yet")
		if pm.Name == "rpcbind" { // which knows one name of its own, and asks the files about this host too
			n.Server.Allow("rpcbind: 127.0.0.1 [::1] 10.99.0.0/24 [fd99::]/64")
		}
		mapper := lab.StartPortMapper(t, n.Server, pm)
		_, dir := lab.StartGanesha(t, n.Server)
		lab.WaitRegistered(t, n.Server, "100005", "1,3", lab.AllIP)
		lab.WaitRegistered(t, n.Server, "100003", "3,4", lab.AllIP)
		mounted, err := n.Stranger.Dial("tcp", netip.AddrPortFrom(lab.ServerWAN, 2049).String())
		if err != nil {
			t.Fatal(err)
		}
		defer mounted.Close()

		tool := lab.Rpcward(t).Toolbox()
		said := n.Server.MustRun(tool, "protect", "--allow", "10.99.0.0/24", "fd99::/64", "--confirm", "10m")
		ports := regexp.MustCompile(`(?m)^mountd \(tcp (\d+), udp \d+\)`).FindStringSubmatch(said)
		if ports == nil || !strings.Contains(said, "10.98.0.2 at nfs (tcp 2049), last heard") {
			t.Fatalf("protect says\n%s", said)
		}
		if pm.Name == "rpcward" { // a call that comes before the file is read again is refused
			mapper.WaitLog("this host and 10.99.0.0/24, [fd99::]/64")
		}
		checkMountable(t, n, dir)
		for _, port := range []string{"111", "2049", ports[1]} {
			for _, server := range []netip.Addr{lab.ServerWAN, lab.ServerWAN6} {
				if c, err := dialSoon(n.Stranger, net.JoinHostPort(server.String(), port)); err == nil {
					c.Close()
					t.Errorf("the stranger is connected to %v port %s", server, port)
				}
			}
		}
		n.Server.MustRun(tool, "firewall", "rollback")
		c, err := dialSoon(n.Stranger, net.JoinHostPort(lab.ServerWAN.String(), ports[1]))
		if err != nil {
			t.Fatalf("after the rollback: %v", err)
		}
		c.Close()
	})
}

// dialSoon connects over TCP without patience.
func dialSoon(h *lab.Host, address string) (c net.Conn, err error) {
	err = h.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		c, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}
