package guard

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"rpcward/internal/control"
	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	udp700 = ruleset.Port{Proto: ruleset.UDP, Port: 700}
	tcp700 = ruleset.Port{Proto: ruleset.TCP, Port: 700}
)

func sockets(inodes ...uint32) []sockdiag.Socket {
	var list []sockdiag.Socket
	for _, i := range inodes {
		list = append(list, sockdiag.Socket{Inode: i})
	}
	return list
}

// A port that was given up is closed as long as one of the sockets is left that
// were seen there first.
func TestGraves(t *testing.T) {
	g := newGraves()
	if !g.bury(udp700) || g.bury(udp700) || !g.bury(tcp700) {
		t.Error("a port is buried once")
	}
	for i, step := range []struct {
		seen sighting
		want []ruleset.Port // that are free then
	}{
		{sighting{}, nil},
		{sighting{udp700: sockets(1, 2)}, nil},
		{sighting{udp700: sockets(2, 3)}, nil},
		{sighting{tcp700: nil}, []ruleset.Port{tcp700}}, // the service had closed it before
		{sighting{udp700: sockets(3)}, []ruleset.Port{udp700}},
		{sighting{udp700: sockets(1), tcp700: sockets(1)}, nil}, // not buried any more
	} {
		if diff := cmp.Diff(step.want, g.dig(step.seen)); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
	if left := g.ports(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What an ordinary user may close, by whose sockets are on the port.
func TestOwnerHolds(t *testing.T) {
	for _, c := range []struct {
		name string
		uids []uint32
		want bool
	}{
		{"nobody's", nil, true},
		{"the user's", []uint32{7}, true},
		{"the user's and another's", []uint32{8, 7}, true},
		{"another's", []uint32{8}, false},
		{"root's", []uint32{0}, false},
		{"root's and the user's", []uint32{7, 0}, false},
	} {
		var list []sockdiag.Socket
		for i, uid := range c.uids {
			list = append(list, sockdiag.Socket{UID: uid, Inode: uint32(i + 1)})
		}
		if got := ownerHolds(list, 7); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func registration(program uint32, n rpcbind.NetID, port uint16, owner string) registry.Registration {
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	return registry.Registration{Key: registry.Key{Program: program, Version: 1, NetID: n}, Addr: rpcbind.UAddr(ap), IP: ap, Owner: owner}
}

// Claims are asked about once, reviewed when there is news, and forgotten with
// their registration. What can't be looked at is guarded.
func TestClaims(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	on := map[uint16][]sockdiag.Socket{80: {{UID: 0, Inode: 1}}, 90: {{UID: 7, Inode: 2}}, 100: {{UID: 0, Inode: 0}}}
	asked := 0
	c := newClaims(func(_ rpcbind.NetID, port uint16) ([]sockdiag.Socket, error) {
		asked++
		if port == 110 {
			return nil, errors.New("the kernel does not tell")
		}
		return on[port], nil
	})
	all := []registry.Registration{
		registration(1, rpcbind.TCP, 80, "7"),  // root's
		registration(2, rpcbind.TCP, 90, "7"),  // his own
		registration(3, rpcbind.TCP, 100, "7"), // has a connection that nobody has accepted
		registration(4, rpcbind.TCP, 110, "7"), // not to be seen
		registration(5, rpcbind.TCP, 80, "superuser"),
		registration(6, rpcbind.TCP, 80, "unknown"),
	}
	programs := func() (list []uint32) {
		for _, r := range c.sift(t.Context(), log, all) {
			list = append(list, r.Program)
		}
		return list
	}
	want := []uint32{2, 3, 4, 5, 6}
	for range 2 {
		if diff := cmp.Diff(want, programs()); diff != "" {
			t.Error(diff)
		}
	}
	if asked != 4 {
		t.Errorf("asked %d times, want once for each claim", asked)
	}
	if !c.lost(ruleset.Port{Proto: ruleset.TCP, Port: 80}) || c.lost(ruleset.Port{Proto: ruleset.TCP, Port: 90}) {
		t.Error("the lost port is 80")
	}
	seen := sighting{{Proto: ruleset.TCP, Port: 80}: nil, {Proto: ruleset.TCP, Port: 90}: {{UID: 8, Inode: 3}}}
	if !c.review(t.Context(), log, seen) || c.review(t.Context(), log, seen) {
		t.Error("a review changes something when something has changed")
	}
	if diff := cmp.Diff([]uint32{1, 3, 4, 5, 6}, programs()); diff != "" {
		t.Error(diff)
	}
	all = all[4:]
	programs()
	if len(c.ports()) > 0 {
		t.Errorf("claims left: %v", c.ports())
	}
}

// A guard that does not know yet what is registered keeps what it found, but
// not what somebody changed.
func TestKeep(t *testing.T) {
	some := ruleset.NewAddresses([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	earlier := &ruleset.State{
		Base:   ruleset.WrongBase,
		Sets:   map[string]*ruleset.Addresses{some.ID(): some, "other": some, "unreadable": nil},
		Chains: map[string]ruleset.Chain{"good": {Set: some.ID()}, "set": {Set: "other"}, "chain": {Set: ruleset.Unknown}, "read": {Set: "unreadable"}},
		Ports: map[ruleset.Port]string{
			{Proto: ruleset.TCP, Port: 111}: "good", {Proto: ruleset.TCP, Port: 2049}: "good",
			{Proto: ruleset.TCP, Port: 1}: "set", {Proto: ruleset.TCP, Port: 2}: "chain", {Proto: ruleset.TCP, Port: 3}: "read", {Proto: ruleset.TCP, Port: 4}: "gone",
		},
	}
	var log bytes.Buffer
	g := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	g.state, g.policy = earlier, ruleset.BuiltIn(func(uint32) []string { return []string{"portmap"} })
	d := g.desired(context.Background())
	for port, want := range map[uint16]bool{111: false, 2049: true, 1: false, 2: false, 3: false, 4: false} {
		allowed, guarded := d.Allowed(ruleset.Port{Proto: ruleset.TCP, Port: port})
		if !guarded || allowed.Contains(netip.MustParseAddr("10.1.1.1")) != want {
			t.Errorf("port %d: guarded %v, %v; want open %v", port, guarded, allowed, want)
		}
	}
}

// Updates are put together, whatever somebody wrote into them.
func TestFollower(t *testing.T) {
	f := follower{known: map[registry.Key]registry.Registration{}}
	reg := func(program uint32, netid, addr string) control.Registration {
		return control.Registration{Program: program, Version: 1, NetID: netid, Addr: addr, Owner: "superuser"}
	}
	for i, step := range []struct {
		update control.Update
		news   bool
		want   int
	}{
		{control.Update{Epoch: "a", Seq: 1, Full: true, Changes: []control.Change{{Set: []control.Registration{reg(1, "tcp", "0.0.0.0.1.1"), reg(2, "tcp", "0.0.0.0.1.2"), reg(3, "carrier", "pigeon"), reg(3, "tcp", "pigeon")}}}}, true, 2},
		{control.Update{Epoch: "a", Seq: 1}, false, 2},
		{control.Update{Epoch: "a", Seq: 3, Changes: []control.Change{{Unset: []control.Key{{Program: 1, Version: 1, NetID: "tcp"}, {NetID: "pigeon"}}}, {Set: []control.Registration{reg(1, "udp", "0.0.0.0.1.1")}}}}, true, 2},
		{control.Update{Epoch: "b", Full: true}, true, 0},
	} {
		if news := f.take(&step.update); news != step.news || len(f.list()) != step.want || f.epoch != step.update.Epoch || f.seq != step.update.Seq {
			t.Errorf("step %d: news %v, %+v", i, news, f)
		}
	}
}

// A user who claims what is not his is named, once.
func TestClaimIsLogged(t *testing.T) {
	var log bytes.Buffer
	c := newClaims(func(rpcbind.NetID, uint16) ([]sockdiag.Socket, error) {
		return []sockdiag.Socket{{UID: 33, Inode: 1}}, nil
	})
	for range 3 {
		c.sift(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), []registry.Registration{registration(1, rpcbind.TCP, 8080, "1000")})
	}
	if text := log.String(); strings.Count(text, "not guarded") != 1 || !strings.Contains(text, "owner=1000 user=33") {
		t.Errorf("log: %s", text)
	}
}
