package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// A host's files, processes and names are its own.
func TestHostIsPrivate(t *testing.T) {
	t.Parallel()
	h := NewHost(t, "private")
	marker := "marker of " + t.TempDir()
	h.WriteFile("/etc/hosts.allow", marker)
	h.WriteFile("/var/lib/marker", marker)
	h.WriteFile("/run/marker", marker)

	for _, path := range []string{"/etc/hosts.allow", "/var/lib/marker", "/run/marker"} {
		if got, err := h.ReadFile(path); err != nil || got != marker {
			t.Errorf("inside, %s = %q, %v", path, got, err)
		}
		if got, _ := os.ReadFile(path); strings.Contains(string(got), marker) {
			t.Errorf("%s spread to the outside", path)
		}
	}
	if got := h.MustRun("hostname"); got != "private\n" {
		t.Errorf("hostname = %q", got)
	}
	if outer, _ := os.Hostname(); outer == "private" {
		t.Error("the outer host name changed")
	}
	if got := h.MustRun("sh", "-c", "ls -d /proc/[0-9]* | wc -l"); strings.TrimSpace(got) > "5" {
		t.Errorf("%s processes are visible inside", got)
	}
	if got := h.MustRun("ip", "-o", "link"); strings.Count(got, "\n") != 1 {
		t.Errorf("links inside:\n%s", got)
	}
}

// Who reaches whom in a Net, over both families.
func TestNetReach(t *testing.T) {
	t.Parallel()
	n := NewNet(t)
	for _, to := range []struct {
		host *Host
		addr netip.Addr
	}{
		{n.Server, ServerIP}, {n.Server, ServerIP6}, {n.Server, ServerWAN}, {n.Server, ServerWAN6},
		{n.Inside, InsideIP}, {n.Inside, InsideIP6},
	} {
		l, err := to.host.Listen("tcp", netip.AddrPortFrom(to.addr, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	for _, tt := range []struct {
		name  string
		from  *Host
		to    netip.Addr
		reach bool
	}{
		{"inside to server", n.Inside, ServerIP, true},
		{"inside to server, IPv6", n.Inside, ServerIP6, true},
		{"inside to server's other address", n.Inside, ServerWAN, true},
		{"server to inside", n.Server, InsideIP, true},
		{"stranger to server", n.Stranger, ServerWAN, true},
		{"stranger to server, IPv6", n.Stranger, ServerWAN6, true},
		{"stranger to server's inner address", n.Stranger, ServerIP, true},
		{"stranger to server's inner address, IPv6", n.Stranger, ServerIP6, true},
		{"stranger to inside", n.Stranger, InsideIP, false},
		{"stranger to inside, IPv6", n.Stranger, InsideIP6, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := tt.from.Dial("tcp", netip.AddrPortFrom(tt.to, 7).String())
			if (err == nil) != tt.reach {
				t.Errorf("reached: %v (%v), want %v", err == nil, err, tt.reach)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}

func TestDialFromReservedPort(t *testing.T) {
	t.Parallel()
	n := NewNet(t)
	c, err := n.Server.ListenPacket("udp", "10.99.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := n.Inside.DialFrom("udp", netip.MustParseAddrPort("10.99.0.2:700"), "10.99.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	_, from, err := c.ReadFrom(make([]byte, 1))
	if err != nil || from.String() != "10.99.0.2:700" {
		t.Errorf("received from %v, %v", from, err)
	}
}

// A failing command tells what it was, how it ended and what it wrote.
func TestRunError(t *testing.T) {
	t.Parallel()
	h := NewHost(t, "run")
	out, err := h.Run(t.Context(), "sh", "-c", "echo result; echo reason >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("error = %v", err)
	}
	if out != "result\n" || !strings.Contains(err.Error(), "reason") || !strings.Contains(err.Error(), "exit 3") {
		t.Errorf("output %q, error %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, "sleep", "60"); err == nil {
		t.Error("a command outlived its context")
	}
}

// Daemons that a command left behind end with the host.
func TestHostEndsDaemons(t *testing.T) {
	var ns string
	var keep *os.File // so that no other host gets the name of the namespace
	var err error
	t.Run("host", func(t *testing.T) {
		h := NewHost(t, "daemons")
		h.MustRun("sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
		ns = pidNamespace(h.pid())
		if keep, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", h.pid())); err != nil {
			t.Fatal(err)
		}
		if n := processesIn(ns); n != 2 {
			t.Errorf("%d processes in the host, want the first one and the daemon", n)
		}
	})
	defer keep.Close()
	if n := processesIn(ns); n != 0 {
		t.Errorf("%d processes outlived their host", n)
	}
}

// pidNamespace returns the name of a process's pid namespace, "" if it has
// ended. The name may be given to a new namespace once nobody has the old one.
func pidNamespace(pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return ns
}

// processesIn counts the processes of a pid namespace, without those that only
// wait for their parent to ask how they ended: they have no program any more.
func processesIn(ns string) (n int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if _, err := os.Readlink(dir + "/exe"); err == nil && pidNamespace(pid) == ns {
			n++
		}
	}
	return n
}

// dieEnv makes the test program a helper that waits to be killed.
const dieEnv = "RPCWARD_LAB_DIE"

// A host ends also when the test process is killed.
func TestHostEndsWithTestProcess(t *testing.T) {
	NeedRoot(t)
	if os.Getenv(dieEnv) != "" {
		h := NewHost(t, "doomed")
		h.Start("sleep", "600")
		fmt.Printf("started in %s\n", pidNamespace(h.pid()))
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), dieEnv+"=1", "TMPDIR="+t.TempDir()) // it will not clean up
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var ns string
	for in := bufio.NewScanner(stdout); ns == "" && in.Scan(); {
		fmt.Sscanf(in.Text(), "started in %s", &ns)
	}
	if n := processesIn(ns); n != 2 {
		t.Fatalf("%d processes in the helper's host %q, want the first one and a sleep", n, ns)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "end of all processes of the host", func() error {
		if n := processesIn(ns); n != 0 {
			return fmt.Errorf("%d are alive", n)
		}
		return nil
	})
}

// The port mapper answers whom OpenTo names; the same with both of them.
func TestOpenTo(t *testing.T) {
	for name, get := range map[string]func(testing.TB) PortMapper{"rpcbind": Stock, "rpcward": Rpcward} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pm := get(t)
			n := NewNet(t)
			pm.OpenTo(n.Server, "10.99.0.0/24", "[fd99::]/64")
			StartPortMapper(t, n.Server, pm)
			for _, tt := range []struct {
				name, addr string
				from       *Host
				want       uint32
			}{
				{"inside", "10.99.0.1", n.Inside, oncrpc.MsgAccepted},
				{"inside, IPv6", "fd99::1", n.Inside, oncrpc.MsgAccepted},
				{"loopback", "127.0.0.1", n.Server, oncrpc.MsgAccepted},
				{"loopback, IPv6", "::1", n.Server, oncrpc.MsgAccepted},
				{"stranger", "10.98.0.1", n.Stranger, oncrpc.MsgDenied},
				{"stranger, IPv6", "fd98::1", n.Stranger, oncrpc.MsgDenied},
			} {
				conn, err := tt.from.Dial("tcp", net.JoinHostPort(tt.addr, "111"))
				if err != nil {
					t.Errorf("%s: %v", tt.name, err)
					continue
				}
				defer conn.Close()
				reply, err := Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 4, Procedure: 4}, patience)
				if err != nil || reply.Stat != tt.want {
					t.Errorf("%s: reply %+v, %v; want state %d", tt.name, reply, err, tt.want)
				}
			}
		})
	}
}

// The built program is both: rpcbind by one name, the toolbox by the other.
func TestToolbox(t *testing.T) {
	t.Parallel()
	h := NewHost(t, "tools")
	if out := h.MustRun(Rpcward(t).Toolbox(), "--help"); !strings.Contains(out, "serve") {
		t.Errorf("rpcward --help:\n%s", out)
	}
}
