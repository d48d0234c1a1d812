package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/test/lab"
)

// allIP is every netid over IP.
const allIP = "udp,tcp,udp6,tcp6"

// exportedText is in the file that the NFS server exports.
const exportedText = "read through a port mapper\n"

// startGanesha starts NFS-Ganesha on h with an export, on ports of the
// kernel's choice save 2049, and returns the exported folder. It has one file,
// named hello.
func startGanesha(t *testing.T, h *lab.Host) (*lab.Process, string) {
	t.Helper()
	lab.NeedCommand(t, "ganesha.nfsd")
	dir := publicDir(t) // on the disk: the VFS back end wants file handles
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte(exportedText), 0o644); err != nil {
		t.Fatal(err)
	}
	h.WriteFile("/etc/ganesha/ganesha.conf", fmt.Sprintf(`
NFS_CORE_PARAM { Protocols = 3,4; Enable_NLM = true; Enable_RQUOTA = true; mount_path_pseudo = false; }
NFSV4 { Graceless = true; }
EXPORT {
	Export_Id = 1; Path = %s; Pseudo = /export; Protocols = 3,4; Transports = UDP,TCP;
	Access_Type = RW; Squash = No_Root_Squash; SecType = sys,none; FSAL { Name = VFS; }
}
`, dir))
	p := h.Start("ganesha.nfsd", "-F", "-L", "STDERR", "-f", "/etc/ganesha/ganesha.conf", "-p", "/run/ganesha.pid", "-N", "NIV_EVENT")
	p.WaitLog("NFS SERVER INITIALIZED")
	return p, dir
}

// NFSv3 as a site runs it: one line in hosts.allow, no hosts.deny.
func TestNFS(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "showmount", "rpc.statd", "nfs-ls", "nfs-cat")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		n.Server.Start("rpc.statd", "--no-notify", "-F")
		waitRegistered(t, n.Server, "100024", "1", allIP)
		ganesha, dir := startGanesha(t, n.Server)
		for _, program := range []struct{ number, versions, netids string }{
			{"100003", "3,4", allIP},
			{"100005", "1,3", allIP},
			{"100021", "4", allIP},
			{"100011", "1,2", allIP},
		} {
			waitRegistered(t, n.Server, program.number, program.versions, program.netids)
		}
		checkMountable(t, n, dir)
		checkRefused(t, pm, n.Stranger, lab.ServerWAN, lab.ServerIP, lab.ServerWAN6, lab.ServerIP6)

		if err := ganesha.Stop(syscall.SIGTERM); err != nil {
			t.Errorf("ganesha: %v", err)
		}
		for _, line := range registrations(t, n.Server) {
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
		if out := n.Inside.MustRun("nfs-cat", url+"/hello"); out != exportedText {
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
		waitRegistered(t, n.Server, "100024", "1", allIP)
		waitRegistered(t, n.Server, "100005", "1,2,3", allIP)
		out := n.Inside.MustRun("rpcinfo", "-p", lab.ServerIP.String())
		if want := "100024    1   udp    662  status"; !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
		n.Inside.MustRun("rpcinfo", "-u", lab.ServerIP.String(), "100024")
		n.Inside.MustRun("rpcinfo", "-T", "tcp6", lab.ServerIP6.String(), "100005", "3")
	})
}
