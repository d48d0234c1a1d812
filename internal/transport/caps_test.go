package transport

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"rpcward/internal/policy"
)

func from(addr string) policy.Origin {
	return policy.Origin{Source: netip.AddrPortFrom(netip.MustParseAddr(addr), 40000)}
}

// The shares leave descriptors for the superuser, whatever the limit is, and
// one source or user never takes the whole share of its kind.
func TestShares(t *testing.T) {
	for _, descriptors := range []uint64{0, 64, 128, 1024, 4096, 20000, 1 << 20, 1 << 30, ^uint64(0)} {
		s := sharesOf(descriptors)
		for name, n := range map[string]int{
			"network": s.network, "refused": s.refused, "loopback": s.loopback, "ordinary": s.ordinary,
			"per source": s.perSource, "per refused source": s.perRefused, "per user": s.perUser,
		} {
			if n < 1 {
				t.Errorf("%d descriptors: %s has %d", descriptors, name, n)
			}
		}
		if all := s.network + s.refused + s.loopback + s.ordinary; descriptors > 56 && uint64(all+reservedDescriptors) >= descriptors {
			t.Errorf("%d descriptors: %d for connections and %d reserved leave none", descriptors, all, reservedDescriptors)
		}
		if s.perSource >= s.network || s.perRefused >= s.refused || s.perUser >= s.ordinary {
			t.Errorf("%d descriptors: one takes all: %+v", descriptors, s)
		}
	}
}

// fill enters connections until one is refused, and returns how many got in.
func fill(c *connectionCaps, o policy.Origin, refused bool) (n int) {
	for c.enter(&o, refused) && n < 1<<17 {
		n++
	}
	return n
}

func TestCaps(t *testing.T) {
	local := func(uid uint32) policy.Origin { return policy.Origin{Channel: policy.Unix, UID: uid} }
	loopback := func(port uint16) policy.Origin {
		return policy.Origin{Channel: policy.Loopback, Source: netip.AddrPortFrom(netip.IPv6Loopback(), port), Privileged: port < 1024}
	}
	max := sharesOf(20000)
	for _, tt := range []struct {
		name    string
		first   policy.Origin
		refused bool
		want    int           // how many of the first get in
		then    policy.Origin // one more, while those are open
		thenIn  bool
	}{
		{"one source, then another", from("192.0.2.1"), false, max.perSource, from("192.0.2.2"), true},
		{"a /64, then the same", from("2001:db8::1"), false, max.perSource, from("2001:db8::ffff:1"), false},
		{"a /64, then the next", from("2001:db8::1"), false, max.perSource, from("2001:db8:0:1::1"), true},
		{"a refused source, then another", from("192.0.2.1"), true, max.perRefused, from("192.0.2.2"), true},
		{"a user, then another", local(1000), false, max.perUser, local(1001), true},
		{"a user, then root", local(1000), false, max.perUser, local(0), true},
		{"loopback, then the network", loopback(40000), false, max.loopback, from("192.0.2.2"), true},
		{"loopback, then root's port", loopback(40000), false, max.loopback, loopback(700), true},
		{"loopback, then the same", loopback(40000), false, max.loopback, loopback(40001), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConnectionCaps()
			c.max = max
			if n := fill(c, tt.first, tt.refused); n != tt.want {
				t.Errorf("%d got in, want %d", n, tt.want)
			}
			if in := c.enter(&tt.then, tt.refused); in != tt.thenIn {
				t.Errorf("the next one got in: %v, want %v", in, tt.thenIn)
			}
		})
	}
}

// However many strangers there are, those who are allowed get in.
func TestRefusedLeaveRoom(t *testing.T) {
	c := newConnectionCaps()
	c.max = sharesOf(1024)
	strangers := 0
	for a := netip.MustParseAddr("198.51.100.0"); strangers < 2000; a = a.Next() {
		o := policy.Origin{Source: netip.AddrPortFrom(a, 1)}
		c.enter(&o, true)
		strangers++
	}
	friend := from("192.0.2.1")
	if !c.enter(&friend, false) {
		t.Error("no room for an allowed client")
	}
	if c.now.refused != c.max.refused {
		t.Errorf("%d strangers are in, want %d", c.now.refused, c.max.refused)
	}
}

// What enters and leaves in any order is counted exactly.
func TestCapsCount(t *testing.T) {
	origins := []policy.Origin{
		from("192.0.2.1"), from("192.0.2.2"), from("2001:db8::1"), from("2001:db8::2"),
		{Channel: policy.Unix, UID: 1000}, {Channel: policy.Unix, UID: 1001}, {Channel: policy.Unix},
		{Channel: policy.Loopback, Source: netip.MustParseAddrPort("127.0.0.1:40000")},
		{Channel: policy.Loopback, Source: netip.MustParseAddrPort("127.0.0.1:700"), Privileged: true},
	}
	type connection struct {
		origin  policy.Origin
		refused bool
	}
	rapid.Check(t, func(t *rapid.T) {
		c := newConnectionCaps()
		c.max = shares{network: 6, refused: 3, loopback: 2, ordinary: 3, perSource: 3, perRefused: 2, perUser: 2}
		var open []connection
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				o := connection{rapid.SampledFrom(origins).Draw(t, "origin"), false}
				o.refused = o.origin.Channel == policy.Network && rapid.Bool().Draw(t, "refused")
				if c.enter(&o.origin, o.refused) {
					open = append(open, o)
				} else if uncapped(&o.origin) {
					t.Fatal("the superuser did not get in")
				}
			},
			"leave": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				c.leave(&open[i].origin, open[i].refused)
				open = append(open[:i:i], open[i+1:]...)
			},
			"": func(t *rapid.T) {
				var want shares
				for _, o := range open {
					switch {
					case uncapped(&o.origin):
					case o.origin.Channel == policy.Unix:
						want.ordinary++
					case o.origin.Channel == policy.Loopback:
						want.loopback++
					case o.refused:
						want.refused++
					default:
						want.network++
					}
				}
				if c.now != want {
					t.Fatalf("counted %+v, want %+v", c.now, want)
				}
				if want.network > c.max.network || want.refused > c.max.refused || want.loopback > c.max.loopback || want.ordinary > c.max.ordinary {
					t.Fatalf("%+v are open of at most %+v", want, c.max)
				}
				if len(open) == 0 && len(c.sources)+len(c.users) != 0 {
					t.Fatalf("remembered without need: %v, %v", c.sources, c.users)
				}
			},
		})
	})
}
