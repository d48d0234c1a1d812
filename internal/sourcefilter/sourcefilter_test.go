package sourcefilter

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// kernel runs a filter where it will run: on a socket, which here gets nothing
// but what the test sends.
type kernel struct {
	t       rapid.TB
	in, out int
}

func newKernel(t testing.TB) *kernel {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &kernel{t: t, in: fds[0], out: fds[1]}
}

func (k *kernel) load(program []bpf.Instruction) {
	k.t.Helper()
	raw, err := bpf.Assemble(program)
	if err != nil {
		k.t.Fatal(err)
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(raw)))}
	if err := unix.SetsockoptSockFprog(k.out, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		k.t.Fatalf("the kernel refuses a filter of %d instructions: %v", len(raw), err)
	}
}

// passes reports whether a packet that begins with addr gets through.
func (k *kernel) passes(addr netip.Addr) bool {
	k.t.Helper()
	if err := unix.Send(k.in, addr.AsSlice(), 0); err != nil {
		k.t.Fatal(err)
	}
	var buf [16]byte
	n, err := unix.Read(k.out, buf[:])
	if err != nil && err != unix.EAGAIN {
		k.t.Fatal(err)
	}
	return n > 0
}

// contains is the slow twin of a filter that has room for all.
func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		if p.Addr().Is6() && p.Bits() > 64 {
			p = netip.PrefixFrom(p.Addr(), 64).Masked()
		}
		return p.Contains(addr)
	})
}

func drawPrefix(t *rapid.T, is6 bool) netip.Prefix {
	size := 4
	if is6 {
		size = 16
	}
	// Few values, so that prefixes meet.
	bytes := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 127, 128, 254, 255}), size, size).Draw(t, "address")
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, rapid.IntRange(0, 8*size).Draw(t, "bits")).Masked()
}

// edges returns addresses in and around a prefix.
func edges(p netip.Prefix) []netip.Addr {
	first := p.Addr()
	last := lastOf(p)
	list := []netip.Addr{first, last}
	for _, a := range []netip.Addr{first.Prev(), last.Next()} {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// What the kernel passes is what the prefixes hold, as long as there is room.
func TestTreeInKernel(t *testing.T) {
	k := newKernel(t)
	for _, is6 := range []bool{false, true} {
		words, most := 1, maxRanges4
		if is6 {
			words, most = 2, maxRanges6
		}
		rapid.Check(t, func(t *rapid.T) {
			k.t = t
			prefixes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix { return drawPrefix(t, is6) }), 0, 30).Draw(t, "prefixes")
			all := ranges(prefixes, words, most)
			k.load(tree(all, 0))
			for _, p := range append(prefixes, drawPrefix(t, is6)) {
				for _, a := range edges(p) {
					if got, want := k.passes(a), contains(prefixes, a); got != want {
						t.Fatalf("%v passes: %v, want %v", a, got, want)
					}
				}
			}
		})
	}
}

// randomPrefixes are as many as there are rules on a large host, far apart.
func randomPrefixes(r *rand.Rand, n int, is6 bool) []netip.Prefix {
	list := make([]netip.Prefix, n)
	for i := range list {
		bytes := make([]byte, 4)
		bits := 8 + r.IntN(25)
		if is6 {
			bytes, bits = make([]byte, 16), 33+r.IntN(96)
		}
		for j := range bytes {
			bytes[j] = byte(r.Uint32())
		}
		addr, _ := netip.AddrFromSlice(bytes)
		list[i] = netip.PrefixFrom(addr, bits).Masked()
	}
	return list
}

// However many prefixes there are, the kernel takes the filter, all of them
// pass, and it still drops most of the rest.
func TestMorePrefixesThanRoom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	k := newKernel(t)
	for _, n := range []int{1, 127, 129, 257, 5000} {
		f := Filter{IPv4: randomPrefixes(r, n, false), IPv6: randomPrefixes(r, n, true), OneIn: 64}
		program, err := f.Program()
		if err != nil {
			t.Fatal(err)
		}
		if len(program) > unix.BPF_MAXINSNS {
			t.Errorf("%d prefixes: %d instructions", n, len(program))
		}
		for words, prefixes := range map[int][]netip.Prefix{1: f.IPv4, 2: f.IPv6} {
			all := ranges(prefixes, words, map[int]int{1: maxRanges4, 2: maxRanges6}[words])
			k.load(tree(all, 0))
			for _, p := range prefixes {
				if !k.passes(p.Addr()) || !k.passes(lastOf(p)) {
					t.Fatalf("%d prefixes: %v does not pass", n, p)
				}
			}
			passed := 0
			for range 1000 {
				if k.passes(randomPrefixes(r, 1, words == 2)[0].Addr()) {
					passed++
				}
			}
			if n <= 129 && passed > 900 {
				t.Errorf("%d prefixes: %d of 1000 other sources pass", n, passed)
			}
		}
	}
}

// Ranges that are all as far apart as each other are joined only as needed.
func TestCoarsenTies(t *testing.T) {
	var prefixes []netip.Prefix
	for i := range 200 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24))
	}
	if got := ranges(prefixes, 1, 150); len(got) != 150 {
		t.Errorf("200 ranges became %d, want 150", len(got))
	}
}

func TestNothingPasses(t *testing.T) {
	k := newKernel(t)
	k.load(tree(nil, 0))
	if k.passes(netip.MustParseAddr("10.0.0.1")) {
		t.Error("the filter of no prefix lets something pass")
	}
}

func BenchmarkProgram(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	f := Filter{IPv4: randomPrefixes(r, 10000, false), IPv6: randomPrefixes(r, 1000, true)}
	for b.Loop() {
		if _, err := f.Program(); err != nil {
			b.Fatal(err)
		}
	}
}
