package peers

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/test/lab"
)

// NFSv3 as a site runs it: one line in hosts.allow, no hosts.deny.
func TestNFS(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "showmount", "rpc.statd", "nfs-ls", "nfs-cat")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		n.Server.Start("rpc.statd", "--no-notify", "-F")
		lab.WaitRegistered(t, n.Server, "100024", "1", lab.AllIP)
		ganesha, dir := lab.StartGanesha(t, n.Server)
		for _, program := range []struct{ number, versions, netids string }{
			{"100003", "3,4", lab.AllIP},
			{"100005", "1,3", lab.AllIP},
			{"100021", "4", lab.AllIP},
			{"100011", "1,2", lab.AllIP},
		} {
			lab.WaitRegistered(t, n.Server, program.number, program.versions, program.netids)
		}
		checkMountable(t, n, dir)
		checkRefused(t, pm, n.Stranger, lab.ServerWAN, lab.ServerIP, lab.ServerWAN6, lab.ServerIP6)

		if err := ganesha.Stop(syscall.SIGTERM); err != nil {
			t.Errorf("ganesha: %v", err)
		}
		for _, line := range lab.Registrations(t, n.Server) {
			if strings.HasPrefix(line, "100003") || strings.HasPrefix(line, "100005") {
				t.Errorf("left behind: %s", line)
			}
		}
	})
}

// checkMountable asks for the exports and reads a file from the inside client,
// and sees that the stranger gets no list.
func checkMountable(t *testing.T, n *lab.Net, dir string) {
	t.Helper()
	for _, server := range []string{lab.ServerIP.String(), lab.ServerIP6.String()} {
		if out := n.Inside.MustRun("showmount", "-e", server); !strings.Contains(out, dir) {
			t.Errorf("showmount -e %s:\n%s", server, out)
		}
	}
	for _, server := range []string{lab.ServerIP.String(), lab.ServerIP6.String()} {
		url := "nfs://" + server + dir
		if out := n.Inside.MustRun("nfs-ls", url); !strings.Contains(out, "hello") {
			t.Errorf("nfs-ls %s:\n%s", url, out)
		}
		if out := n.Inside.MustRun("nfs-cat", url+"/hello"); out != lab.ExportedText {
			t.Errorf("nfs-cat: %q", out)
		}
	}
	// After the refusal over TCP showmount waits a minute for an answer over UDP.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, server := range []string{lab.ServerWAN.String(), lab.ServerWAN6.String()} {
		if out, err := n.Stranger.Run(ctx, "showmount", "-e", server); err == nil {
			t.Errorf("the stranger has the list of exports:\n%s", out)
		}
	}
}

// The kernel server's mountd, and statd on the privileged port to which sites
// pin it: it registers after it has become an ordinary user.
func TestKernelNFSDaemons(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "rpc.statd", "rpc.mountd")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		n.Server.Start("rpc.statd", "--no-notify", "-F", "-p", "662")
		n.Server.Start("rpc.mountd", "-F")
		lab.WaitRegistered(t, n.Server, "100024", "1", lab.AllIP)
		lab.WaitRegistered(t, n.Server, "100005", "1,2,3", lab.AllIP)
		out := n.Inside.MustRun("rpcinfo", "-p", lab.ServerIP.String())
		if want := "100024    1   udp    662  status"; !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
		n.Inside.MustRun("rpcinfo", "-u", lab.ServerIP.String(), "100024")
		n.Inside.MustRun("rpcinfo", "-T", "tcp6", lab.ServerIP6.String(), "100005", "3")
	})
}
