package hostsaccess

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestShadowedRulesNeverAct decides about each address for each daemon: the
// rules that never decide are those that are said never to act.
func TestShadowedRulesNeverAct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allow, deny := Parse("hosts.allow", []byte(drawShadows(t, "allow"))), Parse("hosts.deny", []byte(drawShadows(t, "deny")))
		acts := map[*Rule]bool{}
		for _, daemon := range []string{"a", "b", "c", "nobody"} {
			m, _ := Compile(allow, deny, Options{Names: []string{daemon}})
			for last := range 8 {
				acts[m.Decide(netip.AddrFrom4([4]byte{10, 0, 0, byte(last)}), netip.Addr{}).Rule] = true
			}
			for _, a := range []string{"10.0.1.1", "::1"} { // outside of all networks
				acts[m.Decide(netip.MustParseAddr(a), netip.Addr{}).Rule] = true
			}
		}
		shadowed := map[*Rule]bool{}
		for _, d := range Check(allow, deny, Surroundings{}) {
			if d.Code == Shadowed {
				shadowed[d.Rule] = true
			}
		}
		for _, f := range []*File{allow, deny} {
			for _, r := range f.Rules {
				if acts[r] == shadowed[r] {
					t.Errorf("%v %q: acts %v, said to be shadowed %v", r, r.Text, acts[r], shadowed[r])
				}
			}
		}
		if t.Failed() {
			t.Logf("%s---\n%s", allow.Source, deny.Source)
		}
	})
}

// TestShadowWords says what an exception from a rule does to what is said of it.
func TestShadowWords(t *testing.T) {
	for _, tt := range []struct{ name, allow, deny, want string }{
		{"the same", "", "a: 10.0.0.0/8\na: 10.1.2.3\n", "info: hosts.deny:1 says the same of all its clients already"},
		{"otherwise", "a: 10.0.0.0/8\n", "a: 10.1.2.3\n", "warning: hosts.allow:1 says otherwise of all its clients before: this line refuses nobody"},
		{"the same but for an exception", "ALL: 127.0.0.1\nALL: ALL: deny\n", "ALL: ALL\n", "info: hosts.allow:2 and other rules decide for all its clients before"},
		{"names", "ALL: 127.0.0.1\nALL: ALL: deny\n", "ALL: PARANOID\n", "info: hosts.allow:2 and other rules decide for all its clients before"},
		{"the same but for a daemon", "sshd: ALL\nALL: ALL: deny\n", "ALL: ALL\n", "info: hosts.allow:2 and other rules decide for all its clients before"},
		{"otherwise but for a daemon", "sshd: ALL: deny\nALL: ALL\n", "ALL: ALL\n",
			"warning: hosts.allow:2 and other rules decide for all its clients before: this line refuses nobody"},
		{"otherwise but for an exception", "a: 10.1.2.3: deny\na: 10.0.0.0/8\n", "a: 10.0.0.0/8\n",
			"warning: hosts.allow:2 and other rules decide for all its clients before: this line refuses nobody"},
		{"otherwise for one of two", "a: 10.0.0.0/8: deny\na: 11.0.0.0/8\n", "a: 10.0.0.0/8 11.0.0.0/8\n",
			"warning: hosts.allow:2 and other rules decide for all its clients before: this line refuses nobody"},
		{"in two halves", "a: 10.0.0.0/9\na: 10.128.0.0/9\n", "a: 10.0.0.0/8\n",
			"warning: hosts.allow:1 and other rules decide for all its clients before: this line refuses nobody"},
		{"its network is excepted", "a: 10.1.0.0/16\n", "a: 10.1.0.0/16 10.0.0.0/8 EXCEPT 10.0.0.0/8 EXCEPT 10.1.0.0/16\n",
			"warning: hosts.allow:1 says otherwise of all its clients before: this line refuses nobody"},
	} {
		for _, d := range Check(Parse("hosts.allow", []byte(tt.allow)), Parse("hosts.deny", []byte(tt.deny)), Surroundings{}) {
			if got := d.Severity.String() + ": " + d.Consequence; d.Code == Shadowed && got != tt.want {
				t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
			} else if d.Code == Shadowed {
				tt.want = ""
			}
		}
		if tt.want != "" {
			t.Errorf("%s: not said: %s", tt.name, tt.want)
		}
	}
}

func drawShadows(t *rapid.T, file string) string {
	var text strings.Builder
	for range rapid.IntRange(0, 5).Draw(t, file) {
		n := func() netip.Prefix {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "octet"))})
			return netip.PrefixFrom(a, rapid.IntRange(29, 32).Draw(t, "bits")).Masked()
		}
		fmt.Fprintf(&text, "%s: %v %s%s\n", rapid.SampledFrom([]string{"a", "b", "a b", "ALL", "ALL EXCEPT a", "ALL EXCEPT a b EXCEPT b"}).Draw(t, "daemons"), n(),
			rapid.SampledFrom([]string{"", "ALL", n().String(), "EXCEPT " + n().String()}).Draw(t, "more"),
			rapid.SampledFrom([]string{"", " : deny", " : allow", " : severity info"}).Draw(t, "option"))
	}
	return text.String()
}
