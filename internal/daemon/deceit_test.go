package daemon_test

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// TestReservedPortsOfContainers: where anybody may bind low ports, those prove
// nothing.
func TestReservedPortsOfContainers(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	set := oncrpc.Call{
		XID: 1, Program: rpcbind.Program, Version: rpcbind.Version2, Procedure: uint32(rpcbind.ProcSet),
		Args: rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: 400001, Version: 1, Prot: rpcbind.ProtTCP, Port: 4000}),
	}
	for _, tt := range []struct {
		start string
		want  uint32
	}{{"1024", oncrpc.MsgAccepted}, {"600", oncrpc.MsgDenied}, {"0", oncrpc.MsgDenied}} {
		n.Server.MustRun("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start="+tt.start)
		p := lab.StartPortMapper(t, n.Server, lab.Rpcward(t))
		conn, err := n.Server.DialFrom("udp", netip.MustParseAddrPort("127.0.0.1:700"), "127.0.0.1:111")
		if err != nil {
			t.Fatal(err)
		}
		reply, err := lab.Call(conn, set, 5*time.Second)
		if err != nil || reply.Stat != tt.want {
			t.Errorf("ports from %s are anybody's: %+v, %v; want state %d", tt.start, reply, err, tt.want)
		}
		conn.Close()
		if err := p.Stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAbstractSocketOfSomebody: a user who takes the abstract name does not
// keep the port mapper from starting, and is named.
func TestAbstractSocketOfSomebody(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	squatter := n.Server.Start("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
		"/usr/bin/python3", "-c", `import socket, time
s = socket.socket(socket.AF_UNIX); s.bind("\0/run/rpcbind.sock"); s.listen(); print("listening", flush=True); time.sleep(60)`)
	squatter.WaitLog("listening")
	p := lab.StartPortMapper(t, n.Server, lab.Rpcward(t))
	p.WaitLog("of user 1000")
	if log := p.Log(); !strings.Contains(log, "/run/rpcbind.sock is in use by process") {
		t.Errorf("the log does not say who is in the way:\n%s", log)
	}
}
