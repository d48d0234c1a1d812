package portmapper

import (
	"fmt"
	"sync"
	"testing"

	"rpcward/rpcbind"
)

// TestCountTableBounds: more names than there is room for are not counted, and
// those that are there go on being counted.
func TestCountTableBounds(t *testing.T) {
	var s Stats
	for i := range uint32(10_000) {
		s.countLookup(rpcbind.Version3, 300000+i, 1, rpcbind.TCP, true)
		s.countRemote(rpcbind.Version3, &rpcbind.RemoteCall{Program: 300000 + i}, rpcbind.UDP, false, false)
	}
	s.countLookup(rpcbind.Version3, 300000, 1, rpcbind.TCP, false)
	st := s.of(rpcbind.Version3).snapshot()
	if len(st.Addrs) != maxCounted || len(st.Remote) != maxCounted {
		t.Errorf("%d look-ups and %d remote calls by name, want %d", len(st.Addrs), len(st.Remote), maxCounted)
	}
	first := st.Addrs[len(st.Addrs)-1]
	if want := (rpcbind.AddrStat{Program: 300000, Version: 1, Success: 1, Failure: 1, NetID: "tcp"}); first != want {
		t.Errorf("the first name: %+v, want %+v", first, want)
	}
	if other := s.of(rpcbind.Version4).snapshot(); len(other.Addrs) != 0 {
		t.Errorf("version 4 counts what version 3 was asked: %+v", other.Addrs)
	}
	// The answer does not grow with what peers ask.
	if n := len(s.append(nil)); n > rpcbind.NumStats*maxCounted*(24+36+8) {
		t.Errorf("GETSTAT has %d bytes", n)
	}
}

// TestCountTableNames: every part of a name counts, and no name is found twice.
func TestCountTableNames(t *testing.T) {
	var table countTable
	seen := map[*counter]string{}
	for program := range uint32(3) {
		for version := range uint32(3) {
			for procedure := range uint32(3) {
				for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP} {
					name := counterName{program, version, procedure, n}
					c := table.find(name)
					if c == nil || c.counterName != name || table.find(name) != c {
						t.Fatalf("find(%v) = %+v", name, c)
					}
					if old, ok := seen[c]; ok {
						t.Errorf("%v has the counter of %s", name, old)
					}
					seen[c] = fmt.Sprint(name)
				}
			}
		}
	}
	if list := table.newestFirst(); len(list) != len(seen) || list[len(list)-1].counterName != (counterName{0, 0, 0, rpcbind.UDP}) {
		t.Errorf("%d counters listed, want %d, the first one last", len(list), len(seen))
	}
}

// TestCountTableShared: what several goroutines count is not lost.
func TestCountTableShared(t *testing.T) {
	var s Stats
	var wg sync.WaitGroup
	const each = 1000
	for range 4 {
		wg.Go(func() {
			for i := range uint32(each) {
				s.countLookup(rpcbind.Version2, i%200, 1, rpcbind.UDP, true)
			}
		})
	}
	wg.Wait()
	st := s.of(rpcbind.Version2).snapshot()
	if len(st.Addrs) != maxCounted {
		t.Fatalf("%d names, want %d", len(st.Addrs), maxCounted)
	}
	for _, a := range st.Addrs {
		if a.Success > 4*each/200 {
			t.Errorf("program %d: counted %d times", a.Program, a.Success)
		}
	}
}
