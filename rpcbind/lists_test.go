package rpcbind

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/xdr"
)

func TestReadLists(t *testing.T) {
	mappings := []Mapping{{100000, 2, ProtTCP, 111}, {100003, 3, ProtUDP, 2049}}
	rpcbs := []RPCB[string]{{100000, 4, "tcp6", "::.0.111", "superuser"}, {1, 2, "", "", ""}}
	var m, p []byte
	for i := range mappings {
		m = AppendMapping(AppendMore(m, true), mappings[i])
		p = AppendRPCB(AppendMore(p, true), &rpcbs[i])
	}
	m, p = AppendMore(m, false), AppendMore(p, false)

	r := xdr.NewReader(m)
	if d := cmp.Diff(mappings, ReadMappings(&r)); d != "" || r.Err() != nil {
		t.Error(d, r.Err())
	}
	r = xdr.NewReader(p)
	if d := cmp.Diff(rpcbs, ReadRPCBs(&r)); d != "" || r.Err() != nil {
		t.Error(d, r.Err())
	}
	// Cut anywhere, the whole items are kept and the error is reported.
	for n := range len(p) {
		r := xdr.NewReader(p[:n])
		got := ReadRPCBs(&r)
		if !errors.Is(r.Err(), xdr.ErrShort) {
			t.Errorf("%d of %d bytes: error %v", n, len(p), r.Err())
		}
		if len(got) > len(rpcbs) || len(got) > 0 && got[0] != rpcbs[0] {
			t.Errorf("%d of %d bytes: %v", n, len(p), got)
		}
	}
}

// A list is as long as its bytes, not as its strings claim.
func FuzzReadLists(f *testing.F) {
	one := AppendRPCB(AppendMore(nil, true), &RPCB[string]{100000, 4, "tcp", "0.0.0.0.0.111", "superuser"})
	f.Add(AppendMore(one, false))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := xdr.NewReader(data)
		if n := len(ReadRPCBs(&r)); n > len(data)/24 {
			t.Errorf("%d registrations from %d bytes", n, len(data))
		}
		r = xdr.NewReader(data)
		if n := len(ReadMappings(&r)); n > len(data)/20 {
			t.Errorf("%d mappings from %d bytes", n, len(data))
		}
		r = xdr.NewReader(data)
		if n := len(ReadAddrEntries(&r)); n > len(data)/24 {
			t.Errorf("%d entries from %d bytes", n, len(data))
		}
		r = xdr.NewReader(data)
		s := ReadStat(&r)
		if n := len(s.Addrs) + len(s.Remote); n > len(data)/24+2 {
			t.Errorf("%d statistics from %d bytes", n, len(data))
		}
	})
}
