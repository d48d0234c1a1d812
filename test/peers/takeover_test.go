package peers

import (
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// registered is how many registrations change hands.
const registered = 200

// A host changes from rpcbind to rpcward and back, with services running: each
// finds all registrations that the other had, in the same order.
func TestTakeOverAndBack(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo")
	stock, ours := lab.Stock(t), lab.Rpcward(t)
	n := lab.NewNet(t)

	p := lab.StartPortMapper(t, n.Server, stock, "-w")
	registerMany(t, n.Server)
	want := lists(n.Server)
	for i, pm := range []lab.PortMapper{ours, stock, ours, ours} {
		if err := p.Stop(syscall.SIGTERM); err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		p = lab.StartPortMapper(t, n.Server, pm, "-w")
		if diff := cmp.Diff(want, lists(n.Server)); diff != "" {
			t.Fatalf("change %d, to %s: -before +after\n%s", i+1, pm.Name, diff)
		}
	}
}

// lists returns both of rpcinfo's listings on h.
func lists(h *lab.Host) string {
	return h.MustRun("rpcinfo") + h.MustRun("rpcinfo", "-p")
}

// registerMany registers services of several owners on all netids.
func registerMany(t *testing.T, h *lab.Host) {
	t.Helper()
	owners := []net.Conn{dialLoopback(t, h)} // owner unknown
	for _, uid := range []int{0, 1000, 65534} {
		conn, err := lab.DialAs(h, uid)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		owners = append(owners, conn)
	}
	for i := range registered {
		m := rpcbind.RPCB[string]{Program: 200600 + uint32(i)/10, Version: 1 + uint32(i)%10/5}
		port := fmt.Sprintf(".%d.%d", 20+i/100, i)
		switch i % 5 {
		case 0:
			m.NetID, m.Addr = "tcp", "0.0.0.0"+port
		case 1:
			m.NetID, m.Addr = "udp", "127.0.0.1"+port
		case 2:
			m.NetID, m.Addr = "tcp6", "::"+port
		case 3:
			m.NetID, m.Addr = "udp6", "::1"+port
		case 4:
			m.NetID, m.Addr = "local", fmt.Sprintf("/run/service%d.sock", i)
		}
		if ok, err := lab.Change(owners[i/5%len(owners)], lab.ProcSet, &m); err != nil || !ok {
			t.Fatalf("SET %+v: %v, %v", m, ok, err)
		}
	}
	if got := len(lab.Dump(t, h)); got < registered {
		t.Fatalf("%d registrations", got)
	}
}

// dialLoopback connects over TCP from a port that tells nothing about the user.
func dialLoopback(t *testing.T, h *lab.Host) net.Conn {
	t.Helper()
	conn, err := h.Dial("tcp", "127.0.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
