package daemon_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// syslogd opens /dev/log on h, in a /dev of its own.
func syslogd(t *testing.T, h *lab.Host) net.PacketConn {
	t.Helper()
	h.MustRun("sh", "-c", `mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9`)
	conn, err := h.ListenPacket("unixgram", "/dev/log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.MustRun("chmod", "666", "/dev/log") // rpcbind opens it when it is _rpc
	return conn
}

// stamp is what syslog(3) puts before the text, behind the priority.
var stamp = regexp.MustCompile(`[A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} (rpcbind)\[[0-9]+\]: `)

// connectLines reads n lines about calls, without times and process numbers.
func connectLines(t *testing.T, conn net.PacketConn, n int) (lines []string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4<<10)
	for len(lines) < n {
		size, _, err := conn.ReadFrom(b)
		if err != nil {
			t.Errorf("line %d of %d: %v", len(lines)+1, n, err)
			break
		}
		line := stamp.ReplaceAllString(strings.TrimRight(string(b[:size]), "\n\x00"), "$1: ")
		if strings.Contains(line, "connect from") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// The lines that fail2ban and its like read are those of rpcbind, to the letter
// and with the same facility and severity.
func TestLogLinesAreThoseOfRpcbind(t *testing.T) {
	t.Parallel()
	const nfs, nameless, huge = 100003, 300555, 1<<32 - 2
	mapping := rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: nfs, Version: 3, Prot: rpcbind.ProtTCP, Port: 2049})
	rpcb := rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: nfs, Version: 3, NetID: "tcp", Addr: "0.0.0.0.8.1"})
	port := func(program uint32) []byte {
		return rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: program, Version: 1, Prot: rpcbind.ProtUDP})
	}
	calls := []oncrpc.Call{
		{Version: 2, Procedure: 3, Args: mapping}, // GETPORT
		{Version: 2, Procedure: 3, Args: port(nameless)},
		{Version: 2, Procedure: 3, Args: port(huge)},
		{Version: 2, Procedure: 3, Args: port(0)},
		{Version: 2, Procedure: 1, Args: mapping}, // SET
		{Version: 3, Procedure: 3, Args: rpcb},    // GETADDR
		{Version: 4, Procedure: 2, Args: rpcb},    // UNSET
		{Version: 4, Procedure: 4},                // DUMP
		{Version: 4, Procedure: 6},                // GETTIME
		{Version: 4, Procedure: 9, Args: rpcb},    // GETVERSADDR
		{Version: 4, Procedure: 11, Args: rpcb},   // GETADDRLIST
		{Version: 4, Procedure: 12},               // GETSTAT
	}
	lines := func(pm lab.PortMapper) []string {
		n := lab.NewNet(t)
		n.Server.Allow("rpcbind: 10.99.0.0/255.255.255.0 127.0.0.1")
		n.Server.Deny("rpcbind: ALL")
		log := syslogd(t, n.Server)
		n.Server.MustRun(pm.Path, "-l")
		n.Server.WaitPort("unix", lab.Sock)
		inside := connect(t, n.Inside, "tcp", "10.99.0.1:111")
		n.Server.MustRun("ip", "route", "add", "10.64.0.0/16", "via", "10.98.0.2")
		for i, c := range calls {
			c.Program = rpcbind.Program
			conns := []net.Conn{inside}
			// rpcbind asks about the loopback first; we ask the policy.
			if c.Procedure != 1 && c.Procedure != 2 {
				conns = append(conns, neighbour(t, n, i, "tcp"))
			}
			for _, conn := range conns {
				if _, err := lab.Call(conn, c, patience); err != nil {
					t.Errorf("%s: from %v: version %d, procedure %d: %v", pm.Name, conn.LocalAddr(), c.Version, c.Procedure, err)
				}
			}
		}
		return connectLines(t, log, 2*len(calls)-2)
	}
	want := lines(lab.Stock(t))
	if d := cmp.Diff(want, lines(lab.Rpcward(t))); d != "" {
		t.Errorf("lines (-rpcbind +rpcward):\n%s", d)
	}
	if len(want) == 0 || want[0] != "<36>rpcbind: connect from 10.64.0.2 to getport/addr(nfs): request from unauthorized host" {
		t.Errorf("lines of rpcbind: %q", want)
	}
}

// neighbour connects from the ith source prefix behind the stranger: of each,
// only the first refusal has a line.
func neighbour(t *testing.T, n *lab.Net, i int, network string) net.Conn {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{10, 64, byte(i), 2})
	n.Stranger.MustRun("ip", "addr", "add", addr.String(), "dev", "eth0")
	conn, err := n.Stranger.DialFrom(network, netip.AddrPortFrom(addr, 0), "10.98.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// counted matches what says how many calls had no line of their own.
var counted = regexp.MustCompile(`(?m)^rpcward: warning: ([0-9,]+)(?: more)? (?:requests? from (?:an )?unauthorized hosts?|packets of refused networks)`)

// told returns how many refused calls a log has lines for, and how many it sums up.
func told(t *testing.T, log string) (lines, more int) {
	t.Helper()
	for _, m := range counted.FindAllStringSubmatch(log, -1) {
		k, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
		if err != nil {
			t.Fatal(err)
		}
		more += k
	}
	return strings.Count(log, ": request from unauthorized host\n"), more
}

// endLog ends p, and checks that its log has each of the texts.
func endLog(t *testing.T, p *lab.Process, texts ...string) {
	t.Helper()
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, want := range texts {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("log\n%s\nhas no %q", p.Log(), want)
		}
	}
}

// A flood of refused calls costs a few lines, and none is lost from the count.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	const flood = 500
	n := lab.NewNet(t)
	p := serve(t, n.Server)
	conn := connect(t, n.Stranger, "udp", "10.98.0.1:111")
	begin := time.Now()
	for range flood {
		conn.Write(oncrpc.AppendCall(nil, &oncrpc.Call{Program: rpcbind.Program, Version: 2, Procedure: 4}))
		if _, err := ask(n.Server, "udp", "127.0.0.1:111", rpcbind.ProcNull, nil); err != nil {
			t.Fatalf("this host in the flood: %v", err)
		}
	}
	time.Sleep(50 * time.Millisecond) // until the last one is read
	intervals := int(time.Since(begin)/(10*time.Second)) + 2
	endLog(t, p,
		"rpcward: warning: connect from 10.98.0.2 to dump(): request from unauthorized host\n",
		" more requests from unauthorized hosts in 10.98.0.0/24 in the last ", " s, last from 10.98.0.2 to dump()\n")
	lines, more := told(t, p.Log())
	if lines == 0 || lines > intervals || lines+more != flood {
		t.Errorf("%d lines in at most %d intervals, and %d more, of %d calls\n%s", lines, intervals, more, flood, p.Log())
	}
}

// stuckLog starts pm with a log that nobody reads, and fills it.
func stuckLog(t *testing.T, n *lab.Net) *lab.Process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	cmd := n.Server.Command(t.Context(), "sh", "-c", fmt.Sprintf("exec %s -f -l 2>&3", lab.Rpcward(t).Path))
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	p := n.Server.StartCommand(cmd)
	w.Close()
	p.WaitServing()
	conn := connect(t, n.Inside, "udp", "10.99.0.1:111")
	const calls = 200 // as many lines as are logged in a second: twice what the pipe holds
	for i := range calls {
		if _, err := askOver(conn, rpcbind.ProcNull, nil, patience); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	return p
}

// Whoever reads the log may stop to: calls are answered all the same, an edited
// policy takes effect as often as it is edited, and the end comes soon.
func TestLogIsNotRead(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
	p := stuckLog(t, n)
	for i := range 3 {
		for _, open := range []bool{false, true} {
			n.Server.Allow(map[bool]string{false: "rpcbind: 10.97.0.0/24", true: "rpcbind: 10.99.0.0/24"}[open])
			if i == 1 {
				p.Signal(syscall.SIGHUP)
			}
			lab.Eventually(t, fmt.Sprintf("edit %d, open: %v", i, open), func() error {
				_, err := ask(n.Inside, "tcp", "10.99.0.1:111", rpcbind.ProcNull, nil)
				if (err == nil) != open {
					return fmt.Errorf("the inside gets %v", err)
				}
				return nil
			})
		}
	}
	if err := set(connect(t, n.Server, "unix", lab.Sock), 400000); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("still running after SIGTERM")
	}
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("end: %v", err)
	}
	lab.StartPortMapper(t, n.Server, lab.Stock(t), "-w")
	if got := n.Server.MustRun("rpcinfo"); !strings.Contains(got, " 400000 ") {
		t.Errorf("rpcbind did not take over what was registered, but\n%s", got)
	}
}

// All that was said before a start that failed is on standard error, and in
// order.
func TestLogOfFailedStart(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	out := h.MustRun("sh", "-c", lab.Rpcward(t).Toolbox()+" serve --debug --lock-file /nowhere/lock --user nemo 2>&1; echo exit $?")
	want := []string{"rpcward: debug: no lock file ", `rpcward: error: user "nemo": `, "exit 1"}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if !slices.EqualFunc(lines, want, strings.HasPrefix) {
		t.Errorf("wrote\n%s\nwant lines that begin with %q", out, want)
	}
}
