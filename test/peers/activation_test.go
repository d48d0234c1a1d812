package peers

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"rpcward/internal/daemon"
	"rpcward/test/lab"
)

// bound returns the local addresses of all sockets on h that wait for others.
func bound(t *testing.T, h *lab.Host) string {
	t.Helper()
	var list []string
	for line := range strings.Lines(h.MustRun("ss", "-H", "-l", "-n", "-t", "-u", "-x", "-w")) {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, f[0]+" "+f[4])
		}
	}
	return strings.Join(list, "\n")
}

// With two sockets from systemd, there are two sockets, and the control socket.
// rpcbind opens all
// others by itself, so it is no control: docs/differences.md,
// only-passed-sockets.
func TestOnlyPassedSockets(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "systemd-socket-activate", "ss", "rpcinfo")
	pm := lab.Rpcward(t)
	n := lab.NewNet(t)
	p := n.Server.Start("systemd-socket-activate", "-l", lab.Sock, "-l", "127.0.0.1:111", pm.Path, "-f")
	p.WaitServing()
	n.Server.MustRun("rpcinfo", "-T", "tcp", "127.0.0.1", "100000")
	n.Server.MustRun("rpcinfo", "-p")
	if got, want := bound(t, n.Server), "u_str "+lab.Sock+"\nu_str "+daemon.ControlPath+"\ntcp 127.0.0.1:111"; got != want {
		t.Errorf("bound:\n%s\nwant\n%s", got, want)
	}
	if out, err := n.Server.Run(t.Context(), "rpcinfo", "-T", "tcp6", "::1", "100000"); err == nil {
		t.Errorf("reached over a transport that was not passed: %q", out)
	}
}

// The five sockets of Debian's rpcbind.socket, passed as systemd does.
func TestDebianSocketUnit(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "ss", "rpcinfo")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n := lab.NewNet(t)
		pm.OpenTo(n.Server, lan...)
		ready := listenNotify(t, n.Server)
		// The shell becomes the port mapper, whose process id LISTEN_PID must be.
		cmd := n.Server.Command(context.Background(), "sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, pm.Path, "-f")
		cmd.Env = append(os.Environ(), "LISTEN_FDS=5", "NOTIFY_SOCKET="+notifyPath)
		cmd.ExtraFiles = unitSockets(t, n.Server)
		p := n.Server.StartCommand(cmd)
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}

		select {
		case text := <-ready:
			if !strings.Contains(text, "READY=1") {
				t.Errorf("notification %q, want READY=1", text)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no READY=1\n%s", p.Log())
		}
		for _, netid := range []string{"udp", "tcp"} {
			n.Inside.MustRun("rpcinfo", "-T", netid, lab.ServerIP.String(), "100000")
			n.Inside.MustRun("rpcinfo", "-T", netid+"6", lab.ServerIP6.String(), "100000")
		}
		n.Server.MustRun("rpcinfo")
		for _, line := range strings.Split(bound(t, n.Server), "\n") {
			if !strings.HasSuffix(line, ":111") && !strings.HasSuffix(line, lab.Sock) && !strings.HasSuffix(line, daemon.ControlPath) && !strings.HasSuffix(line, notifyPath) {
				t.Errorf("bound besides: %s", line)
			}
		}
	})
}

// unitSockets makes what systemd makes of rpcbind.socket, in its order.
func unitSockets(t *testing.T, h *lab.Host) []*os.File {
	t.Helper()
	type filer interface{ File() (*os.File, error) }
	var files []*os.File
	keep := func(socket any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f, err := socket.(filer).File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	unix, err := h.Listen("unix", lab.Sock)
	keep(unix, err)
	unix.(*net.UnixListener).SetUnlinkOnClose(false)
	sockets := []interface{ Close() error }{unix}
	for _, family := range []struct{ tcp, udp, addr string }{
		{"tcp4", "udp4", "0.0.0.0:111"},
		{"tcp6", "udp6", "[::]:111"}, // IPv6 only, as BindIPv6Only= says
	} {
		l, err := h.Listen(family.tcp, family.addr)
		keep(l, err)
		c, err := h.ListenPacket(family.udp, family.addr)
		keep(c, err)
		sockets = append(sockets, l, c)
	}
	for _, s := range sockets {
		s.Close() // the files remain
	}
	err = h.Do(func() error { return os.Chmod(lab.Sock, 0o666) })
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// notifyPath is where a service tells systemd that it is ready, sd_notify(3).
const notifyPath = "/run/notify.sock"

// listenNotify opens the notification socket on h, for every user to write to
// as systemd's is, and returns the first message.
func listenNotify(t *testing.T, h *lab.Host) <-chan string {
	t.Helper()
	c, err := h.ListenPacket("unixgram", notifyPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := h.Do(func() error { return os.Chmod(notifyPath, 0o777) }); err != nil {
		t.Fatal(err)
	}
	message := make(chan string, 1)
	go func() {
		b := make([]byte, 4096)
		n, _, _ := c.ReadFrom(b)
		message <- string(b[:n])
	}()
	return message
}
