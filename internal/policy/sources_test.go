package policy

import (
	"net/netip"
	"slices"
	"testing"
)

// What Sources holds is what Decide answers, for policies of every kind.
func TestSourcesAgreeWithDecide(t *testing.T) {
	sources := []string{
		"10.0.0.1", "10.1.0.1", "10.1.255.255", "10.2.0.0", "192.0.2.1", "255.255.255.255", "0.0.0.0",
		"2001:db8::1", "2001:db8:1::1", "fe80::1", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	}
	for _, tt := range []struct {
		name, allow, deny string
		def               Default
		ok                bool
	}{
		{"nothing", "", "", Closed, true},
		{"nothing, open", "", "", Allow, true},
		{"a network", "portmap: 10.1.0.0/16\n", "", Closed, true},
		{"a network, open", "portmap: 10.1.0.0/16\n", "portmap: 10., [2001:db8::]/48\n", Allow, true},
		{"all but", "ALL: ALL EXCEPT 10.1.0.0/16 [2001:db8::]/32\n", "", Closed, true},
		{"all refused", "sshd: ALL\n", "ALL: ALL\n", Allow, true},
		{"names", "portmap: .example.com, 10.0.0.1\n", "portmap: bad.example.com\n", Closed, true},
		{"one address of ours", "portmap@10.255.0.1: 10.\n", "", Closed, false},
		{"a mask with a hole", "portmap: 10.0.0.1/255.0.0.255\n", "", Closed, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := parse(tt.allow, tt.deny, Options{Default: tt.def})
			if err != nil {
				t.Fatal(err)
			}
			checkSources(t, p, sources, tt.ok)
		})
	}
	t.Run("built in", func(t *testing.T) { checkSources(t, BuiltIn(), sources, true) })
}

func checkSources(t *testing.T, p *Policy, sources []string, wantOK bool) {
	v4, v6, ok := p.Sources()
	if ok != wantOK {
		t.Fatalf("ok is %v, want %v", ok, wantOK)
	}
	if !ok {
		return
	}
	all := slices.Concat(v4, v6)
	for _, s := range sources {
		o := network(s)
		in := slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(o.Source.Addr()) })
		if answered := p.Decide(o).Verdict == Answer; in != answered {
			t.Errorf("%s is in the sources: %v, is answered: %v", s, in, answered)
		}
	}
}
