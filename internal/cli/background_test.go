package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"rpcward/internal/daemon"
	"rpcward/test/lab"
)

// inDaemonsPlace prepares a host where ./rpcbind, ./portmap and ./rpcward in
// /run/x are this tree's, and another rpcbind is in the PATH.
func inDaemonsPlace(t *testing.T) *lab.Host {
	t.Helper()
	lab.Stock(t) // the other one
	h := lab.NewHost(t, "server")
	h.MustRun("sh", "-c", fmt.Sprintf("mkdir /run/x; cp %s /run/x/rpcward; ln -s rpcward /run/x/rpcbind; ln -s rpcward /run/x/portmap", lab.Rpcward(t).Toolbox()))
	return h
}

// daemonPID returns the one process that is found under name, once it is ours.
func daemonPID(t *testing.T, h *lab.Host, name string) string {
	t.Helper()
	pid := strings.TrimSpace(h.MustRun("pidof", name))
	if exe := strings.TrimSpace(h.MustRun("sh", "-c", "readlink /proc/"+strings.ReplaceAll(pid, " ", " /proc/")+"/exe")); exe != "/run/x/rpcward" {
		t.Fatalf("pidof %s: %q, which is %q, want one process of /run/x/rpcward", name, pid, exe)
	}
	return pid
}

// However it is called, the program that goes to the background is the one that
// was called, and it is found under the name that it was called by.
func TestBackgroundIsSelf(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "bash", "pidof")
	for _, tt := range []struct{ name, command, process string }{
		{"absolute path", "exec /run/x/rpcbind", "rpcbind"},
		{"relative path", "cd /run/x; exec ./rpcbind", "rpcbind"},
		{"path with dots", "cd /run/x; exec ../x/rpcbind", "rpcbind"},
		{"found in the PATH", "PATH=/run/x:$PATH; exec rpcbind", "rpcbind"},
		{"name of another program", "exec -a rpcbind /run/x/rpcward", "rpcbind"},
		{"path of another program", "exec -a /sbin/rpcbind /run/x/rpcward", "rpcbind"},
		{"name of no program", "exec -a portmap /run/x/rpcward", "portmap"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := inDaemonsPlace(t)
			h.MustRun("bash", "-c", tt.command)
			pid := daemonPID(t, h, tt.process)
			if names := strings.Fields(h.MustRun("sh", "-c", "sort -u /proc/"+pid+"/task/*/comm")); len(names) != 1 || names[0] != tt.process {
				t.Errorf("threads are called %q, want %q", names, tt.process)
			}
			if dir := strings.TrimSpace(h.MustRun("readlink", "/proc/"+pid+"/cwd")); dir != "/" {
				t.Errorf("works in %s", dir)
			}
			if out := h.MustRun("rpcinfo", "-p", "127.0.0.1"); !strings.Contains(out, "portmapper") {
				t.Errorf("rpcinfo -p:\n%s", out)
			}
		})
	}
}

// A mapping file is named from where portmap is called.
func TestBackgroundMapFile(t *testing.T) {
	t.Parallel()
	h := inDaemonsPlace(t)
	h.WriteFile("/run/x/mappings", "100003 3 6 2049 1\n")
	h.MustRun("sh", "-c", "cd /run/x && ./portmap -m mappings")
	if out := h.MustRun("rpcinfo", "-p", "127.0.0.1"); !strings.Contains(out, "100003") {
		t.Errorf("the mapping is not there:\n%s", out)
	}
}

// Sockets that a service manager passes are used without -f too, and no others
// but the control socket, where that may be made:
// units of Type=forking do so. Whoever runs it needs no right to bind then.
func TestBackgroundPassedSockets(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "systemd-socket-activate", "setpriv", "ss")
	for _, tt := range []struct {
		name    string
		command []string
		want    []string
	}{
		{"root", nil, []string{lab.Sock, daemon.ControlPath, "127.0.0.1:111"}},
		{"ordinary user", []string{"setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"}, []string{lab.Sock, "127.0.0.1:111"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := inDaemonsPlace(t)
			args := append([]string{"-l", lab.Sock, "-l", "127.0.0.1:111"}, tt.command...)
			p := h.Start("systemd-socket-activate", append(args, "/run/x/rpcbind")...)
			h.WaitPort("unix", lab.Sock) // which makes it start
			<-p.Done()
			if err := p.Stop(syscall.SIGTERM); err != nil {
				t.Errorf("the command that was called: %v\n%s", err, p.Log())
			}
			daemonPID(t, h, "rpcbind")
			h.MustRun("rpcinfo", "-T", "tcp", "127.0.0.1", "100000")
			if got := listening(t, h); strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("listens on %q, want %q", got, tt.want)
			}
		})
	}
}

// listening returns the addresses of all sockets on h that wait for others.
func listening(t *testing.T, h *lab.Host) (list []string) {
	t.Helper()
	for line := range strings.Lines(h.MustRun("ss", "-H", "-l", "-n", "-t", "-u", "-x")) {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, f[4])
		}
	}
	return list
}

// Sockets passed to another process, which gave us its environment, are not ours.
func TestBackgroundSocketsOfOthers(t *testing.T) {
	t.Parallel()
	h := inDaemonsPlace(t)
	cmd := h.Command(context.Background(), "/run/x/rpcbind")
	cmd.Env = append(os.Environ(), "LISTEN_PID=1", "LISTEN_FDS=2")
	if _, err := h.RunCommand(cmd); err != nil {
		t.Fatal(err)
	}
	h.MustRun("rpcinfo", "-T", "udp", "127.0.0.1", "100000")
}

// A start that fails is told by the command that was called: the reason once,
// on standard error, and exit status 1.
func TestBackgroundFailure(t *testing.T) {
	t.Parallel()
	h := inDaemonsPlace(t)
	out := h.MustRun("sh", "-c", "cd /run/x; ./rpcbind -h 192.0.2.1 2>&1; echo exit $?")
	want := "rpcbind: binding udp port 111 on 192.0.2.1: cannot assign requested address\nexit 1\n"
	if out != want {
		t.Errorf("wrote %q, want %q", out, want)
	}
}
