package firewall

import (
	"strings"
	"testing"

	"rpcward/internal/ruleset"
)

// FuzzSaved reads what iptables-save may print. What is recognised as ours must
// render as the very rules that were read.
func FuzzSaved(f *testing.F) {
	base := ":INPUT ACCEPT [0:0]\n:RPCWARD-INPUT - [0:0]\n[0:0] -A INPUT -j RPCWARD-INPUT\n[1:2] -A RPCWARD-INPUT -i lo -j RETURN\n" +
		"[0:0] -A RPCWARD-INPUT -m addrtype --src-type LOCAL -j RETURN\n[0:0] -A RPCWARD-INPUT -p tcp -m tcp --dport 111 -j RPCWARD-nfs_1\n"
	f.Add(base+":RPCWARD-nfs_1 - [0:0]\n[3:4] -A RPCWARD-nfs_1 -s 10.0.0.0/8 -j RETURN\n[0:0] -A RPCWARD-nfs_1 -j DROP\n", false)
	f.Add(base+"-A RPCWARD-nfs_1 -m set --match-set rpcward-ab_4 src -g RPCWARD-M0000000100000001\n-A RPCWARD-nfs_1 -j DROP\n"+
		"-A RPCWARD-M0000000100000001 -j MARK --set-xmark 0x1/0x1\n", true)
	f.Add("[x:y] -A INPUT\n-A RPCWARD-\n-A RPCWARD-nfs_1 -s 10.0.0.0/99 -j DROP\n", false)
	f.Fuzz(func(t *testing.T, text string, sets bool) {
		s, err := parseSaved([]byte(text))
		if err != nil {
			return
		}
		o := ruleset.IPTablesOptions{Sets: sets}
		r := readFamily(s, o)
		for name, c := range r.chains {
			if !c.known {
				continue
			}
			a := ruleset.NewAddresses(c.list)
			if len(c.list) != a.Len() {
				continue // as others may write it
			}
			state := &ruleset.State{Sets: map[string]*ruleset.Addresses{"x": a}, Chains: map[string]ruleset.Chain{name: {Set: "x", Mark: c.mark}}}
			if sets {
				state.Chains[name] = ruleset.Chain{Set: c.set, Mark: c.mark}
			}
			if got := len(s.rules[ruleset.IPTablesChain(name)]); got != strings.Count(string(state.IPTables(o)), "-A "+ruleset.IPTablesChain(name)+" ") {
				t.Errorf("%q: %d rules were read as %+v", text, got, c)
			}
		}
		if r.base == ruleset.GoodBase && (s.jumps != 1 || len(s.rules[ruleset.IPTablesInput]) != len(r.ports)+2) {
			t.Errorf("%q: in place", text)
		}
	})
}
