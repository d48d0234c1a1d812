package peers

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/test/lab"
)

// compile builds testdata/NAME.c against a library that pkg-config knows, and
// returns the path of the program, which every user may run.
func compile(t *testing.T, name, library string) string {
	t.Helper()
	lab.NeedCommand(t, "gcc", "pkg-config")
	lab.NeedFeature(t, "headers of "+library, exec.Command("pkg-config", "--exists", library).Run)
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", library).Output()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(lab.PublicDir(t), name)
	args := append([]string{"-Wall", "-o", program, "testdata/" + name + ".c"}, strings.Fields(string(flags))...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

// ordinary is the uid of an ordinary user.
const ordinary = 1000

// step is a run of a program and what it has to print.
type step struct {
	uid  uint32
	args string
	want string // whole output, without the last line's end
}

// play runs steps of a program on h, one after the other.
func play(t *testing.T, h *lab.Host, program string, steps []step) {
	t.Helper()
	for _, s := range steps {
		cmd := h.Command(t.Context(), program, strings.Fields(s.args)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
		out, err := h.RunCommand(cmd)
		if err != nil {
			t.Errorf("uid %d: %v", s.uid, err)
		} else if got := strings.TrimSuffix(out, "\n"); got != s.want {
			t.Errorf("uid %d: %s %s: %q, want %q", s.uid, filepath.Base(program), s.args, got, s.want)
		}
	}
}

// libtirpc's calls of version 2, which register over the unix socket.
func TestLibtirpcPmap(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		program := compile(t, "pmap", "libtirpc")
		play(t, n.Server, program, []step{
			{0, "unset 200100 1", "1"},
			{0, "set 200100 1 6 7001", "1"},
			{0, "set 200100 1 17 7002", "1"},
			{0, "set 200100 1 6 7003", "0"}, // taken, by another address
			{0, "set 200100 1 6 7001", "1"}, // the same again
			{0, "getport 127.0.0.1 200100 1 6", "7001"},
			{0, "getport 127.0.0.1 200100 1 17", "7002"},
			{0, "getport 127.0.0.1 200100 9 17", "7002"}, // another version, so that its server can name the right ones
			{0, "getport 127.0.0.1 200199 1 17", "0"},
			{ordinary, "unset 200100 1", "0"}, // somebody else's
			{ordinary, "set 200101 1 6 7004", "1"},
			{ordinary, "getport 127.0.0.1 200101 1 6", "7004"},
			{0, "unset 200101 1", "1"}, // root may
			{0, "getport 127.0.0.1 200101 1 6", "0"},
			{ordinary, "set 200102 1 17 7005", "1"},
			{ordinary, "unset 200102 1", "1"},
			{0, "getmaps 127.0.0.1", "100000 4 6 111\n100000 3 6 111\n100000 2 6 111\n" +
				"100000 4 17 111\n100000 3 17 111\n100000 2 17 111\n200100 1 6 7001\n200100 1 17 7002"},
		})
		play(t, n.Inside, program, []step{
			{ordinary, "getport 10.99.0.1 200100 1 6", "7001"},
			{0, "rmtcall 10.99.0.1 200100 1 0", "RPC: Timed out"}, // forwards nothing without -r
		})
		play(t, n.Stranger, program, []step{{0, "getmaps 10.98.0.1", ""}})
	})
}

// pmap_rmtcall(3) is forwarded with -r, and says where the service is.
func TestLibtirpcRmtcall(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpc.rusersd")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm, "-r")
		program := compile(t, "pmap", "libtirpc")
		n.Server.Start("rpc.rusersd")
		lab.WaitRegistered(t, n.Server, "100002", "2", "udp")
		port := strings.TrimSpace(n.Inside.MustRun(program, "getport", "10.99.0.1", "100002", "2", "17"))
		play(t, n.Inside, program, []step{
			{0, "rmtcall 10.99.0.1 100002 2 0", "port " + port},
			{0, "rmtcall 10.99.0.1 200199 1 0", "RPC: Timed out"}, // no such service
		})
		checkRefused(t, pm, n.Stranger, lab.ServerWAN)
	})
}

// unboundAnswer is what an ordinary user gets who registers a privileged port
// that nothing is bound to: docs/differences.md, reserved-ports.
var unboundAnswer = map[string]string{"rpcbind": "1", "rpcward": "0"}

// libtirpc's calls of versions 3 and 4.
func TestLibtirpcRpcb(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		program := compile(t, "rpcb", "libtirpc")
		// As of a service that has bound a privileged port, then dropped its rights.
		l, err := n.Server.Listen("tcp4", "0.0.0.0:662")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		play(t, n.Server, program, []step{
			{0, "unset 200200 1", "1"},
			{0, "set 200200 1 udp 0.0.0.0.27.88", "1"},
			{0, "set 200200 1 tcp6 ::.27.89", "1"},
			{0, "set 200200 1 tcp6 ::.27.90", "0"},
			{ordinary, "set 200200 1 tcp 0.0.0.0.27.91", "1"},
			{ordinary, "set 200201 1 tcp 0.0.0.0.2.150", "1"}, // bound, see above
			{ordinary, "set 200202 1 tcp 0.0.0.0.2.151", unboundAnswer[pm.Name]},
			{ordinary, "unset 200200 1 udp", "0"},
			{ordinary, "unset 200200 1 tcp", "1"},
			{ordinary, "set 200200 1 tcp 0.0.0.0.27.91", "1"},
			{0, "getaddr 127.0.0.1 udp 200200 1", "127.0.0.1.27.88"},
			{0, "getaddr ::1 tcp6 200200 1", "::1.27.89"},
			{0, "getaddr ::1 udp6 200200 1", "RPC: Program not registered"},
		})
		play(t, n.Inside, program, []step{
			{ordinary, "getaddr 10.99.0.1 udp 200200 1", "10.99.0.1.27.88"},
			{ordinary, "getaddr 10.99.0.1 tcp 200200 1", "10.99.0.1.27.91"},
			{ordinary, "getaddr fd99::1 tcp6 200200 1", "fd99::1.27.89"},
		})
		checkMaps(t, n.Inside, program)
		checkTime(t, n.Inside, program)
		play(t, n.Stranger, program, []step{
			{0, "getmaps 10.98.0.1 tcp", ""},
			{0, "getaddr 10.98.0.1 tcp 200200 1", "RPC: Authentication error"},
		})
		play(t, n.Server, program, []step{
			{0, "unset 200200 1", "1"}, // all netids and owners
			{0, "getaddr 127.0.0.1 udp 200200 1", "RPC: Program not registered"},
			{0, "getaddr 127.0.0.1 tcp 200200 1", "RPC: Program not registered"},
		})
	})
}

func checkMaps(t *testing.T, h *lab.Host, program string) {
	t.Helper()
	for _, transport := range []string{"10.99.0.1 tcp", "10.99.0.1 udp", "fd99::1 tcp6", "fd99::1 udp6"} {
		maps := h.MustRun(program, append([]string{"getmaps"}, strings.Fields(transport)...)...)
		for _, want := range []string{
			"200200 1 udp 0.0.0.0.27.88 superuser\n",
			"200200 1 tcp6 ::.27.89 superuser\n",
			"200200 1 tcp 0.0.0.0.27.91 1000\n",
			"200201 1 tcp 0.0.0.0.2.150 1000\n",
		} {
			if !strings.Contains(maps, want) {
				t.Errorf("getmaps %s: no %q in\n%s", transport, want, maps)
			}
		}
	}
}

func checkTime(t *testing.T, h *lab.Host, program string) {
	t.Helper()
	out := h.MustRun(program, "gettime", "10.99.0.1")
	sec, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil || time.Since(time.Unix(sec, 0)).Abs() > time.Minute {
		t.Errorf("rpcb_gettime = %q, %v", out, err)
	}
}

// freePortAnswer is what a caller over loopback IP gets whose port anybody could
// have: docs/differences.md, privileged-port.
var freePortAnswer = map[string]string{"rpcbind": "1", "rpcward": "0"}

// Libraries that register over loopback IP: version 2 over UDP from a reserved
// port, versions 2 and 3 over TCP with AUTH_SYS. The port tells root.
func TestLoopbackRegistration(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		play(t, n.Server, compile(t, "gssrpc", "gssrpc"), []step{
			{0, "unset 200300 1", "1"},
			{0, "set 200300 1 17 7100", "1"},
			{0, "set 200301 1 6 7101", "1"},
			{0, "unset 200301 1", "1"},
			{0, "set 200302 1 6 7102", "1"},
			{ordinary, "set 200303 1 6 7103", freePortAnswer[pm.Name]},
		})
		play(t, n.Server, compile(t, "nfsset", "libnfs"), []step{
			{0, "2 200400 1 6 7200", "1"},
			{0, "3 200401 1 udp 0.0.0.0.28.33", "1"},
			{0, "3 200402 1 tcp6 ::.28.34", "1"},
		})
		list := lab.Registrations(t, n.Server)
		for _, want := range []string{
			"200300 1 udp - superuser",
			"200302 1 tcp - superuser",
			"200400 1 tcp - superuser",
			"200401 1 udp - superuser",
			"200402 1 tcp6 - superuser",
		} {
			if !strings.Contains(strings.Join(list, "\n")+"\n", want+"\n") {
				t.Errorf("no %q in\n%s", want, strings.Join(list, "\n"))
			}
		}
	})
}

// A container that shares the host's network but not its /run registers by
// libtirpc's last resort, over TCP to a loopback address.
func TestRegistrationWithoutSocket(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "unshare", "rpcinfo")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		program := compile(t, "rpcb", "libtirpc")
		for _, s := range []step{
			{0, "unset 200210 1", "1"},
			{0, "set 200210 1 udp 0.0.0.0.27.98", "1"},
			{0, "set 200210 1 tcp6 ::.27.99", "1"},
			{0, "unset 200210 1 udp", "1"},
		} {
			args := append([]string{"-m", "sh", "-c", `mount -t tmpfs tmpfs /run && exec "$0" "$@"`, program}, strings.Fields(s.args)...)
			if out := n.Server.MustRun("unshare", args...); out != s.want+"\n" {
				t.Errorf("rpcb %s: %q, want %q", s.args, out, s.want)
			}
		}
		list := strings.Join(lab.Registrations(t, n.Server), "\n")
		if want := "200210 1 tcp6 - superuser"; !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	})
}
