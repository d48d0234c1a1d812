package firewall

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// TestExport loads what is exported with the host's own tools and wants in the
// kernel what Apply would have put there.
func TestExport(t *testing.T) {
	states := []*ruleset.State{
		desired(t, "", ruleset.Options{}),
		desired(t, lan+"mountd: 10.99.0.2\n"+lots(100), ruleset.Options{Mark: ruleset.Mark{Value: 0x10, Mask: 0xff}}, nfs...),
		desired(t, allIn+"nfs: [fd99::]/64 10.99.0.0/25\n", ruleset.Options{Tombstones: []ruleset.Port{{Proto: ruleset.UDP, Port: 9}}}, nfs...),
	}
	eachExport(t, func(t *testing.T, b backend) {
		h := lab.NewHost(t, "server")
		fw := b.on(t, h)
		for i, s := range states {
			load(t, h, fw, s)
			wantState(t, fw, s)
			if steps := apply(t, fw, s); len(steps) > 0 {
				t.Errorf("state %d: not the same for Apply: %v", i, steps)
			}
			if err := fw.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// eachExport runs a test for the backends that text is exported for: text can't
// bring its ipsets.
func eachExport(t *testing.T, f func(*testing.T, backend)) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "nft", "iptables-nft", "iptables-legacy")
	for _, b := range backends {
		if b.name == "nft" || strings.HasSuffix(b.name, "without sets") {
			t.Run(b.name, func(t *testing.T) { f(t, b) })
		}
	}
}

// load checks a state's text and loads it.
func load(t testing.TB, h *lab.Host, fw Firewall, s *ruleset.State) {
	t.Helper()
	if fw.Name() == "nft" {
		h.WriteFile("/run/rules.nft", string(s.NFT()))
		h.MustRun("nft", "-c", "-f", "/run/rules.nft")
		h.MustRun("nft", "-f", "/run/rules.nft")
		h.MustRun("nft", "-f", "/run/rules.nft") // again, in the place of itself
		return
	}
	for _, six := range []bool{false, true} {
		program := fw.Name() + "-restore"
		if six {
			program = strings.Replace(program, "iptables", "ip6tables", 1)
		}
		h.WriteFile("/run/rules", string(s.IPTables(ruleset.IPTablesOptions{IPv6: six})))
		h.MustRun(program, "--test", "--noflush", "/run/rules")
		h.MustRun(program, "--noflush", "/run/rules")
	}
}

// TestExportDecidesAlike sends random datagrams to two servers, one with rules
// by Apply and one with exported ones, and wants both to take the same ones,
// and those that the model takes.
func TestExportDecidesAlike(t *testing.T) {
	const datagrams = 10_000
	eachExport(t, func(t *testing.T, b backend) {
		s := desired(t, "portmap: 10.1. [2001:db8::]/33\nmountd: 10.1.1. 10.2. EXCEPT 10.2.7.\nnfs: ALL EXCEPT 10.1.1. [2001:db8:8000::]/34\n", ruleset.Options{},
			at(100003, rpcbind.UDP, 701), at(100005, rpcbind.UDP6, 702), at(4711, rpcbind.UDP, 703))
		live, static := newTarget(t), newTarget(t)
		apply(t, b.on(t, live.server), s)
		load(t, static.server, b.on(t, static.server), s)
		random := rand.New(rand.NewPCG(1, 2))
		want := make([]bool, datagrams)
		for i := range datagrams {
			from, port := randomSource(random), uint16(700+random.IntN(5))
			allowed, guarded := s.Allowed(ruleset.Port{Proto: ruleset.UDP, Port: port})
			want[i] = !guarded || allowed.Contains(from)
			live.send(t, from, port, i)
			static.send(t, from, port, i)
		}
		gotLive, gotStatic := live.received(t, want), static.received(t, want)
		for i := range want {
			if gotLive[i] != want[i] || gotStatic[i] != want[i] {
				t.Fatalf("datagram %d: the model says %v, live rules %v, exported ones %v", i, want[i], gotLive[i], gotStatic[i])
			}
		}
	})
}

func randomSource(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, byte(1 + r.IntN(3)), byte(r.IntN(9)), byte(1 + r.IntN(254))})
	}
	a := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", []int{0, 0x4000, 0x8000, 0xa000, 0xc000}[r.IntN(5)])).As16()
	a[15] = byte(1 + r.IntN(254))
	return netip.AddrFrom16(a)
}

// target is a server that takes datagrams, and a sender that can claim any
// source.
type target struct {
	server *lab.Host
	sender [2]int // raw sockets, IPv4 and IPv6
	got    chan int
}

func newTarget(t *testing.T) *target {
	t.Helper()
	g := &target{server: lab.NewHost(t, "server"), got: make(chan int, 1<<16)}
	client := lab.NewHost(t, "client")
	lab.Join(t, g.server, "eth0", client, "eth0")
	for h, n := range map[*lab.Host]string{g.server: "1", client: "2"} {
		h.AddAddr("eth0", netip.MustParsePrefix("192.0.2."+n+"/24"), netip.MustParsePrefix("2001:db8:ffff::"+n+"/64"))
	}
	g.server.MustRun("ip", "route", "add", "default", "via", "192.0.2.2") // sources must have a way back
	for port := 700; port < 705; port++ {
		c, err := g.server.ListenPacket("udp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				i, err := strconv.Atoi(string(buf[:n]))
				if err != nil {
					i = 0 // not ours
				}
				g.got <- i
			}
		}()
	}
	err := client.Do(func() (err error) {
		for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if g.sender[i], err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(g.sender[i]) })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *target) send(t *testing.T, from netip.Addr, port uint16, i int) {
	t.Helper()
	to, fd := netip.MustParseAddr("192.0.2.1"), g.sender[0]
	if from.Is6() {
		to, fd = netip.MustParseAddr("2001:db8:ffff::1"), g.sender[1]
	}
	packet, dst := rawDatagram(from, to, port, fmt.Appendf(nil, "%06d", i))
	if err := unix.Sendto(fd, packet, 0, dst); err != nil {
		t.Fatal(err)
	}
}

// received says which datagrams came, after all that are wanted did and no more.
func (g *target) received(t *testing.T, want []bool) []bool {
	t.Helper()
	got := make([]bool, len(want))
	missing := 0
	for _, w := range want {
		if w {
			missing++
		}
	}
	for {
		wait := comesNever
		if missing > 0 {
			wait = comes
		}
		select {
		case i := <-g.got:
			got[i] = true
			missing--
		case <-time.After(wait):
			return got
		}
	}
}

func TestDetect(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "nft", "iptables-nft", "iptables-legacy")
	for _, tt := range []struct{ name, setup, want, why string }{
		{"nothing", "true", BackendNFT, "nothing filters"},
		{"nftables", "nft add table inet fw && nft 'add chain inet fw in { type filter hook input priority 0 ; policy drop ; }'", BackendNFT, "chain in in table fw"},
		{"iptables", "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT", BackendIPTablesNFT, "1 rules for INPUT"},
		{"ip6tables by policy", "ip6tables-nft -P INPUT DROP", BackendIPTablesNFT, "drops by default"},
		{"the older iptables", "iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT", BackendIPTablesLegacy, "iptables-legacy-save"},
		{"only forwarding", "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -j ACCEPT", BackendNFT, "nothing filters"},
		{"both", "iptables-legacy -A INPUT -j ACCEPT; nft add table ip fw && nft 'add chain ip fw in { type filter hook input priority 0 ; policy drop ; }'", BackendNFT, "table fw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := lab.NewHost(t, "server")
			h.MustRun("sh", "-c", tt.setup)
			for range 2 {
				d, err := Detect(optionsOn(h))
				if err != nil || d.Backend != tt.want || !strings.Contains(d.Why, tt.why) {
					t.Errorf("%+v, %v, want %s because of %q", d, err, tt.want, tt.why)
				}
				// What we do does not change what we find.
				fw, err := Open(BackendAuto, optionsOn(h))
				if err != nil {
					t.Fatal(err)
				}
				if fw.Name() != tt.want {
					t.Errorf("opened %s", fw.Name())
				}
				apply(t, fw, desired(t, lan, ruleset.Options{}))
				fw.Close()
			}
		})
	}
}
