package ruleset

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"rpcward/internal/policy"
	"rpcward/rpcbind"
)

// drawAddresses draws a set of few prefixes, so that sets overlap and recur.
func drawAddresses(t *rapid.T) *Addresses {
	texts := []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.0.0/17", "10.1.128.0/17", "192.168.0.0/16", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48", "::/0", "10.1.1.7/32"}
	var list []netip.Prefix
	for _, s := range rapid.SliceOfN(rapid.SampledFrom(texts), 0, 3).Draw(t, "prefixes") {
		list = append(list, netip.MustParsePrefix(s))
	}
	return NewAddresses(list)
}

// drawState draws a state as Desired makes it.
func drawState(t *rapid.T) *State {
	b := builder{policy: BuiltIn(nil), state: (&State{Base: GoodBase}).Clone()}
	for range rapid.IntRange(0, 6).Draw(t, "ports") {
		if rapid.IntRange(0, 9).Draw(t, "mark?") == 0 {
			b.options.Mark = Mark{1, 255}
		}
		port := Port{rapid.SampledFrom([]Proto{TCP, UDP}).Draw(t, "proto"), rapid.Uint16Range(700, 704).Draw(t, "port")}
		b.point(port, rapid.SampledFrom([]string{"mountd", "nfs"}).Draw(t, "service"), drawAddresses(t))
	}
	return b.prune()
}

// prune removes what an earlier point for the same port left behind.
func (b *builder) prune() *State {
	s := &State{Base: GoodBase}
	s = s.Clone()
	for port, name := range b.state.Ports {
		c := b.state.Chains[name]
		s.Ports[port], s.Chains[name], s.Sets[c.Set] = name, c, b.state.Sets[c.Set]
	}
	return s
}

// tamper does to a state what others may do to the kernel's.
func tamper(t *rapid.T, s *State) *State {
	s = s.Clone()
	for range rapid.IntRange(0, 3).Draw(t, "deeds") {
		switch rapid.IntRange(0, 7).Draw(t, "deed") {
		case 0:
			s.Base = WrongBase
		case 1:
			s = (&State{}).Clone()
		case 2:
			for _, id := range s.SortedSets()[:min(1, len(s.Sets))] {
				s.Sets[id] = drawAddresses(t)
			}
		case 3:
			for _, id := range s.SortedSets()[:min(1, len(s.Sets))] {
				s.Sets[id] = nil
			}
		case 4:
			for _, name := range s.SortedChains()[:min(1, len(s.Chains))] {
				s.Chains[name] = Chain{Set: Unknown}
			}
		case 5:
			for _, port := range s.SortedPorts()[:min(1, len(s.Ports))] {
				delete(s.Ports, port)
			}
		case 6:
			s.Strays = append(s.Strays, "chain foreign")
		case 7:
			s.Sets["other"], s.Chains["other"] = drawAddresses(t), Chain{Set: "other"}
		}
	}
	return s
}

// opens says whether a source gets to a port, and whether that is known. With
// a wrong base, it does.
func opens(s *State, p Port, a netip.Addr) (open, known bool) {
	name, guarded := s.Ports[p]
	if !guarded || s.Base != GoodBase {
		return true, true
	}
	c := s.Chains[name]
	set, there := s.Sets[c.Set]
	return set.Contains(a), there && set != nil && c.Set != Unknown
}

// TestDiffNeverOpensOrDrops takes the steps one by one and looks at every probe
// on every port in between.
func TestDiffNeverOpensOrDrops(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t)
		old := tamper(t, before)
		desired := drawState(t)
		now := old.Clone()
		batches := Diff(old, desired)
		if len(batches) > 3 {
			t.Fatalf("%d batches", len(batches))
		}
		for i, batch := range batches {
			for j, step := range batch {
				checkUse(t, now, step)
				now.Apply(step)
				checkBetween(t, []*State{old, before, desired}, now, step)
				if (step.Op == AddSet) != (batch[0].Op == AddSet) || step.Op >= DelChain && batch[0].Op < DelChain {
					t.Fatalf("step %d of batch %d, %v, is in the wrong batch", j, i, step)
				}
			}
		}
		if !now.Equal(desired) || now.String() != desired.String() {
			t.Fatalf("ends in\n%v\nwant\n%v", now, desired)
		}
	})
}

// checkUse refuses steps that the kernel would refuse.
func checkUse(t *rapid.T, s *State, step Step) {
	used := false
	switch step.Op {
	case DelSet:
		for _, c := range s.Chains {
			used = used || c.Set == step.Name
		}
	case DelChain:
		for _, name := range s.Ports {
			used = used || name == step.Name
		}
	case AddChain, EditChain:
		_, there := s.Sets[step.Chain.Set]
		used = !there
	case SetPort:
		_, there := s.Chains[step.Name]
		used = !there
	}
	if used {
		t.Fatalf("%v: not possible in\n%v", step, s)
	}
}

func checkBetween(t *rapid.T, ends []*State, now *State, step Step) {
	for _, proto := range []Proto{TCP, UDP} {
		for number := uint16(700); number <= 704; number++ {
			p := Port{proto, number}
			for _, a := range probes {
				open, known := opens(now, p, a)
				allOpen, allClosed := true, true
				for _, end := range ends {
					o, k := opens(end, p, a)
					allOpen, allClosed = allOpen && o && k, allClosed && !o && k
				}
				if known && (open && allClosed || !open && allOpen) {
					t.Fatalf("after %v: %v from %v is open %v, in\n%v\nbetween\n%v\nand\n%v", step, p, a, open, now, ends[0], ends[2])
				}
			}
		}
	}
}

func TestDiffIsSmall(t *testing.T) {
	lan, wan := NewAddresses([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}), NewAddresses([]netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")})
	b := builder{policy: BuiltIn(nil), state: (&State{Base: GoodBase}).Clone()}
	b.point(Port{TCP, 700}, "nfs", lan)
	old := b.state.Clone()
	b.point(Port{UDP, 700}, "nfs", lan)
	if got := Diff(old, b.state); len(got) != 1 || len(got[0]) != 1 || got[0][0].Op != SetPort {
		t.Errorf("one more port: %v", got)
	}
	if got := Diff(b.state, old); len(got) != 1 || len(got[0]) != 1 || got[0][0].Op != DropPort {
		t.Errorf("one port less: %v", got)
	}
	if got := Diff(old, old.Clone()); len(got) != 0 {
		t.Errorf("nothing: %v", got)
	}
	c := builder{policy: BuiltIn(nil), state: (&State{Base: GoodBase}).Clone()}
	c.point(Port{TCP, 700}, "nfs", wan)
	var ops []Op
	for _, batch := range Diff(old, c.state) {
		for _, s := range batch {
			ops = append(ops, s.Op)
		}
	}
	if want := []Op{AddSet, AddChain, SetPort, DelChain, DelSet}; !slices.Equal(ops, want) {
		t.Errorf("another policy: %v, want %v", ops, want)
	}
	if got := Changes(old, c.state); len(got) != 1 || got[0].String() != "tcp 700 (nfs): opens to 11.0.0.0/8, closes to 10.0.0.0/8" {
		t.Errorf("changes: %v", got)
	}
	if got := Changes(&State{}, old); len(got) != 1 || got[0].String() != "tcp 700 (nfs): was not guarded, now open to 10.0.0.0/8" {
		t.Errorf("changes: %v", got)
	}
}

// slowContains is the twin of the set operations.
func slowContains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func TestAddressesAgreeWithTwin(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := probes[rapid.IntRange(0, len(probes)-1).Draw(t, "address")]
		return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
	})
	rapid.Check(t, func(t *rapid.T) {
		x, y := rapid.SliceOfN(prefix, 0, 8).Draw(t, "x"), rapid.SliceOfN(prefix, 0, 8).Draw(t, "y")
		a, b := NewAddresses(x), NewAddresses(y)
		var edges []netip.Addr
		for _, p := range append(slices.Clone(x), y...) {
			last := sibling(netip.PrefixFrom(p.Addr(), p.Addr().BitLen())).Addr()
			edges = append(edges, p.Addr(), p.Addr().Prev(), last)
		}
		for _, e := range append(edges, probes...) {
			if !e.IsValid() {
				continue
			}
			inX, inY := slowContains(x, e), slowContains(y, e)
			if a.Contains(e) != inX || a.Intersect(b).Contains(e) != (inX && inY) || a.Minus(b).Contains(e) != (inX && !inY) {
				t.Fatalf("%v: %v, %v: %v, both %v, minus %v", e, a, b, a.Contains(e), a.Intersect(b), a.Minus(b))
			}
		}
		if again := NewAddresses(a.IPv6(), a.IPv4()); !again.Equal(a) || again.ID() != a.ID() {
			t.Fatalf("%v is not %v", again, a)
		}
		if a.Equal(b) != (a.ID() == b.ID()) {
			t.Fatalf("%v and %v: equal %v, ids %s and %s", a, b, a.Equal(b), a.ID(), b.ID())
		}
	})
}

// BenchmarkDesired plans for a host with 1,000 registrations, when one more comes.
func BenchmarkDesired(b *testing.B) {
	p := parsePolicy(b, "portmap: 10.\nmountd: 10.1.\n", "", policy.Closed)
	var list []Registration
	for i := range uint16(1000) {
		list = append(list, at(200000+uint32(i), rpcbind.TCP, 10000+i/2), at(100005, rpcbind.UDP, 20000+i))
	}
	before, _ := p.Desired(list, Options{})
	list = append(list, at(100005, rpcbind.TCP, 9))
	for b.Loop() {
		after, _ := p.Desired(list, Options{})
		if len(Diff(before, after)) != 1 {
			b.Fatal("more than one batch")
		}
	}
}
