package client_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
	"rpcward/test/lab"
)

// transports are the ways to ask the port mapper of a lab host from itself.
var transports = []struct {
	network, address string
	uaddr            string // that GetAddr finds the port mapper at
}{
	{"udp", "127.0.0.1", "127.0.0.1.0.111"},
	{"tcp", "127.0.0.1:111", "127.0.0.1.0.111"},
	{"udp6", "::1", "::1.0.111"},
	{"tcp6", "[::1]:111", "::1.0.111"},
	{"local", "", lab.Sock},
}

func dial(t *testing.T, h *lab.Host, network, address string) *client.Client {
	t.Helper()
	var c *client.Client
	err := h.Do(func() (err error) {
		c, err = client.Dial(t.Context(), network, address)
		return err
	})
	if err != nil {
		t.Fatalf("dialling %s %s: %v", network, address, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Every procedure over every transport, against the distribution's rpcbind.
func TestStock(t *testing.T) {
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	for _, tr := range transports {
		t.Run(tr.network, func(t *testing.T) {
			c := dial(t, h, tr.network, tr.address)
			testVersion2(t, c)
			for _, version := range []uint32{rpcbind.Version3, rpcbind.Version4} {
				testRPCB(t, c, version, tr.uaddr)
			}
			testVersion4(t, c)
			testErrors(t, c)
		})
	}
}

func testVersion2(t *testing.T, c *client.Client) {
	ctx := soon(t)
	m := rpcbind.Mapping{Program: 4242, Version: 1, Prot: rpcbind.ProtTCP, Port: 999}
	if err := c.Null(ctx, rpcbind.Version2); err != nil {
		t.Errorf("NULL: %v", err)
	}
	if ok, err := c.SetMapping(ctx, m); !ok || err != nil {
		t.Errorf("SET: %v, %v", ok, err)
	}
	if port, err := c.GetPort(ctx, m); port != 999 || err != nil {
		t.Errorf("GETPORT: %d, %v", port, err)
	}
	if list, err := c.DumpMappings(ctx); !slices.Contains(list, m) || err != nil {
		t.Errorf("DUMP: %v, %v", list, err)
	}
	if ok, err := c.UnsetMapping(ctx, m); !ok || err != nil {
		t.Errorf("UNSET: %v, %v", ok, err)
	}
	if port, err := c.GetPort(ctx, m); !errors.Is(err, client.ErrNotRegistered) {
		t.Errorf("GETPORT after UNSET: %d, %v", port, err)
	}
}

func testRPCB(t *testing.T, c *client.Client, version uint32, uaddr string) {
	ctx := soon(t)
	if err := c.Null(ctx, version); err != nil {
		t.Errorf("v%d NULL: %v", version, err)
	}
	self := &rpcbind.RPCB[string]{Program: rpcbind.Program, Version: version}
	if got, err := c.GetAddr(ctx, version, self); got != uaddr || err != nil {
		t.Errorf("v%d GETADDR: %q, %v, want %q", version, got, err, uaddr)
	}
	m := &rpcbind.RPCB[string]{Program: 4243, Version: version, NetID: "tcp", Addr: "0.0.0.0.3.7"}
	if ok, err := c.Set(ctx, version, m); !ok || err != nil {
		t.Errorf("v%d SET: %v, %v", version, ok, err)
	}
	list, err := c.Dump(ctx, version)
	registered := func(r rpcbind.RPCB[string]) bool {
		return r.Program == 4243 && r.NetID == "tcp" && r.Addr == "0.0.0.0.3.7"
	}
	if err != nil || !slices.ContainsFunc(list, registered) {
		t.Errorf("v%d DUMP: %v, %v", version, list, err)
	}
	if ok, err := c.Unset(ctx, version, m); !ok || err != nil {
		t.Errorf("v%d UNSET: %v, %v", version, ok, err)
	}
	now, err := c.GetTime(ctx, version)
	if d := time.Since(now); err != nil || d < -time.Minute || d > time.Minute {
		t.Errorf("v%d GETTIME: %v, %v", version, now, err)
	}
	if c.NetID().IsLocal() {
		return // rpcbind can't convert addresses of this transport
	}
	taddr, err := c.UAddr2TAddr(ctx, version, uaddr)
	if err != nil || len(taddr) == 0 {
		t.Errorf("v%d UADDR2TADDR: % x, %v", version, taddr, err)
	}
	if got, err := c.TAddr2UAddr(ctx, version, taddr); got != uaddr || err != nil {
		t.Errorf("v%d TADDR2UADDR: %q, %v", version, got, err)
	}
}

func testVersion4(t *testing.T, c *client.Client) {
	ctx := soon(t)
	self := &rpcbind.RPCB[string]{Program: rpcbind.Program, Version: 4}
	if got, err := c.GetVersAddr(ctx, self); got == "" || err != nil {
		t.Errorf("GETVERSADDR: %q, %v", got, err)
	}
	if got, err := c.GetVersAddr(ctx, &rpcbind.RPCB[string]{Program: rpcbind.Program, Version: 9}); !errors.Is(err, client.ErrNotRegistered) {
		t.Errorf("GETVERSADDR of another version: %q, %v", got, err)
	}
	family := c.NetID().Transport().Family
	list, err := c.GetAddrList(ctx, self)
	switch {
	case err == nil && len(list) == 0 && c.NetID().IsLocal(): // as rpcbind 1.2.6 answers
	case err != nil || len(list) == 0 || list[0].Family != family || list[0].Semantics == 0:
		t.Errorf("GETADDRLIST: %+v, %v", list, err)
	}
	stats, err := c.GetStat(ctx)
	if err != nil || stats[2].Calls[rpcbind.ProcGetAddrList] == 0 || stats[0].Sets == 0 {
		t.Errorf("GETSTAT: %+v, %v", stats, err)
	}
	if c.NetID() == rpcbind.UDP {
		// Built without remote calls, this rpcbind can only say so.
		_, _, err := c.Indirect(ctx, &rpcbind.RemoteCall{Program: rpcbind.Program, Version: 4})
		var re *oncrpc.ReplyError
		if !errors.As(err, &re) {
			t.Errorf("INDIRECT: %v", err)
		}
	}
}

func testErrors(t *testing.T, c *client.Client) {
	for _, tt := range []struct {
		program, version, procedure uint32
		args                        []byte
		want                        string
	}{
		{rpcbind.Program, 9, 0, nil, "RPC: Program/version mismatch; low version = 2, high version = 4"},
		{rpcbind.Program, 4, 77, nil, "RPC: Procedure unavailable"},
		{99, 1, 0, nil, "RPC: Program unavailable"},
	} {
		results, err := c.Call(soon(t), tt.program, tt.version, tt.procedure, tt.args)
		var re *oncrpc.ReplyError
		if !errors.As(err, &re) || re.Error() != tt.want {
			t.Errorf("%d/%d/%d: % x, %v, want %s", tt.program, tt.version, tt.procedure, results, err, tt.want)
		}
	}
	if _, err := c.Lookup(soon(t), 4244, 1); !errors.Is(err, client.ErrNotRegistered) {
		t.Errorf("looking up nothing: %v", err)
	}
}

func TestDialService(t *testing.T) {
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	for _, tr := range transports {
		var s *client.Client
		c := dial(t, h, tr.network, tr.address)
		err := h.Do(func() (err error) {
			s, err = c.DialService(soon(t), rpcbind.Program, rpcbind.Version3)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", tr.network, err)
			continue
		}
		defer s.Close()
		if err := s.Ping(soon(t), rpcbind.Program, rpcbind.Version3); err != nil || s.UAddr() != tr.uaddr {
			t.Errorf("%s: pinging %s: %v", tr.network, s.UAddr(), err)
		}
	}
}

// Root is known by its port over loopback: what it registers, others can't take.
func TestReservedPort(t *testing.T) {
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	for _, netid := range []rpcbind.NetID{rpcbind.TCP, rpcbind.UDP} {
		var c *client.Client
		err := h.Do(func() (err error) {
			c, err = client.Dialer{ReservedPort: true}.DialAddrPort(soon(t), netid, netip.MustParseAddrPort("127.0.0.1:111"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m := &rpcbind.RPCB[string]{Program: 4245, Version: uint32(netid), NetID: "tcp", Addr: "0.0.0.0.3.7"}
		if ok, err := c.Set(soon(t), rpcbind.Version4, m); !ok || err != nil {
			t.Fatalf("%v: SET: %v, %v", netid, ok, err)
		}
	}
	list, err := dial(t, h, "local", "").Dump(soon(t), rpcbind.Version3)
	if err != nil {
		t.Fatal(err)
	}
	owners := map[uint32]string{}
	for _, m := range list {
		if m.Program == 4245 {
			owners[m.Version] = m.Owner
		}
	}
	if d := cmp.Diff(map[uint32]string{uint32(rpcbind.TCP): "superuser", uint32(rpcbind.UDP): "superuser"}, owners); d != "" {
		t.Error(d)
	}
}

// A refusal by hosts.deny arrives as one, at once, and no other version is tried.
func TestDenied(t *testing.T) {
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	h.Deny("rpcbind: ALL")
	for _, network := range []string{"udp", "tcp"} {
		_, err := dial(t, h, network, "127.0.0.1").Lookup(soon(t), rpcbind.Program, 2)
		var re *oncrpc.ReplyError
		if !errors.As(err, &re) || re.Auth != oncrpc.AuthTooWeak {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestBroadcast(t *testing.T) {
	n := lab.NewNet(t)
	lab.StartPortMapper(t, n.Server, lab.Stock(t), "-r")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	seen := map[uint32]string{}
	err := n.Inside.Do(func() error {
		for a, err := range client.Broadcast(ctx, &rpcbind.RemoteCall{Program: rpcbind.Program, Version: 2}) {
			if err != nil {
				return err
			}
			if a.From.Addr() != lab.ServerIP {
				t.Errorf("answer from %v", a.From)
			}
			seen[a.Version] = a.UAddr
			if len(seen) == 2 {
				break
			}
		}
		return nil
	})
	if d := cmp.Diff(map[uint32]string{2: "10.99.0.1.0.111", 3: "10.99.0.1.0.111"}, seen); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestBroadcastNowhere(t *testing.T) {
	h := lab.NewHost(t, "alone")
	err := h.Do(func() error {
		for _, err := range client.Broadcast(t.Context(), &rpcbind.RemoteCall{Program: 1}) {
			return err
		}
		return nil
	})
	if !errors.Is(err, client.ErrNoBroadcast) {
		t.Error(err)
	}
}
