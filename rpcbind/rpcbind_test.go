package rpcbind_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/rpcbind"
	"rpcward/xdr"
)

func TestParseUAddr(t *testing.T) {
	tests := []struct {
		in   string
		want string // "" if it is none
	}{
		{"127.0.0.1.0.111", "127.0.0.1:111"},
		{"0.0.0.0.255.255", "0.0.0.0:65535"},
		{"10.1.2.3.8.1", "10.1.2.3:2049"},
		{"::.0.111", "[::]:111"},
		{"::1.3.4", "[::1]:772"},
		{"2001:db8::1.0.111", "[2001:db8::1]:111"},
		{"fe80::1%eth0.0.111", "[fe80::1%eth0]:111"},
		{"::ffff:10.1.2.3.0.111", "[::ffff:10.1.2.3]:111"},
		{"", ""},
		{"garbage", ""},
		{"1.2.3.4", ""},
		{"1.2.3.4.5", ""},
		{"1.2.3.4.5.", ""},
		{".1.2.3.4.5", ""},
		{"1.2.3.4.256.1", ""},
		{"1.2.3.4.-1.1", ""},
		{"1.2.3.4.+1.1", ""},
		{"256.2.3.4.0.1", ""},
		{"1.2.3.4.0.1.1", ""},
		{"1..3.4.0.1", ""},
		{"/run/rpcbind.sock", ""},
		{"::g.0.1", ""},
		{strings.Repeat("1", 5000) + ".0.1", ""},
		{strings.Repeat("1:", 500) + ".0.1", ""},
	}
	for _, tt := range tests {
		ap, ok := rpcbind.ParseUAddr([]byte(tt.in))
		got := ""
		if ok {
			got = ap.String()
		}
		if got != tt.want {
			t.Errorf("ParseUAddr(%q) = %q, want %q", tt.in, got, tt.want)
		}
		if ok && rpcbind.UAddr(ap) != tt.in {
			t.Errorf("UAddr(%v) = %q, want %q", ap, rpcbind.UAddr(ap), tt.in)
		}
	}
}

func TestUAddrDoesNotAllocate(t *testing.T) {
	in := []byte("192.168.1.77.200.11")
	buf := make([]byte, 0, 64)
	n := testing.AllocsPerRun(100, func() {
		ap, _ := rpcbind.ParseUAddr(in)
		buf = rpcbind.AppendUAddr(buf[:0], ap)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestNetIDs(t *testing.T) {
	for _, name := range []string{"tcp", "udp", "tcp6", "udp6", "local", "unix", "sctp", "sctp6", "rdma", "rdma6"} {
		n := rpcbind.ParseNetID(strings.ToUpper(name))
		if n.String() != name {
			t.Errorf("ParseNetID(%q) = %q", strings.ToUpper(name), n)
		}
		if tr := n.Transport(); tr.Family == "" || tr.Semantics == 0 {
			t.Errorf("%s has no description: %+v", name, tr)
		}
	}
	for _, name := range []string{"", "bogus", "tcp ", "tcp66", "\x00"} {
		if n := rpcbind.ParseNetID(name); n != rpcbind.NoNetID {
			t.Errorf("ParseNetID(%q) = %v, want none", name, n)
		}
	}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	if !rpcbind.UDP.Accepts(v4) || rpcbind.UDP.Accepts(v6) || !rpcbind.TCP6.Accepts(v6) || rpcbind.TCP6.Accepts(v4) {
		t.Error("a transport accepts addresses of another family, or not its own")
	}
	if rpcbind.Local.Accepts(v4) || rpcbind.NoNetID.Accepts(v4) || rpcbind.UDP.Accepts(netip.Addr{}) {
		t.Error("a transport without addresses accepts one")
	}
}

func TestStringsEndAtNUL(t *testing.T) {
	b := rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: 1, Version: 2, NetID: "udp\x00x", Addr: "\x00", Owner: "me"})
	r := xdr.NewReader(b)
	m := rpcbind.ReadRPCB(&r)
	if r.Err() != nil || string(m.NetID) != "udp" || string(m.Addr) != "" || string(m.Owner) != "me" {
		t.Errorf("read %+v, %v", m, r.Err())
	}
}

func TestLongestString(t *testing.T) {
	for _, tt := range []struct {
		n  int
		ok bool
	}{{rpcbind.MaxString, true}, {rpcbind.MaxString + 1, false}} {
		b := rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Owner: strings.Repeat("o", tt.n)})
		r := xdr.NewReader(b)
		rpcbind.ReadRPCB(&r)
		if (r.Err() == nil) != tt.ok {
			t.Errorf("owner of %d bytes: error %v", tt.n, r.Err())
		}
	}
}

func TestStatRoundTrip(t *testing.T) {
	want := rpcbind.Stat{
		Calls: [rpcbind.NumProcs]uint32{1, 2, 3}, Sets: 4, Unsets: 5,
		Addrs:  []rpcbind.AddrStat{{Program: 100003, Version: 3, Success: 1, Failure: 2, NetID: "udp"}},
		Remote: []rpcbind.RemoteStat{{Program: 100004, Version: 2, Procedure: 2, Success: 1, Failure: 2, Indirect: 3, NetID: "udp6"}},
	}
	r := xdr.NewReader(rpcbind.AppendStat(nil, &want))
	got := rpcbind.ReadStat(&r)
	if diff := cmp.Diff(want, got); diff != "" || r.Err() != nil || len(r.Rest()) != 0 {
		t.Errorf("error %v, %d bytes left, differs (-want +got):\n%s", r.Err(), len(r.Rest()), diff)
	}
}

func FuzzUAddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1.0.111", "::1.0.111", "fe80::1%eth0.3.4", "::ffff:1.2.3.4.0.1", "1.2.3.4.5.600"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		ap, ok := rpcbind.ParseUAddr(s)
		if !ok {
			return
		}
		again, ok := rpcbind.ParseUAddr(rpcbind.AppendUAddr(nil, ap))
		if !ok || again != ap {
			t.Errorf("%q parses as %v, and that as %v (%v)", s, ap, again, ok)
		}
	})
}

// FuzzRead reads arbitrary bytes as each of the protocol's items.
func FuzzRead(f *testing.F) {
	f.Add(rpcbind.AppendRPCB(nil, &rpcbind.RPCB[string]{Program: 100003, Version: 3, NetID: "udp", Addr: "0.0.0.0.8.1", Owner: "superuser"}))
	f.Add(rpcbind.AppendStat(nil, &rpcbind.Stat{Addrs: make([]rpcbind.AddrStat, 2)}))
	f.Add(rpcbind.AppendRemoteCall(nil, &rpcbind.RemoteCall{Program: 100004, Version: 2, Procedure: 1, Args: []byte("domain")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := xdr.NewReader(data)
		m := rpcbind.ReadRPCB(&r)
		if r.Err() == nil {
			again := xdr.NewReader(rpcbind.AppendRPCB(nil, &m))
			if diff := cmp.Diff(m, rpcbind.ReadRPCB(&again)); diff != "" {
				t.Errorf("round trip differs (-first +second):\n%s", diff)
			}
		}
		for _, read := range []func(*xdr.Reader){
			func(r *xdr.Reader) { rpcbind.ReadMapping(r) },
			func(r *xdr.Reader) { rpcbind.ReadRemoteCall(r) },
			func(r *xdr.Reader) { rpcbind.ReadAddrEntry(r) },
			func(r *xdr.Reader) { rpcbind.ReadStat(r) },
		} {
			r := xdr.NewReader(data)
			read(&r)
			if len(r.Rest()) > len(data) {
				t.Error("more bytes left than there were")
			}
		}
	})
}
