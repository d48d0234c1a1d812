// Package immunity has a test for each published fault of a port mapper or its
// tools: what broke them must not work on rpcward. Each test names the faults
// that it is about. Those that need more than one test have others beside them:
// forged sources in internal/transport, warm start files in internal/warmstart,
// connection floods in internal/daemon, hostile servers in internal/cli.
package immunity

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Waiting times.
const (
	patience = 5 * time.Second
	silence  = 300 * time.Millisecond
)

// serve starts rpcward on the server of a new net, open to the inside.
func serve(t *testing.T, options ...string) (*lab.Net, *lab.Process) {
	t.Helper()
	n := lab.NewNet(t)
	pm := lab.Rpcward(t)
	pm.OpenTo(n.Server, "10.99.0.0/24", "[fd99::]/64")
	return n, lab.StartPortMapper(t, n.Server, pm, options...)
}

func dial(t *testing.T, h *lab.Host, network, address string) net.Conn {
	t.Helper()
	conn, err := h.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func ours(version uint32, proc rpcbind.Proc, args []byte) oncrpc.Call {
	return oncrpc.Call{Program: rpcbind.Program, Version: version, Procedure: uint32(proc), Args: args}
}

// checkAlive wants p to be the process that still answers the inside at once.
func checkAlive(t *testing.T, n *lab.Net, p *lab.Process) {
	t.Helper()
	select {
	case <-p.Done():
		t.Fatalf("rpcward has ended:\n%s", p.Log())
	default:
	}
	for _, network := range []string{"udp", "tcp"} {
		reply, err := lab.Call(dial(t, n.Inside, network, "10.99.0.1:111"), ours(4, rpcbind.ProcGetTime, nil), patience)
		if err != nil || reply.Accept != oncrpc.Success || len(reply.Results) != 4 {
			t.Errorf("GETTIME over %s: %+v, %v", network, reply, err)
		}
	}
}

// services lists what is registered, without the port mapper's own.
func services(t *testing.T, h *lab.Host) (list []rpcbind.RPCB[string]) {
	t.Helper()
	reply, err := lab.Call(dial(t, h, "unix", lab.Sock), ours(4, rpcbind.ProcDump, nil), patience)
	if err != nil {
		t.Fatal(err)
	}
	r := xdr.NewReader(reply.Results)
	for _, m := range rpcbind.ReadRPCBs(&r) {
		if m.Program != rpcbind.Program {
			list = append(list, m)
		}
	}
	return list
}

// memory is VmRSS in KiB, proc(5).
func memory(t *testing.T, p *lab.Process) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// claims are arguments that claim more bytes than there are.
func claims(claimed uint32) map[string]oncrpc.Call {
	rpcb := func(netid, addr, owner uint32) []byte {
		b := xdr.AppendUint32(xdr.AppendUint32(nil, 100003), 3)
		for _, n := range []uint32{netid, addr, owner} {
			b = xdr.AppendUint32(b, n)
			if n == claimed {
				break
			}
		}
		return b
	}
	remote := xdr.AppendUint32(xdr.AppendUint32(xdr.AppendUint32(nil, 100003), 3), 0)
	return map[string]oncrpc.Call{
		"SET, netid":           ours(3, rpcbind.ProcSet, rpcb(claimed, 0, 0)),
		"UNSET, address":       ours(4, rpcbind.ProcUnset, rpcb(0, claimed, 0)),
		"GETADDR, netid":       ours(3, rpcbind.ProcGetAddr, rpcb(claimed, 0, 0)),
		"GETADDR, owner":       ours(4, rpcbind.ProcGetAddr, rpcb(0, 0, claimed)),
		"GETADDRLIST, address": ours(4, rpcbind.ProcGetAddrList, rpcb(0, claimed, 0)),
		"UADDR2TADDR":          ours(3, rpcbind.ProcUAddr2TAddr, xdr.AppendUint32(nil, claimed)),
		"TADDR2UADDR, size":    ours(3, rpcbind.ProcTAddr2UAddr, xdr.AppendUint32(nil, claimed)),
		"TADDR2UADDR, bytes":   ours(4, rpcbind.ProcTAddr2UAddr, xdr.AppendUint32(xdr.AppendUint32(nil, claimed), claimed)),
		"CALLIT, version 2":    ours(2, rpcbind.ProcCallIt, xdr.AppendUint32(remote, claimed)),
		"INDIRECT":             ours(4, rpcbind.ProcIndirect, xdr.AppendUint32(remote, claimed)),
	}
}

// A claimed length costs no memory: CVE-2017-8779 (rpcbomb).
func TestClaimedLengthsCostNoMemory(t *testing.T) {
	t.Parallel()
	n, p := serve(t, "-r")
	conn := dial(t, n.Inside, "udp", "10.99.0.1:111")
	var packets [][]byte
	for _, claimed := range []uint32{9000, 9001, 1 << 20, 1<<31 - 1, 1 << 31, 0xfffffffc, 0xffffffff} {
		for _, c := range claims(claimed) {
			packets = append(packets, oncrpc.AppendCall(nil, &c))
		}
	}
	send := func(count int) {
		for i := range count {
			conn.Write(packets[i%len(packets)])
			if i%100 == 99 { // not faster than they are read
				if _, err := lab.Call(conn, ours(4, rpcbind.ProcNull, nil), patience); err != nil {
					t.Fatalf("after %d packets: %v", i, err)
				}
			}
		}
	}
	send(2000)
	before := memory(t, p)
	send(20000)
	if grown := memory(t, p) - before; grown > 4<<10 {
		t.Errorf("20,000 packets cost %d KiB", grown)
	}
	checkAlive(t, n, p)
}

// Lengths whose product or sum overflows are no lengths: CVE-2002-0391
// (xdr_array), and the reading of them fails cleanly time and again:
// CVE-2013-1950 (svc_dg_getargs).
func TestOverflowingLengths(t *testing.T) {
	t.Parallel()
	n, p := serve(t)
	sys := func(groups uint32) oncrpc.Call {
		c := ours(4, rpcbind.ProcGetTime, nil)
		body := oncrpc.AppendSysCred(nil, &oncrpc.SysCred{Machine: "host"})
		c.Cred = oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys, Body: xdr.AppendUint32(body[:len(body)-4], groups)}
		return c
	}
	for _, network := range []string{"udp", "tcp"} {
		conn := dial(t, n.Inside, network, "10.99.0.1:111")
		for range 3 {
			for _, groups := range []uint32{17, 1 << 28, 1<<30 + 1, 1 << 31, 0xffffffff} {
				reply, err := lab.Call(conn, sys(groups), patience)
				if err != nil || reply.Stat != oncrpc.MsgDenied || reply.Auth != oncrpc.AuthBadCred {
					t.Errorf("%d groups over %s: %+v, %v; want AUTH_BADCRED", groups, network, reply, err)
				}
			}
			for _, claimed := range []uint32{0x3fffffff, 0x7fffffff, 0xfffffffd, 0xffffffff} {
				for name, c := range claims(claimed) {
					switch rpcbind.Proc(c.Procedure) {
					case rpcbind.ProcSet, rpcbind.ProcUnset, rpcbind.ProcCallIt, rpcbind.ProcIndirect:
						continue // not for this caller
					}
					reply, err := lab.Call(conn, c, patience)
					if err != nil || reply.Stat != oncrpc.MsgAccepted || reply.Accept != oncrpc.GarbageArgs {
						t.Errorf("%s of %d bytes over %s: %+v, %v; want GARBAGE_ARGS", name, claimed, network, reply, err)
					}
				}
			}
		}
	}
	checkAlive(t, n, p)
}

// echo is a service on h that answers each call with its arguments, after a
// while, and counts them.
type echo struct {
	conn  net.PacketConn
	calls chan oncrpc.Call
}

func newEcho(t *testing.T, h *lab.Host, delay time.Duration) *echo {
	t.Helper()
	conn, err := h.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{conn, make(chan oncrpc.Call, 10000)}
	go func() {
		for {
			b := make([]byte, 9000)
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			c, err := oncrpc.ParseCall(b[:n])
			if err != nil {
				continue
			}
			e.calls <- c
			time.AfterFunc(delay, func() {
				conn.WriteTo(append(oncrpc.AppendAccepted(nil, c.XID, oncrpc.Success), c.Args...), from)
			})
		}
	}()
	t.Cleanup(func() { conn.Close() })
	return e
}

// register registers e as a program on h.
func (e *echo) register(t *testing.T, h *lab.Host, program, version uint32) {
	t.Helper()
	port := e.conn.LocalAddr().(*net.UDPAddr).Port
	reply, err := lab.Call(dial(t, h, "unix", lab.Sock), ours(4, rpcbind.ProcSet, rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{
		Program: program, Version: version, NetID: "udp", Addr: fmt.Sprintf("127.0.0.1.%d.%d", port>>8, port&0xff)})), patience)
	r := xdr.NewReader(reply.Results)
	if err != nil || !r.Bool() {
		t.Fatalf("SET of program %d: %+v, %v", program, reply, err)
	}
}

// Calls for others that cross each other each come back to their own caller:
// CVE-2015-7236 (a caller's address used after it was freed).
func TestForwardedCallsComeBack(t *testing.T) {
	t.Parallel()
	n, p := serve(t, "-r")
	const ypserv, domain = 100004, 1 // a program whose calls are forwarded
	newEcho(t, n.Server, 50*time.Millisecond).register(t, n.Server, ypserv, 2)
	const callers = 20
	done := make(chan error, callers)
	for i := range uint32(callers) {
		conn := dial(t, n.Inside, "udp", "10.99.0.1:111")
		go func() {
			version := 2 + i%3
			args := xdr.AppendUint32(nil, 0xabcd0000+i)
			c := ours(version, rpcbind.ProcCallIt, rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{
				Program: ypserv, Version: 2, Procedure: domain, Args: args}))
			c.Args = append(c.Args, make([]byte, 100)...) // so that the longer answer may be sent
			reply, err := lab.Call(conn, c, patience)
			if err == nil && !strings.HasSuffix(string(reply.Results), string(args)) {
				err = fmt.Errorf("caller %d got % x", i, reply.Results)
			}
			done <- err
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	checkAlive(t, n, p)
}

// The port mapper lends nobody its address to ask a service that trusts this
// host: CA-94.15, CVE-1999-0168.
func TestNoProxyToTrustingServices(t *testing.T) {
	t.Parallel()
	for _, options := range [][]string{nil, {"-r"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			t.Parallel()
			n, p := serve(t, options...)
			e := newEcho(t, n.Server, 0)
			targets := []struct{ program, version, proc uint32 }{
				{100003, 3, 1}, {100003, 3, 6}, // nfs: GETATTR, READ
				{100005, 3, 1}, {100005, 3, 3}, {100005, 3, 5}, // mountd: MNT, UMNT, EXPORT
				{100004, 2, 3}, {100004, 2, 8}, // ypserv: MATCH, ALL
				{100007, 2, 2}, // ypbind: SETDOM
				{100009, 1, 1}, // yppasswdd: UPDATE
				{100011, 1, 1}, // rquotad: GETQUOTA
				{100024, 1, 6}, // statd: NOTIFY
				{400000, 1, 1}, // any other
				{100000, 2, 1}, // ourselves: SET
			}
			for _, to := range targets {
				if to.program != rpcbind.Program {
					e.register(t, n.Server, to.program, to.version)
				}
			}
			before := services(t, n.Server)
			conn := dial(t, n.Inside, "udp", "10.99.0.1:111")
			for _, to := range targets {
				args := rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{
					Program: to.program, Version: to.version, Procedure: to.proc,
					Args: rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: 400001, Version: 1, Prot: 17, Port: 9}),
				})
				for version := range uint32(3) {
					c := ours(2+version, rpcbind.ProcCallIt, args)
					conn.Write(oncrpc.AppendCall(nil, &c))
				}
				reply, err := lab.Call(conn, ours(4, rpcbind.ProcIndirect, args), patience)
				if err != nil || reply.Stat == oncrpc.MsgAccepted && reply.Accept == oncrpc.Success {
					t.Errorf("INDIRECT to program %d, procedure %d: %+v, %v; want an error", to.program, to.proc, reply, err)
				}
			}
			time.Sleep(silence)
			select {
			case c := <-e.calls:
				t.Errorf("program %d got a call of procedure %d", c.Program, c.Procedure)
			default:
			}
			if after := services(t, n.Server); !slices.Equal(before, after) {
				t.Errorf("registered: %v, before: %v", after, before)
			}
			checkAlive(t, n, p)
		})
	}
}

// Files that others can write are neither believed nor overwritten:
// CVE-2010-2061, CVE-2010-2064 (warm start files in /tmp).
func TestForgedWarmStartFiles(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	h := n.Server
	forged := string(append(rpcbind.AppendRPCB(rpcbind.AppendMore(nil, true), &rpcbind.RPCB[string]{
		Program: 400666, Version: 1, NetID: "tcp", Addr: "10.99.0.2.8.1", Owner: "superuser"}), 0, 0, 0, 0))
	mapping := string(append(rpcbind.AppendMapping(rpcbind.AppendMore(nil, true), rpcbind.Mapping{
		Program: 400666, Version: 1, Prot: 6, Port: 2049}), 0, 0, 0, 0))
	h.MustRun("mount", "-t", "tmpfs", "tmpfs", "/tmp", "-o", "mode=1777")
	// The program is in the /tmp of before; open it from the lab's folder.
	pm := programOutsideOfTmp(t, h)
	const victim = "/etc/victim"
	h.WriteFile(victim, "precious")
	h.WriteFile("/tmp/rpcbind.xdr", forged)
	h.WriteFile("/tmp/portmap.xdr", mapping)
	h.WriteFile("/run/evil.xdr", forged)
	h.MustRun("sh", "-c", `
		chown 1000 /tmp/*.xdr /run/evil.xdr
		ln -s /run/evil.xdr /run/rpcbind/rpcbind.xdr
		ln -s `+victim+` /run/rpcbind/rpcbind.xdr.new
		cp /tmp/portmap.xdr /run/rpcbind/portmap.xdr && chown 1000 /run/rpcbind/portmap.xdr
		ln -s `+victim+` /run/rpcbind/portmap.xdr.new
		for f in rpcbind.xdr.new portmap.xdr.new registrations.new; do ln -s `+victim+` /tmp/$f; done`)
	p := h.Start(pm, "-f", "-w")
	p.WaitServing()
	if list := services(t, h); len(list) > 0 {
		t.Errorf("believed: %v", list)
	}
	newEcho(t, h, 0).register(t, h, 400000, 1)
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got, err := h.ReadFile(victim); got != "precious" {
		t.Errorf("the file behind the links is now %q, %v", got, err)
	}
}

// programOutsideOfTmp copies rpcward, named rpcbind, to a folder of h that is
// not below /tmp.
func programOutsideOfTmp(t *testing.T, h *lab.Host) string {
	t.Helper()
	data, err := os.ReadFile(lab.Rpcward(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/var/rpcbind"
	h.WriteFile(path, string(data))
	h.MustRun("chmod", "755", path)
	return path
}

// Connections that do nothing, many of them, neither keep others out nor make
// the server spin: CVE-2021-46828, CVE-2018-14622.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "prlimit")
	n := lab.NewNet(t)
	pm := lab.Rpcward(t)
	pm.OpenTo(n.Server, "10.99.0.0/24")
	p := n.Server.Start("prlimit", "--nofile=64:64", pm.Path, "-f")
	p.WaitServing()
	for range 200 {
		conn, err := n.Stranger.Dial("tcp", "10.98.0.1:111")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	checkAlive(t, n, p)
}

// Bytes that are not RPC end their own connection and hold up no other: the
// junk that stopped portmap 4.0.
func TestJunk(t *testing.T) {
	t.Parallel()
	n, p := serve(t)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		conn := dial(t, n.Inside, "tcp", "10.99.0.1:111")
		junk := make([]byte, random.IntN(20000))
		for j := range junk {
			junk[j] = byte(random.Uint32())
		}
		conn.Write(junk) // may fail, when the other end has had enough
		if i%20 == 0 {
			checkAlive(t, n, p)
		}
	}
	checkAlive(t, n, p)
}

// Nobody registers anything over the network, whatever port they have: bid
// 1892 and the like. Datagrams with forged sources: internal/transport.
func TestNetworkCannotChange(t *testing.T) {
	t.Parallel()
	n, p := serve(t)
	newEcho(t, n.Server, 0).register(t, n.Server, 400000, 1)
	before := services(t, n.Server)
	rpcb := rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: 400001, Version: 1, NetID: "udp", Addr: "0.0.0.0.8.1", Owner: "superuser"})
	old := rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: 400000, Version: 1, Owner: "superuser"})
	for _, network := range []string{"udp", "tcp"} {
		conn, err := n.Inside.DialFrom(network, netip.MustParseAddrPort("10.99.0.2:700"), "10.99.0.1:111")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, c := range []oncrpc.Call{
			ours(2, rpcbind.ProcSet, rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: 400001, Version: 1, Prot: 17, Port: 2049})),
			ours(2, rpcbind.ProcUnset, rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: 400000, Version: 1})),
			ours(3, rpcbind.ProcSet, rpcb), ours(4, rpcbind.ProcSet, rpcb),
			ours(3, rpcbind.ProcUnset, old), ours(4, rpcbind.ProcUnset, old),
		} {
			c.Cred = oncrpc.OpaqueAuth{Flavor: oncrpc.AuthSys, Body: oncrpc.AppendSysCred(nil, &oncrpc.SysCred{Machine: "localhost"})}
			reply, err := lab.Call(conn, c, patience)
			if err != nil || reply.Stat != oncrpc.MsgDenied {
				t.Errorf("version %d, procedure %d over %s: %+v, %v; want AUTH_ERROR", c.Version, c.Procedure, network, reply, err)
			}
		}
	}
	if after := services(t, n.Server); !slices.Equal(before, after) {
		t.Errorf("registered: %v, before: %v", after, before)
	}
	checkAlive(t, n, p)
}

// A scanner from outside does not even learn that there is a port mapper, over
// UDP: CVE-1999-0632.
func TestScannerHearsNothing(t *testing.T) {
	t.Parallel()
	n, p := serve(t)
	var waits []chan error
	for version := range uint32(6) {
		for proc := range rpcbind.Proc(14) {
			for _, addr := range []string{"10.98.0.1:111", "[fd98::1]:111"} {
				conn, done := dial(t, n.Stranger, "udp", addr), make(chan error, 1)
				waits = append(waits, done)
				go func() {
					_, err := lab.Call(conn, ours(version, proc, make([]byte, 64)), silence)
					done <- err
				}()
			}
		}
	}
	for _, done := range waits {
		if err := <-done; !os.IsTimeout(err) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a stranger's call over UDP: %v, want silence", err)
		}
	}
	checkAlive(t, n, p)
}
