package daemon

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

func at(program uint32, n rpcbind.NetID, ap netip.AddrPort) registry.Registration {
	return registry.Registration{Key: registry.Key{Program: program, Version: 1, NetID: n}, Addr: rpcbind.UAddr(ap), IP: ap, Owner: "1000"}
}

// What has no socket twice is gone, and nothing else.
func TestReaper(t *testing.T) {
	live, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	dying, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stays, goes := netip.MustParseAddrPort(live.Addr().String()), netip.MustParseAddrPort(dying.LocalAddr().String())
	local := registry.Registration{Key: registry.Key{Program: 400003, Version: 1, NetID: rpcbind.Local}, Addr: "/run/gone.sock", Owner: "1000"}
	r := registry.New(nil, []registry.Registration{at(400001, rpcbind.TCP, stays), at(400002, rpcbind.UDP, goes), local}, nil)
	reap := reaper{registry: r, log: slog.New(slog.DiscardHandler)}
	check := func(when string, want int) {
		t.Helper()
		reap.look()
		if got := r.Snapshot().Len(); got != want {
			t.Errorf("%s: %d registrations, want %d", when, got, want)
		}
	}
	check("all bound", 3)
	check("still", 3)
	dying.Close()
	if first := at(400002, rpcbind.UDP, goes); !stale()(&first) {
		t.Error("a port without a socket is not stale")
	}
	check("gone once", 3)
	check("gone twice", 2)
	if r.Snapshot().Exact(at(400001, rpcbind.TCP, stays).Key) == nil {
		t.Error("the service that lives is gone")
	}
}

// A service that comes back in time keeps its registration.
func TestReaperSparesRestart(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ap := netip.MustParseAddrPort(c.LocalAddr().String())
	r := registry.New(nil, []registry.Registration{at(400002, rpcbind.UDP, ap)}, nil)
	reap := reaper{registry: r, log: slog.New(slog.DiscardHandler)}
	for range 2 {
		c.Close()
		reap.look()
		if c, err = net.ListenPacket("udp4", ap.String()); err != nil {
			t.Fatal(err)
		}
		reap.look()
	}
	c.Close()
	if r.Snapshot().Len() != 1 {
		t.Error("the registration is gone")
	}
}
