package peers

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// nothing is a program that nobody registers.
const nothing = 200999

// erroneous are calls that are well-formed, and answered by each of the
// RPC errors. RFC 5531, Section 9.
var erroneous = []oncrpc.Call{
	{Program: nothing, Version: 1},                                                                // PROG_UNAVAIL
	{Program: rpcbind.Program, Version: 1},                                                        // PROG_MISMATCH
	{Program: rpcbind.Program, Version: 5},                                                        // PROG_MISMATCH
	{Program: rpcbind.Program, Version: 2, Procedure: 6},                                          // PROC_UNAVAIL
	{Program: rpcbind.Program, Version: 4, Procedure: 99},                                         // PROC_UNAVAIL
	{Program: rpcbind.Program, Version: 3, Procedure: 3},                                          // GARBAGE_ARGS: it has none
	{Program: rpcbind.Program, Version: 2, Cred: oncrpc.OpaqueAuth{Flavor: 99}},                   // AUTH_REJECTEDCRED
	{Program: rpcbind.Program, Version: 2, Cred: oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys}},       // AUTH_BADCRED
	{Program: rpcbind.Program, Version: 2, Procedure: 1, Args: validArgs(2, 1, "udp")},            // AUTH_TOOWEAK: not a local call
	{Program: rpcbind.Program, Version: 4, Procedure: 3, Args: lookUpArgs(nothing, 1)},            // nothing found
	{Program: rpcbind.Program, Version: 4, Procedure: 11, Args: lookUpArgs(nothing, 1)},           // nothing found
	{Program: rpcbind.Program, Version: 4, Procedure: 11, Args: lookUpArgs(rpcbind.Program, 4)},   // two transports
	{Program: rpcbind.Program, Version: 4, Procedure: 9, Args: lookUpArgs(rpcbind.Program, 3)},    // one
	{Program: rpcbind.Program, Version: 3, Procedure: 3, Args: lookUpArgs(rpcbind.Program, 1000)}, // another version's
}

func lookUpArgs(program, version uint32) []byte {
	return rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: program, Version: version})
}

// A packet analyser that knows the protocol finds no fault with any reply:
// every procedure of every version and every error, over UDP and TCP.
func TestWiresharkFindsNoFault(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "tcpdump", "tshark", "rpcinfo", "rpc.rquotad")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		capture := publicDir(t) + "/capture.pcap"
		dump := n.Server.Start("tcpdump", "-i", "any", "-U", "-Z", "root", "-w", capture, "port", "111")
		dump.WaitLog("listening on")

		n.Server.Start("rpc.rquotad", "-F")
		waitRegistered(t, n.Server, "100011", "1,2", allIP)
		answered := 0
		for _, command := range []string{"rpcinfo -p 10.99.0.1", "rpcinfo fd99::1", "rpcinfo -m 10.99.0.1",
			"rpcinfo -T udp 10.99.0.1 100011", "rpcinfo -T tcp6 fd99::1 100011"} {
			args := strings.Fields(command)
			n.Inside.MustRun(args[0], args[1:]...)
		}
		for _, addr := range []netip.Addr{lab.ServerIP, lab.ServerIP6} {
			for _, network := range []string{"tcp", "udp"} {
				answered += converse(t, n.Inside, netip.AddrPort{}, network, addr)
			}
		}
		// SET and UNSET are for callers on the host, from a reserved port.
		for _, network := range []string{"tcp", "udp"} {
			answered += converse(t, n.Server, netip.MustParseAddrPort("127.0.0.1:700"), network, netip.MustParseAddr("127.0.0.1"))
		}

		lab.Eventually(t, "capture of all replies", func() error { return atLeast(t, capture, answered) })
		if err := dump.Stop(syscall.SIGINT); err != nil {
			t.Errorf("tcpdump: %v", err)
		}
		const faulty = "_ws.malformed && (udp.srcport == 111 || tcp.srcport == 111)"
		if out := tshark(t, "-r", capture, "-Y", faulty, "-V"); out != "" {
			t.Errorf("malformed replies:\n%s", out)
		}
	})
}

// converse makes all calls over one network, one after the other, and returns
// how many were answered. Those that are not may not be: forwarded calls.
func converse(t *testing.T, from *lab.Host, local netip.AddrPort, network string, addr netip.Addr) (answered int) {
	t.Helper()
	calls := append([]oncrpc.Call(nil), erroneous...)
	for version, n := range procedures {
		for proc := range n {
			calls = append(calls, oncrpc.Call{Program: rpcbind.Program, Version: version, Procedure: proc, Args: validArgs(version, proc, network)})
		}
	}
	calls = append(calls, serviceCalls(1), serviceCalls(2))
	server := net.JoinHostPort(addr.String(), "111")
	for _, call := range calls {
		dial := func() (net.Conn, error) { return from.Dial(network, server) }
		if local.IsValid() {
			dial = func() (net.Conn, error) { return from.DialFrom(network, local, server) }
		}
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Call(conn, call, 100*time.Millisecond); err == nil {
			answered++
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // so that the port can be used again at once
		}
		conn.Close()
	}
	if unanswered := len(calls) - answered; unanswered > 4 { // CALLIT of three versions, and INDIRECT over TCP
		t.Errorf("%s to %v: %d of %d calls were not answered", network, addr, unanswered, len(calls))
	}
	return answered
}

// serviceCalls is SET (1) or UNSET (2) of a service.
func serviceCalls(proc uint32) oncrpc.Call {
	m := rpcbind.RPCB[string]{Program: 200500, Version: 1, NetID: "tcp", Addr: "0.0.0.0.30.1"}
	return oncrpc.Call{Program: rpcbind.Program, Version: 3, Procedure: proc, Args: rpcbind.AppendRPCB(nil, &m)}
}

func tshark(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "tshark", args...).Output()
	if err != nil {
		t.Fatalf("tshark %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// atLeast wants n replies in the capture that tshark takes for RPC.
func atLeast(t *testing.T, capture string, n int) error {
	out := tshark(t, "-r", capture, "-Y", "rpc.msgtyp == 1")
	if got := strings.Count(out, "\n"); got < n {
		return fmt.Errorf("%d of %d", got, n)
	}
	return nil
}
