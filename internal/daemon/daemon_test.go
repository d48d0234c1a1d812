package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/internal/daemon"
	"rpcward/internal/warmstart"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

func TestMain(m *testing.M) {
	withoutIPv6()
	os.Exit(lab.Main(m))
}

// Waiting times.
const (
	patience = 5 * time.Second        // for an answer
	silence  = 300 * time.Millisecond // before no answer counts as none
)

// serve starts this tree's `rpcward serve` on h, and waits until it answers.
func serve(t *testing.T, h *lab.Host, options ...string) *lab.Process {
	t.Helper()
	p := h.Start(lab.Rpcward(t).Toolbox(), append([]string{"serve"}, options...)...)
	p.WaitServing()
	return p
}

// ask makes a version 4 call from h and returns its results.
func ask(h *lab.Host, network, address string, proc rpcbind.Proc, args []byte) ([]byte, error) {
	conn, err := h.Dial(network, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return askOver(conn, proc, args, patience)
}

func askOver(conn net.Conn, proc rpcbind.Proc, args []byte, wait time.Duration) ([]byte, error) {
	call := oncrpc.Call{Program: rpcbind.Program, Version: rpcbind.Version4, Procedure: uint32(proc), Args: args}
	reply, err := lab.Call(conn, call, wait)
	switch {
	case err != nil:
		return nil, err
	case reply.Stat != oncrpc.MsgAccepted:
		return nil, errDenied
	case reply.Accept != oncrpc.Success:
		return nil, fmt.Errorf("accept_stat %d", reply.Accept)
	}
	return reply.Results, nil
}

var errDenied = errors.New("denied")

// set registers program over conn.
func set(conn net.Conn, program uint32) error {
	return change(conn, rpcbind.ProcSet, program)
}

func change(conn net.Conn, proc rpcbind.Proc, program uint32) error {
	res, err := askOver(conn, proc, rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{
		Program: program, Version: 1, NetID: "tcp", Addr: "0.0.0.0.80.1"}), patience)
	r := xdr.NewReader(res)
	if err == nil && !r.Bool() {
		err = errors.New("answered FALSE")
	}
	return err
}

// abstract is the socket that needs no file system, unix(7).
const abstract = "@" + lab.Sock

// dump lists what is registered on h, as its unix socket tells.
func dump(t *testing.T, h *lab.Host) []rpcbind.RPCB[string] {
	t.Helper()
	res, err := ask(h, "unix", abstract, rpcbind.ProcDump, nil)
	if err != nil {
		t.Fatalf("DUMP: %v", err)
	}
	r := xdr.NewReader(res)
	list := rpcbind.ReadRPCBs(&r)
	if r.Err() != nil {
		t.Fatalf("DUMP: %v", r.Err())
	}
	return list
}

// ownNetIDs lists the netids of the port mapper's own registrations.
func ownNetIDs(t *testing.T, h *lab.Host) []string {
	t.Helper()
	var ids []string
	for _, m := range dump(t, h) {
		if m.Program == rpcbind.Program && !slices.Contains(ids, m.NetID) {
			ids = append(ids, m.NetID)
		}
	}
	slices.Sort(ids)
	return ids
}

// connect opens a connection that ends with the test.
func connect(t *testing.T, h *lab.Host, network, address string) net.Conn {
	t.Helper()
	conn, err := h.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// waitLog waits until p has written a line with text.
func waitLog(t *testing.T, p *lab.Process, text string) {
	t.Helper()
	lab.Eventually(t, fmt.Sprintf("%q in the log", text), func() error {
		if !strings.Contains(p.Log(), text) {
			return errors.New(p.Log())
		}
		return nil
	})
}

// A file that stands in the way of starting, and what must be said about it.
func TestFailedStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		prepare string // shell command
		args    []string
		want    string
	}{
		{"socket path is a file", "touch /run/rpcbind.sock", nil, "/run/rpcbind.sock is in the way and is not a socket"},
		{"no such interface", "", []string{"--listen", "eth7"}, `"eth7" is neither an address, an interface nor a name of this host`},
		{"not our address", "", []string{"--listen", "192.0.2.1"}, "binding udp port 111 on 192.0.2.1: cannot assign requested address"},
		{"no such user", "", []string{"--user", "nemo"}, `user "nemo"`},
		{"state folder of a stranger", "mkdir -p /run/x/s; chown -R 4711 /run/x", []string{"--state-dir", "/run/x/s"}, "belongs to user 4711"},
		{"state folder that all may write to", "mkdir -m 777 /run/s", []string{"--state-dir", "/run/s"}, "/run/s can be written to by others"},
		{"state folder is a link", "ln -s /tmp /run/s", []string{"--state-dir", "/run/s"}, "/run/s is not a folder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t, "server")
			h.MustRun("sh", "-c", tt.prepare)
			program := lab.Rpcward(t).Toolbox() // may take a while to build
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := h.Run(ctx, program, append([]string{"serve"}, tt.args...)...)
			if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want exit status 1 and %q", err, tt.want)
			}
			if left, _ := h.Run(ctx, "find", "/run/rpcbind.sock", "-type", "s"); left != "" {
				t.Error("a socket that nobody listens on is left")
			}
		})
	}
}

// A start that fails holds on to nothing, so that the same process can try
// again in another way, as serve --fallback does.
func TestFailedStartLetsGo(t *testing.T) {
	h := lab.NewHost(t, "server")
	h.MustRun("sh", "-c", "mkdir /run/rpcward && echo corrupt >/run/rpcward/registrations && mount --bind /run/rpcward/registrations /run/rpcward/registrations")
	err := h.Do(func() error {
		c := daemon.Default()
		c.Stderr, c.User = io.Discard, "root" // the test goes on as root
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for range 2 { // the second meets what the first left
			err := daemon.Run(ctx, c)
			if err == nil || !strings.Contains(err.Error(), "device or resource busy") { // a mount point can't be renamed
				t.Errorf("started with a state that can be neither read nor set aside: %v", err)
			}
		}
		state, err := warmstart.Open(c.StateDir, warmstart.Options{})
		if err != nil {
			return err
		}
		return state.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

// Two port mappers do not run beside each other, whichever was first, and ours
// says which process it was.
func TestSecondInstance(t *testing.T) {
	t.Parallel()
	ours, stock := lab.Rpcward(t), lab.Stock(t)
	const running = "another rpcbind is already running"
	for _, tt := range []struct {
		name   string
		first  lab.PortMapper
		second []string
		want   string // %s stands for the first's process
	}{
		{"rpcward beside rpcward", ours, []string{ours.Path, "-f"}, running + ". Aborting: it is rpcbind (process %s)"},
		{"rpcward beside rpcbind", stock, []string{ours.Path, "-f"}, running + ". Aborting: it is rpcbind (process %s)"},
		{"rpcbind beside rpcward", ours, []string{stock.Path, "-f"}, running + ". Aborting"},
		{"serve beside rpcward", ours, []string{ours.Toolbox(), "serve"}, running + ": rpcbind (process %s)"},
		{"serve beside rpcbind", stock, []string{ours.Toolbox(), "serve"}, running + ": rpcbind (process %s)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t, "server")
			lab.StartPortMapper(t, h, tt.first)
			want := strings.ReplaceAll(tt.want, "%s", strings.TrimSpace(h.MustRun("pidof", "rpcbind")))
			_, err := h.Run(t.Context(), tt.second[0], tt.second[1:]...)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the second one: %v, want %q", err, want)
			}
			if _, err := ask(h, "udp", "127.0.0.1:111", rpcbind.ProcNull, nil); err != nil {
				t.Errorf("the first one: %v", err)
			}
		})
	}
}

// Who holds the port is said by name.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	pid := strings.TrimSpace(h.MustRun("pidof", "rpcbind"))
	_, err := h.Run(t.Context(), lab.Rpcward(t).Toolbox(), "serve", "--lock-file", "")
	want := "udp port 111 is in use by rpcbind (process " + pid + ")"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// What is half sent when the end comes is answered, and then the end is clean.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			n := lab.NewNet(t)
			lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
			p := serve(t, n.Server)
			slow := map[string]net.Conn{
				"network":  connect(t, n.Inside, "tcp", "10.99.0.1:111"),
				"loopback": connect(t, n.Server, "tcp", "127.0.0.1:111"),
				"unix":     connect(t, n.Server, "unix", lab.Sock),
			}
			idle := connect(t, n.Inside, "tcp", "10.99.0.1:111")
			call := record(oncrpc.Call{XID: 1, Program: rpcbind.Program, Version: 4, Procedure: uint32(rpcbind.ProcGetTime)})
			for _, conn := range append([]net.Conn{idle}, slow["network"], slow["loopback"], slow["unix"]) {
				exchange(t, conn, call) // so that the connection is known to be accepted
			}
			for _, conn := range slow {
				conn.Write(call[:9])
			}
			time.Sleep(50 * time.Millisecond) // until that is read
			p.Signal(sig)
			idle.SetReadDeadline(time.Now().Add(patience))
			if _, err := idle.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("an idle connection at the end: %v, want it closed", err)
			}
			for name, conn := range slow {
				conn.Write(call[9:])
				if _, err := readReply(conn); err != nil {
					t.Errorf("%s: the call that had begun: %v", name, err)
				}
			}
			<-p.Done()
			if err := p.Stop(sig); err != nil {
				t.Errorf("end: %v", err)
			}
		})
	}
}

func record(c oncrpc.Call) []byte {
	return oncrpc.EndRecord(oncrpc.AppendCall(oncrpc.BeginRecord(nil), &c), 0)
}

func readReply(conn net.Conn) (oncrpc.Reply, error) {
	conn.SetReadDeadline(time.Now().Add(patience))
	msg, err := oncrpc.ReadRecord(conn, nil, 1<<20)
	if err != nil {
		return oncrpc.Reply{}, err
	}
	return oncrpc.ParseReply(msg)
}

func exchange(t *testing.T, conn net.Conn, call []byte) {
	t.Helper()
	if _, err := conn.Write(call); err != nil {
		t.Fatal(err)
	}
	if _, err := readReply(conn); err != nil {
		t.Fatal(err)
	}
}

// Signals that rpcbind ignores do no harm, at any time.
func TestSignals(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	p := h.Start(lab.Rpcward(t).Path, "-f")
	for range 20 { // while it starts, too
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE} {
			if strings.Contains(p.Log(), "serving") {
				p.Signal(sig)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.WaitServing()
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("end: %v\n%s", err, p.Log())
	}
}

// -h binds what it names, for UDP and TCP alike, and loopback.
func TestListen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options []string
	}{
		{"address", []string{"-h", "10.99.0.1", "-h", "fd99::1"}},
		{"interface", []string{"-h", "lan"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := lab.NewNet(t)
			pm := lab.Rpcward(t)
			pm.OpenTo(n.Server, "ALL")
			lab.StartPortMapper(t, n.Server, pm, tt.options...)
			for _, to := range []struct {
				host *lab.Host
				addr netip.Addr
				want bool
			}{
				{n.Inside, lab.ServerIP, true},
				{n.Inside, lab.ServerIP6, true},
				{n.Stranger, lab.ServerWAN, false},
				{n.Stranger, lab.ServerWAN6, false},
				{n.Server, netip.MustParseAddr("127.0.0.1"), true},
				{n.Server, netip.IPv6Loopback(), true},
			} {
				for _, network := range []string{"udp", "tcp"} {
					conn, err := to.host.Dial(network, netip.AddrPortFrom(to.addr, 111).String())
					if err == nil {
						_, err = askOver(conn, rpcbind.ProcGetTime, nil, waitFor(to.want))
						conn.Close()
					}
					if (err == nil) != to.want {
						t.Errorf("%s to %v from %s: %v, want an answer: %v", network, to.addr, to.host.Name, err, to.want)
					}
				}
			}
		})
	}
}

func waitFor(answer bool) time.Duration {
	if answer {
		return patience
	}
	return silence
}

// A stranger learns nothing over UDP, and over TCP that it may not ask.
func TestStranger(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
	serve(t, n.Server)
	if _, err := ask(n.Inside, "udp", "10.99.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
		t.Errorf("the inside over UDP: %v", err)
	}
	for _, addr := range []string{"10.98.0.1:111", "[fd98::1]:111", "10.99.0.1:111"} {
		if _, err := askOver(connect(t, n.Stranger, "udp", addr), rpcbind.ProcNull, nil, silence); !os.IsTimeout(err) {
			t.Errorf("a stranger over UDP to %s: %v, want silence", addr, err)
		}
		if _, err := ask(n.Stranger, "tcp", addr, rpcbind.ProcNull, nil); err != errDenied {
			t.Errorf("a stranger over TCP to %s: %v, want %v", addr, err, errDenied)
		}
	}
}

// An edit that can't be right changes nothing; a right one counts at once.
func TestPolicyEdits(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	n.Server.Allow("portmap: 10.99.0.0/24")
	p := serve(t, n.Server)
	check := func(when string, inside, stranger bool) {
		t.Helper()
		for _, from := range []struct {
			host *lab.Host
			addr string
			want bool
		}{{n.Inside, "10.99.0.1:111", inside}, {n.Stranger, "10.98.0.1:111", stranger}} {
			if _, err := ask(from.host, "tcp", from.addr, rpcbind.ProcNull, nil); (err == nil) != from.want {
				t.Errorf("%s: %s gets %v, want an answer: %v", when, from.host.Name, err, from.want)
			}
		}
	}
	check("at first", true, false)
	n.Server.Allow("portmap: ALL EXCEPT [fe80::")
	waitLog(t, p, "policy not taken into use")
	check("after a bad edit", true, false)
	n.Server.Allow("portmap: 10.98.0.0/24")
	p.Signal(syscall.SIGHUP)
	lab.Eventually(t, "the new policy", func() error {
		_, err := ask(n.Stranger, "tcp", "10.98.0.1:111", rpcbind.ProcNull, nil)
		return err
	})
	check("after a good edit", false, true)
}
