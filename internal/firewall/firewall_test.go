package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/internal/rpcnames"
	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// backend is one way into the kernel, for tests that hold for all of them.
type backend struct {
	name string
	open func(Options) (Firewall, error)
	set  func(*Options)
}

func openIPTables(o Options) (Firewall, error) { return OpenIPTables(o) }

var backends = []backend{
	{"nft", func(o Options) (Firewall, error) { return OpenNFT(o) }, func(*Options) {}},
	{"iptables-nft", openIPTables, func(*Options) {}},
	{"iptables-nft without sets", openIPTables, func(o *Options) { o.NoSets = true }},
	{"iptables-legacy", openIPTables, func(o *Options) { o.Legacy = true }},
	{"iptables-legacy without sets", openIPTables, func(o *Options) { o.Legacy, o.NoSets = true, true }},
}

// on opens the backend on a host, until the test ends.
func (b backend) on(t testing.TB, h *lab.Host) Firewall {
	t.Helper()
	o := optionsOn(h)
	b.set(&o)
	fw, err := b.open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fw.Close() })
	return fw
}

func optionsOn(h *lab.Host) Options {
	return Options{NetNS: h.NetNS(), Run: func(cmd *exec.Cmd) error {
		if err := h.Do(cmd.Start); err != nil {
			return err
		}
		return cmd.Wait()
	}}
}

// each runs a test for all backends.
func each(t *testing.T, f func(t *testing.T, b backend)) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "nft", "iptables-nft", "iptables-legacy")
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { f(t, b) })
	}
}

func at(program uint32, n rpcbind.NetID, port uint16) ruleset.Registration {
	return ruleset.Registration{Program: program, NetID: n, At: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}
}

// desired plans for the text of hosts.allow and some registrations.
func desired(t testing.TB, allow string, o ruleset.Options, list ...ruleset.Registration) *ruleset.State {
	t.Helper()
	p, _, err := ruleset.NewPolicy(hostsaccess.Parse("/etc/hosts.allow", []byte(allow)), nil, ruleset.PolicyOptions{Default: policy.Closed, Names: rpcnames.Names})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := p.Desired(list, o)
	return s
}

func apply(t testing.TB, fw Firewall, s *ruleset.State) []ruleset.Batch {
	t.Helper()
	steps, err := fw.Apply(s)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// wantState reads the kernel and compares.
func wantState(t testing.TB, fw Firewall, want *ruleset.State) {
	t.Helper()
	got, err := fw.Read()
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Fatalf("the kernel has\n%v\nwant\n%v", got, want)
	}
}

// lots returns the rules for n networks that don't touch, half of them of IPv6.
func lots(n int) string {
	var b strings.Builder
	for i := range n / 2 {
		fmt.Fprintf(&b, "portmap: 11.%d.%d.0/25 [2001:db8:%x:%x::]/65\n", i>>8, i&255, i>>8, i&255)
	}
	return b.String()
}

const (
	lan   = "portmap: 10.99.0.0/24 [fd99::]/64\n"
	allIn = "portmap: ALL\n"
)

var nfs = []ruleset.Registration{at(100003, rpcbind.TCP, 2049), at(100005, rpcbind.UDP, 20048), at(100005, rpcbind.TCP6, 20048), at(100021, rpcbind.SCTP, 4001)}

// TestApplyAndRead takes a firewall through the states of a host's life and
// reads each one back, by the same and by another connection.
func TestApplyAndRead(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		h := lab.NewHost(t, "server")
		fw := b.on(t, h)
		wantState(t, fw, &ruleset.State{})
		marked := ruleset.Options{Mark: ruleset.Mark{Value: 0x100, Mask: 0xf00}}
		for _, s := range []*ruleset.State{
			desired(t, lan, ruleset.Options{}),
			desired(t, lan, ruleset.Options{}, nfs...),
			desired(t, lan+"mountd: 10.99.0.2\n", ruleset.Options{}, nfs...),
			desired(t, allIn+"mountd: 10.99.0.2\nnfs: [fd99::]/64 10.99.0.0/25 10.99.0.128/26 255.255.255.255\n", ruleset.Options{}, nfs...),
			desired(t, lan+lots(200), marked, nfs...),
			desired(t, lan+lots(200), marked, nfs[:1]...),
			desired(t, "portmap: 10.\nmountd: 0.0.0.0/0\nnfs: [2001:db8::]/32\n", marked, nfs...),
			desired(t, "", ruleset.Options{Mark: marked.Mark, Tombstones: []ruleset.Port{{Proto: ruleset.UDP, Port: 20048}}}),
		} {
			steps := apply(t, fw, s)
			if len(steps) == 0 {
				t.Fatalf("nothing to do for\n%v", s)
			}
			if steps := apply(t, fw, s); len(steps) > 0 {
				t.Fatalf("the second time: %v", steps)
			}
			wantState(t, fw, s)
			if steps := apply(t, fw, s); len(steps) > 0 {
				t.Fatalf("after reading: %v", steps)
			}
		}
		if err := fw.Remove(); err != nil {
			t.Fatal(err)
		}
		wantState(t, fw, &ruleset.State{})
		nothingLeft(t, h)
		if err := fw.Remove(); err != nil {
			t.Errorf("removing what is not there: %v", err)
		}
	})
}

// nothingLeft looks for our names with the tools of others.
func nothingLeft(t testing.TB, h *lab.Host) {
	t.Helper()
	for _, cmd := range []string{"nft list ruleset", "iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		f := strings.Fields(cmd)
		if out := h.MustRun(f[0], f[1:]...); strings.Contains(strings.ToLower(out), "rpcward") {
			t.Errorf("%s:\n%s", cmd, out)
		}
	}
	if sets, err := ipsetNames(h.NetNS()); err != nil || len(sets) > 0 {
		t.Errorf("ipsets %v, %v", sets, err)
	}
}
