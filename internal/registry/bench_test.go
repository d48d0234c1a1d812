package registry

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"rpcward/rpcbind"
)

var sizes = []uint32{10, 1000, 100000}

// services returns n registrations, three of each service as NFS has them, in
// no order.
func services(n uint32) []Registration {
	rng := rand.New(rand.NewPCG(1, 1))
	programs := map[uint32]bool{rpcbind.Program: true}
	var list []Registration
	for uint32(len(list)) < n {
		program := rng.Uint32N(1 << 30)
		if programs[program] {
			continue
		}
		programs[program] = true
		for v := range min(3, n-uint32(len(list))) {
			list = append(list, reg(program, 2+v, rpcbind.TCP, 10, Superuser))
		}
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// mapTwin is what look-ups cost with Go's maps, which can't be changed while
// they are read.
type mapTwin struct {
	exact map[Key]*Registration
	last  map[Key]*Registration // version 0
}

func newMapTwin(s *Snapshot) *mapTwin {
	m := &mapTwin{map[Key]*Registration{}, map[Key]*Registration{}}
	for reg := range s.All() {
		m.exact[reg.Key] = reg
		m.last[Key{reg.Program, 0, reg.NetID}] = reg
	}
	return m
}

func (m *mapTwin) Lookup(k Key) *Registration {
	if r := m.exact[k]; r != nil {
		return r
	}
	return m.last[Key{k.Program, 0, k.NetID}]
}

// Look-ups in an order that no cache foresees. The registration is read, as
// its port is what the answer is made of.
func BenchmarkLookup(b *testing.B) {
	for _, n := range sizes {
		list := services(n)
		s := New(own, list, nil).Snapshot()
		for _, tt := range []struct {
			name string
			ask  func(*Key)
			miss bool
		}{
			{"exact", func(*Key) {}, false},
			{"fallback", func(k *Key) { k.Version += 100 }, false},
			{"miss", func(k *Key) { k.Program++ }, true},
		} {
			keys := make([]Key, n)
			for i, reg := range list {
				keys[i] = reg.Key
				tt.ask(&keys[i])
			}
			rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for name, lookup := range map[string]func(Key) *Registration{"trie": s.Lookup, "maps": newMapTwin(s).Lookup} {
				b.Run(fmt.Sprintf("%s/%s/%d", tt.name, name, n), func(b *testing.B) {
					b.ReportAllocs()
					sum, i := uint16(0), 0
					for b.Loop() {
						if i++; i == len(keys) {
							i = 0
						}
						if r := lookup(keys[i]); r != nil {
							sum += r.IP.Port()
						} else if !tt.miss {
							b.Fatal(keys[i])
						}
					}
				})
			}
		}
	}
}

// SET of a new program and UNSET of it again, saved nowhere.
func BenchmarkSetUnset(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := New(own, services(n), nil)
			b.ReportAllocs()
			for i := uint32(0); b.Loop(); i++ {
				program := 1<<31 + i*2654435761>>1
				r.Set(reg(program, 1, rpcbind.TCP, 10, Superuser))
				r.Unset(program, 1, nil, Superuser)
			}
		})
	}
}

// One program with all the versions.
func BenchmarkSetUnsetVersions(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var saved []Registration
			for v := range n {
				saved = append(saved, reg(7, v, rpcbind.TCP, 10, Superuser))
			}
			r := New(own, saved, nil)
			b.ReportAllocs()
			for i := uint32(0); b.Loop(); i++ {
				r.Set(reg(7, 1<<31+i, rpcbind.TCP, 10, Superuser))
				r.Unset(7, 1<<31+i, nil, Superuser)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			list := services(n)
			b.ReportAllocs()
			for b.Loop() {
				New(own, list, nil)
			}
		})
	}
}

// BenchmarkNetIDs finds a program's version on all netids, as GETADDRLIST does.
func BenchmarkNetIDs(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			list := services(n)
			s := New(own, list, nil).Snapshot()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for range s.NetIDs(list[i%len(list)].Program, 2) {
				}
			}
		})
	}
}
