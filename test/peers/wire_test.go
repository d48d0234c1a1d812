package peers

import (
	"errors"
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

// A packet analyser that knows the protocol finds no fault with any reply:
// every procedure of every version and every error, over UDP and TCP.
func TestWiresharkFindsNoFault(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "tcpdump", "tshark", "rpcinfo", "rpc.rquotad")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		capture := lab.PublicDir(t) + "/capture.pcap"
		dump := n.Server.Start("tcpdump", "-i", "any", "-U", "-Z", "root", "-w", capture, "port", "111")
		dump.WaitLog("listening on")

		n.Server.Start("rpc.rquotad", "-F")
		lab.WaitRegistered(t, n.Server, "100011", "1,2", lab.AllIP)
		answered := 0
		for _, command := range []string{"rpcinfo -p 10.99.0.1", "rpcinfo fd99::1", "rpcinfo -m 10.99.0.1",
			"rpcinfo -T udp 10.99.0.1 100011", "rpcinfo -T tcp6 fd99::1 100011"} {
			args := strings.Fields(command)
			n.Inside.MustRun(args[0], args[1:]...)
		}
		for _, addr := range []netip.Addr{lab.ServerIP, lab.ServerIP6} {
			for _, network := range []string{"tcp", "udp"} {
				answered += converse(t, n.Inside, network, addr)
			}
		}
		// SET and UNSET are for callers on the host, from a reserved port.
		for _, network := range []string{"tcp", "udp"} {
			answered += converse(t, n.Server, network, localhost)
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

// localhost is an address that only callers on the host itself have.
var localhost = netip.MustParseAddr("127.0.0.1")

// converse makes all calls over one network, one after the other, and returns
// how many were answered. Those that are not may not be: forwarded calls.
func converse(t *testing.T, from *lab.Host, network string, addr netip.Addr) (answered int) {
	t.Helper()
	calls := append(allCalls(network), serviceCall(lab.ProcSet), serviceCall(lab.ProcUnset))
	for _, call := range calls {
		conn, err := dialReserved(from, network, addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Call(conn, call, 100*time.Millisecond); err == nil {
			answered++
		}
		conn.Close()
	}
	if unanswered := len(calls) - answered; unanswered > 4 { // CALLIT of three versions, and INDIRECT over TCP
		t.Errorf("%s to %v: %d of %d calls were not answered", network, addr, unanswered, len(calls))
	}
	return answered
}

// dialReserved connects to the port mapper at addr, over loopback from a free
// port that only root can have.
func dialReserved(from *lab.Host, network string, addr netip.Addr) (conn net.Conn, err error) {
	server := netip.AddrPortFrom(addr, rpcbind.Port).String()
	if addr != localhost {
		return from.Dial(network, server)
	}
	for port := uint16(1023); port >= 512; port-- {
		conn, err = from.DialFrom(network, netip.AddrPortFrom(localhost, port), server)
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return conn, err
}

// serviceCall is SET or UNSET of a service.
func serviceCall(proc uint32) oncrpc.Call {
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
