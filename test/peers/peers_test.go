package peers

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// controlEnv names the environment variable that adds stock rpcbind.
const controlEnv = "RPCWARD_PEERS_CONTROL"

// lan is what a site writes to open its port mapper to the inside of a lab.Net.
var lan = []string{"10.99.0.0/24", "[fd99::]/64"}

// onEach runs test on rpcward, and on stock rpcbind if that is asked for.
func onEach(t *testing.T, test func(t *testing.T, pm lab.PortMapper)) {
	t.Run("rpcward", func(t *testing.T) {
		t.Parallel()
		test(t, lab.Rpcward(t))
	})
	if os.Getenv(controlEnv) == "1" {
		t.Run("rpcbind", func(t *testing.T) {
			t.Parallel()
			test(t, lab.Stock(t))
		})
	}
}

// serve starts pm on the server of a new net, open to the inside.
func serve(t *testing.T, pm lab.PortMapper, options ...string) (*lab.Net, *lab.Process) {
	t.Helper()
	n := lab.NewNet(t)
	pm.OpenTo(n.Server, lan...)
	return n, lab.StartPortMapper(t, n.Server, pm, options...)
}

// procedures is how many procedures each version has. RFC 1833, Sections 2 and 3.
var procedures = map[uint32]uint32{2: 6, 3: 9, 4: 13}

// validArgs returns arguments with which a port mapper that lets the caller in
// has something to say: they are about its own registration.
func validArgs(version, proc uint32, network string) []byte {
	switch {
	case proc == 0 || proc == 4 || proc == 6 || proc == 12: // NULL, DUMP, GETTIME, GETSTAT
		return nil
	case proc == 5 || proc == 10: // CALLIT, BCAST, INDIRECT
		return rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{Program: rpcbind.Program, Version: 2})
	case version == 2:
		return rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: rpcbind.Program, Version: 2, Prot: 17, Port: 111})
	case proc == 7: // UADDR2TADDR
		return xdr.AppendString(nil, "10.99.0.1.0.111")
	case proc == 8: // TADDR2UADDR: a netbuf of 16 bytes
		return append(xdr.AppendUint32(xdr.AppendUint32(nil, 16), 16), 2, 0, 0, 111, 10, 99, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	default:
		return rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: rpcbind.Program, Version: version, NetID: network, Owner: "superuser"})
	}
}

// validCall is a call of the port mapper with such arguments.
func validCall(version, proc uint32, network string) oncrpc.Call {
	return oncrpc.Call{Program: rpcbind.Program, Version: version, Procedure: proc, Args: validArgs(version, proc, network)}
}

// nothing is a program that nobody registers.
const nothing = 200999

// erroneous are calls that are well-formed, and answered by each of the
// RPC errors (RFC 5531, Section 9) or by a result that says nothing was found.
var erroneous = []oncrpc.Call{
	{Program: nothing, Version: 1},                                                                // PROG_UNAVAIL
	{Program: rpcbind.Program, Version: 1},                                                        // PROG_MISMATCH
	{Program: rpcbind.Program, Version: 5},                                                        // PROG_MISMATCH
	{Program: rpcbind.Program, Version: 2, Procedure: 6},                                          // PROC_UNAVAIL
	{Program: rpcbind.Program, Version: 4, Procedure: 99},                                         // PROC_UNAVAIL
	{Program: rpcbind.Program, Version: 3, Procedure: 3},                                          // GARBAGE_ARGS: it has none
	{Program: rpcbind.Program, Version: 2, Cred: oncrpc.OpaqueAuth{Flavor: 99}},                   // AUTH_REJECTEDCRED
	{Program: rpcbind.Program, Version: 2, Cred: oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys}},       // AUTH_BADCRED
	validCall(2, 1, "udp"),                                                                        // AUTH_TOOWEAK, from other hosts
	{Program: rpcbind.Program, Version: 4, Procedure: 3, Args: lookUpArgs(nothing, 1)},            // nothing found
	{Program: rpcbind.Program, Version: 4, Procedure: 11, Args: lookUpArgs(nothing, 1)},           // nothing found
	{Program: rpcbind.Program, Version: 4, Procedure: 11, Args: lookUpArgs(rpcbind.Program, 4)},   // two transports
	{Program: rpcbind.Program, Version: 4, Procedure: 9, Args: lookUpArgs(rpcbind.Program, 3)},    // one
	{Program: rpcbind.Program, Version: 3, Procedure: 3, Args: lookUpArgs(rpcbind.Program, 1000)}, // another version's
}

func lookUpArgs(program, version uint32) []byte {
	return rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: program, Version: version})
}

// allCalls is each procedure of each version, then the erroneous calls.
func allCalls(network string) []oncrpc.Call {
	var calls []oncrpc.Call
	for version, n := range procedures {
		for proc := range n {
			calls = append(calls, validCall(version, proc, network))
		}
	}
	return append(calls, erroneous...)
}

// silence is how long a caller waits before it takes no answer for an answer.
const silence = 300 * time.Millisecond

// checkRefused calls every procedure of every version from a host that the
// policy does not let in, and makes all calls that others get an error for.
// rpcward keeps silent over UDP and denies over TCP. rpcbind answers NULL and
// errors, and denies over UDP too: of it we only check what its own policy
// promises, look-ups and lists.
func checkRefused(t *testing.T, pm lab.PortMapper, from *lab.Host, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		if pm.Name == "rpcbind" {
			for version := range procedures {
				checkDenied(t, from, addr, validCall(version, 3, "tcp"))
				checkDenied(t, from, addr, validCall(version, 4, "tcp"))
			}
			continue
		}
		for _, call := range allCalls("tcp") {
			checkDenied(t, from, addr, call)
		}
		for _, call := range allCalls("udp") {
			checkSilent(t, from, addr, call)
		}
	}
}

// checkDenied makes a call over TCP and wants MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK.
func checkDenied(t *testing.T, from *lab.Host, addr netip.Addr, call oncrpc.Call) {
	t.Helper()
	conn, err := from.Dial("tcp", net.JoinHostPort(addr.String(), "111"))
	if err != nil {
		t.Errorf("program %d v%d procedure %d to %v over TCP: %v", call.Program, call.Version, call.Procedure, addr, err)
		return
	}
	defer conn.Close()
	reply, err := lab.Call(conn, call, 5*time.Second)
	if err != nil || reply.Stat != oncrpc.MsgDenied || reply.Reject != oncrpc.AuthError || reply.Auth != oncrpc.AuthTooWeak {
		t.Errorf("program %d v%d procedure %d to %v over TCP: %+v, %v; want AUTH_TOOWEAK", call.Program, call.Version, call.Procedure, addr, reply, err)
	}
}

// checkSilent makes a call over UDP in the background of the test, and wants
// no answer. The waits of many calls pass at the same time.
func checkSilent(t *testing.T, from *lab.Host, addr netip.Addr, call oncrpc.Call) {
	t.Helper()
	conn, err := from.Dial("udp", net.JoinHostPort(addr.String(), "111"))
	if err != nil {
		t.Errorf("program %d v%d procedure %d to %v over UDP: %v", call.Program, call.Version, call.Procedure, addr, err)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		if reply, err := lab.Call(conn, call, silence); !os.IsTimeout(err) {
			t.Errorf("program %d v%d procedure %d to %v over UDP: %+v, %v; want silence", call.Program, call.Version, call.Procedure, addr, reply, err)
		}
	}()
	t.Cleanup(func() { <-done })
}
