package differential

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// rusersd is a service that clients ask by broadcast.
const rusersd = 100002 // RUSERSPROG, rusers.x

// TestForwardedAnswers calls a real service through both, by all procedures
// and versions. Its port is another one on each host; all else must be equal,
// save where the answer comes from (forward-port).
func TestForwardedAnswers(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "rpc.rusersd")
	p := newPair(t, Setup{Forward: true})
	for _, w := range []*twin{p.stock, p.ours} {
		w.net.Server.Start("rpc.rusersd")
		lab.Eventually(t, w.pm.Name+": registration of rusersd", func() error {
			if w.rusersd() == 0 {
				return errors.New("not there")
			}
			return nil
		})
	}
	for _, from := range []Route{{From: Server, Source: loop4, Target: loop4}, {From: Inside, Source: lab.InsideIP, Target: lab.ServerIP}} {
		for version := uint32(2); version <= 4; version++ {
			for _, by := range []rpcbind.Proc{rpcbind.ProcCallIt, rpcbind.ProcIndirect} {
				if version < 4 && by == rpcbind.ProcIndirect {
					continue
				}
				for _, proc := range []uint32{0, 2} { // RUSERSPROC_NULL, RUSERSPROC_NAMES
					t.Run(fmt.Sprintf("from %v, version %d procedure %d for %d", from.Source, version, by, proc), func(t *testing.T) {
						msg := oncrpc.AppendCall(nil, &oncrpc.Call{
							XID: 0x20000000 + proc + uint32(by)<<4 + version<<8, Program: rpcbind.Program, Version: version, Procedure: uint32(by),
							Args: rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{Program: rusersd, Version: 3, Procedure: proc}),
						})
						stock, _ := p.stock.forwarded(t, &from, version, msg)
						ours, port := p.ours.forwarded(t, &from, version, msg)
						if !slices.Equal(stock, ours) {
							t.Errorf("rpcbind: %x\nrpcward: %x", stock, ours)
						}
						if port != rpcbind.Port {
							t.Errorf("rpcward's answer is from port %d", port)
						}
					})
				}
			}
		}
	}
}

// rusersd returns the UDP port that rusersd is registered at, 0 if it is not.
func (w *twin) rusersd() uint16 {
	for _, r := range w.List() {
		if ap, ok := parseUAddr(r.Addr); ok && r.Program == rusersd && r.Version == 3 && r.NetID == "udp" {
			return ap.Port()
		}
	}
	return 0
}

// forwarded sends msg from a socket that takes answers from any port, and
// returns the answer, with 0 for the service's port, and where it is from.
func (w *twin) forwarded(t *testing.T, r *Route, version uint32, msg []byte) ([]byte, uint16) {
	conn, err := w.host(r.From).ListenPacket("udp4", netip.AddrPortFrom(r.Source, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo(msg, net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.Target, rpcbind.Port))); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatalf("%s: %v", w.pm.Name, err)
	}
	return w.withoutPort(t, version, buf[:n]), from.(*net.UDPAddr).AddrPort().Port()
}

// withoutPort replaces the service's port in an answer by 0, if it is the one
// that is registered.
func (w *twin) withoutPort(t *testing.T, version uint32, msg []byte) []byte {
	res, ok := success(&Outcome{Reply: msg})
	if !ok {
		t.Fatalf("%s: %x", w.pm.Name, msg)
	}
	head := slices.Clone(msg[:len(msg)-len(res)])
	r := xdr.NewReader(res)
	if version == rpcbind.Version2 {
		if port := r.Uint32(); port != uint32(w.rusersd()) {
			t.Errorf("%s: port %d, registered is %d", w.pm.Name, port, w.rusersd())
		}
		return append(xdr.AppendUint32(head, 0), r.Rest()...)
	}
	ap, _ := parseUAddr(string(rpcbind.ReadString(&r)))
	if ap.Port() != w.rusersd() {
		t.Errorf("%s: %v, registered is %d", w.pm.Name, ap, w.rusersd())
	}
	return append(xdr.AppendString(head, ap.Addr().String()), r.Rest()...)
}
