package firewall

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// deeds are what others may do, by backend. CHAIN, SET and MARK stand for names
// of ours; ipset-del is done over netlink.
var deeds = map[string][]string{
	"nft": {
		"nft flush ruleset", "nft delete table inet rpcward", "nft flush table inet rpcward", "nft flush chain inet rpcward input",
		"nft insert rule inet rpcward input accept", "nft insert rule inet rpcward CHAIN accept", "nft flush chain inet rpcward CHAIN",
		"nft flush set inet rpcward SET_4", "nft flush map inet rpcward ports", "nft add chain inet rpcward other",
		"nft add set inet rpcward other { type ipv4_addr ; }", "nft delete element inet rpcward ports { udp . 111 }",
		"nft add element inet rpcward ports { udp . 112 : accept }", "nft flush chain inet rpcward port_udp_111",
		"nft add element inet rpcward SET_6 { 2001:db8:5::/64 }", "nft add element inet rpcward SET_4 { 10.99.1.0/24 }",
		"nft add table inet rpcward { flags dormant ; }", "nft add table inet rpcward-spare",
	},
	"iptables": {
		"iptables -F", "iptables -F INPUT", "ip6tables -F", "iptables -I INPUT -j ACCEPT", "ip6tables -I INPUT -p tcp -j ACCEPT", "iptables -D INPUT 1",
		"iptables -A INPUT -j RPCWARD-INPUT", "iptables -F RPCWARD-INPUT", "ip6tables -I RPCWARD-INPUT -j RETURN", "iptables -A RPCWARD-INPUT -j ACCEPT",
		"iptables -I CHAIN -j RETURN", "ip6tables -F CHAIN", "iptables -D RPCWARD-INPUT 3", "iptables -F MARK", "iptables -N RPCWARD-Mffffffffffffffff",
		"ipset-del SET_4", "ipset-del SET_6", "ipset-flush SET_4",
	},
}

// do does a deed on a host with a state of ours; false if it makes no sense there.
func do(t *testing.T, h *lab.Host, fw Firewall, s *ruleset.State, deed string) bool {
	t.Helper()
	tables, isIPTables := fw.(*IPTables)
	chain, set := s.SortedChains()[0], s.SortedSets()[0]
	chainName, setName := ruleset.NFTChain(chain), strings.TrimSuffix(ruleset.NFTSet(set, false), "_4")
	if isIPTables {
		chainName, setName = ruleset.IPTablesChain(chain), strings.TrimSuffix(ruleset.IPSet(set, false), "_4")
		kind := strings.TrimPrefix(fw.Name(), "iptables")
		deed = strings.Replace(deed, "tables ", "tables"+kind+" ", 1)
	}
	deed = strings.NewReplacer("CHAIN", chainName, "SET", setName, "MARK", ruleset.IPTablesMark(s.Chains[chain].Mark)).Replace(deed)
	f := strings.Fields(deed)
	if strings.HasPrefix(deed, "ipset") {
		if tables.sets == nil {
			return false
		}
		var err error
		if f[0] == "ipset-flush" {
			err = tables.sets.handle.IpsetFlush(f[1])
		} else {
			r, listErr := tables.sets.handle.IpsetList(f[1])
			if listErr != nil || len(r.Entries) == 0 {
				t.Fatal(deed, listErr)
			}
			err = tables.sets.handle.IpsetDel(f[1], &r.Entries[0])
		}
		if err != nil {
			t.Fatal(deed, err)
		}
		return true
	}
	h.MustRun(f[0], f[1:]...)
	return true
}

// TestForeignChanges: whatever others do to what is not protected from them, is
// noticed when it happens, and the next Apply puts it right.
func TestForeignChanges(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		h := lab.NewHost(t, "server")
		fw := b.on(t, h)
		kind := strings.Fields(b.name)[0]
		if n, ok := fw.(*NFT); ok {
			n.old = true // as on a kernel where tables have no owners
		} else {
			kind = "iptables"
		}
		s := desired(t, lan+"mountd: 10.99.0.2\n"+lots(6), ruleset.Options{Mark: ruleset.Mark{Value: 1, Mask: 1}}, nfs...)
		apply(t, fw, s)
		noticed := watch(t, fw)
		for _, deed := range deeds[kind] {
			noticed.reset()
			if !do(t, h, fw, s, deed) {
				continue
			}
			noticed.wait(t, deed)
			fw.Forget()
			if steps := apply(t, fw, s); len(steps) == 0 && !strings.Contains(deed, "spare") {
				t.Errorf("%s: nothing to do", deed)
			}
			wantState(t, fw, s)
			if steps := apply(t, fw, s); len(steps) > 0 {
				t.Errorf("%s: the second time: %v", deed, steps)
			}
		}
	})
}

// notices are the calls of a Watch.
type notices struct {
	mu   sync.Mutex
	list []Foreign
}

func (n *notices) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = nil
}

func (n *notices) wait(t *testing.T, what string) {
	t.Helper()
	lab.Eventually(t, "noticing "+what, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.list) == 0 {
			return errors.New("nothing was noticed")
		}
		return nil
	})
}

// watch watches until the test ends, and returns when it has begun.
func watch(t *testing.T, fw Firewall) *notices {
	t.Helper()
	n := &notices{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- fw.Watch(ctx, func(f Foreign) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.list = append(n.list, f)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("watching ended with %v", err)
		}
	})
	n.wait(t, "the start")
	return n
}

// Our own changes are no alarm, another's name is told.
func TestWatchTellsOwnFromForeign(t *testing.T) {
	h := lab.NewHost(t, "server")
	fw, err := OpenNFT(optionsOn(h))
	if err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	fw.old = true
	n := watch(t, fw)
	n.reset()
	apply(t, fw, desired(t, lan, ruleset.Options{}, nfs...))
	apply(t, fw, desired(t, lan, ruleset.Options{}))
	h.MustRun("nft", "add", "table", "inet", "other")
	h.MustRun("nft", "add", "chain", "inet", "rpcward", "other")
	n.wait(t, "nft")
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.list) != 1 || n.list[0].Process != "nft" || n.list[0].PID == 0 {
		t.Errorf("noticed %+v", n.list)
	}
}

// A table without an owner, such as an exported one, is replaced by one with,
// and nothing is open in between.
func TestTakingOverAnExportedTable(t *testing.T) {
	n := lab.NewNet(t)
	strangers := echo(t, n.Server, 700)
	s := desired(t, lan, ruleset.Options{}, tcpUDP(100005, 700)...)
	n.Server.WriteFile("/etc/rpcward.nft", string(s.NFT()))
	n.Server.MustRun("nft", "-f", "/etc/rpcward.nft")
	var strange []*flood
	for _, to := range []string{"10.98.0.1:700", "[fd98::1]:700"} {
		c, err := n.Stranger.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					c.Write([]byte("let me in"))
				}
			}
		}()
		strange = append(strange, &flood{stop: stop, done: done})
	}
	client := startFlood(t, n.Inside, netip.AddrPortFrom(lab.ServerIP, 700))
	for range 20 {
		fw, err := OpenNFT(optionsOn(n.Server))
		if err != nil {
			t.Fatal(err)
		}
		apply(t, fw, s)
		if !fw.Owned() {
			t.Fatal("not owned")
		}
		wantState(t, fw, s)
		if err := fw.rebuild(s); err != nil {
			t.Fatal(err)
		}
		fw.Forget()
		wantState(t, fw, s)
		fw.Close()
	}
	client.end()
	for _, f := range strange {
		f.end()
	}
	if client.sent.Load() < 1000 || client.lost.Load() > 0 || strangers.Load() > 0 {
		t.Errorf("of %d packets of the client %d were dropped, of the stranger's %d passed", client.sent.Load(), client.lost.Load(), strangers.Load())
	}
}

// TestKernelFollowsModel applies random states one after another and wants the
// kernel to hold each.
func TestKernelFollowsModel(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		h := lab.NewHost(t, "server")
		fw := b.on(t, h)
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			if n++; n > 25 {
				return // enough: programs are started for each
			}
			var list []ruleset.Registration
			for range rapid.IntRange(0, 6).Draw(rt, "registrations") {
				netid := rapid.SampledFrom([]rpcbind.NetID{rpcbind.TCP, rpcbind.UDP6, rpcbind.SCTP}).Draw(rt, "netid")
				list = append(list, at(rapid.SampledFrom([]uint32{100003, 100005, 4711}).Draw(rt, "program"), netid, rapid.Uint16Range(700, 703).Draw(rt, "port")))
			}
			rules := rapid.SampledFrom([]string{"", lan, allIn, lan + "mountd: 10.1. 10.2.3.4\n", "nfs: ALL EXCEPT 10.\n", "ALL: [2001:db8::]/32 0.0.0.0/1\n"}).Draw(rt, "rules")
			s := desired(t, rules, ruleset.Options{Mark: ruleset.Mark{Value: 3 * uint32(n&1), Mask: 7 * uint32(n&1)}}, list...)
			apply(t, fw, s)
			wantState(t, fw, s)
		})
	})
}

// After an error of the kernel the firewall goes on with a new connection.
func TestGoesOnAfterAnError(t *testing.T) {
	h := lab.NewHost(t, "server")
	fw, err := OpenNFT(optionsOn(h))
	if err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	s := desired(t, lan, ruleset.Options{}, nfs...)
	apply(t, fw, s)
	wrong := s.Clone()
	wrong.Ports[ruleset.Port{Proto: ruleset.TCP, Port: 9}] = "nowhere"
	if _, err := fw.Apply(wrong); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "port_tcp_9") {
		t.Errorf("a port without chain: %v", err)
	}
	wantState(t, fw, s)
	if steps := apply(t, fw, s); len(steps) != 0 || !fw.Owned() {
		t.Errorf("afterwards: %v, owned %v", steps, fw.Owned())
	}
	fw.raw.SetDeadline(time.Unix(1, 0)) // a lost answer
	fw.raw.Close()
	if _, err := fw.Apply(desired(t, lan, ruleset.Options{})); err == nil {
		t.Error("a dead connection works")
	} else if os.IsPermission(err) {
		t.Error(err)
	}
	wantState(t, fw, s)
}
