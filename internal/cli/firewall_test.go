package cli

import (
	"net/netip"
	"strings"
	"testing"

	"rpcward/internal/firewall"
	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
)

// TestExportAdvice wants the ports in the advice that the rules are for.
func TestExportAdvice(t *testing.T) {
	at := func(program uint32, n rpcbind.NetID, port uint16) registry.Registration {
		return registry.Registration{Key: registry.Key{Program: program, Version: 1, NetID: n}, IP: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}
	}
	const again = "export again"
	for _, tt := range []struct {
		name     string
		list     []registry.Registration
		want     []string
		wantNone []string
	}{
		{"nothing moves", []registry.Registration{at(100003, rpcbind.TCP, 2049)}, []string{"nfs: tcp 2049"}, []string{"To keep them", "mountd"}},
		{"one port", []registry.Registration{at(100005, rpcbind.TCP, 4000), at(100005, rpcbind.UDP6, 4000)}, []string{"[mountd] port=4000,", "MNT_Port = 4000;"}, []string{again}},
		{"TCP only", []registry.Registration{at(100005, rpcbind.TCP6, 4000)}, []string{"[mountd] port=4000,"}, []string{again}},
		{"two ports where it has one option", []registry.Registration{at(100005, rpcbind.TCP, 4000), at(100005, rpcbind.UDP, 4001)}, []string{"[mountd] port=20048,", again}, nil},
		{"two ports where it has two options", []registry.Registration{at(100021, rpcbind.TCP, 4000), at(100021, rpcbind.UDP, 4001)},
			[]string{"[lockd] port=4000 and udp-port=4001", "nlm_tcpport=4000 nlm_udpport=4001", "fs.nfs.nlm_tcpport=4000 fs.nfs.nlm_udpport=4001"}, []string{again}},
		{"one for each family", []registry.Registration{at(100024, rpcbind.TCP, 4000), at(100024, rpcbind.TCP6, 4001)}, []string{"[statd] port=662,", again}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, format := range formats {
				e := export{format: format, state: &ruleset.State{}, list: tt.list, mapper: true}
				text := string(e.text())
				for _, w := range tt.want {
					if !strings.Contains(text, w) {
						t.Errorf("want %q in\n%s", w, text)
					}
				}
				for _, w := range tt.wantNone {
					if strings.Contains(text, w) {
						t.Errorf("%q in\n%s", w, text)
					}
				}
			}
		})
	}
}

// TestHookLines wants the line that fits each firewall.
func TestHookLines(t *testing.T) {
	const accept = "-m mark --mark 0x100/0xf00 -j ACCEPT\n"
	for _, tt := range []struct {
		name    string
		backend string
		gate    firewall.Gate
		want    string
	}{
		{"behind our own jump", "iptables-legacy", firewall.Gate{Program: "ip6tables-legacy", Drops: true}, "\nip6tables-legacy -I INPUT 2 " + accept},
		{"where ours is elsewhere", "nft", firewall.Gate{Program: "iptables-nft", Rules: 3}, "has 3 rules, which may drop\niptables-nft -I INPUT 1 " + accept},
		{"ufw", "iptables-nft", firewall.Gate{Program: "iptables-nft", UFW: true}, "\niptables-nft -I ufw-before-input 1 " + accept + "# and for good, into /etc/ufw/before.rules above its last COMMIT:\n#   -A ufw-before-input " + accept},
		{"ufw over IPv6", "iptables-nft", firewall.Gate{Program: "ip6tables-nft", UFW: true}, "/etc/ufw/before6.rules above its last COMMIT:\n#   -A ufw6-before-input " + accept},
		{"nft", "nft", firewall.Gate{Program: "nft", Family: "ip", Table: "filter", Chain: "in", Drops: true}, "\nnft insert rule ip filter in meta mark and 0xf00 == 0x100 accept\n"},
		{"nft before us", "nft", firewall.Gate{Program: "nft", Family: "inet", Table: "t", Chain: "in", Early: true}, "priority above -10\nnft insert rule inet t in"},
		{"firewalld by iptables", "iptables-nft", firewall.Gate{Program: "iptables-nft", FirewalldJump: true}, "--add-rule ipv4 filter INPUT 0 -m mark"},
		{"firewalld by nftables", "nft", firewall.Gate{Program: "nft", Family: "inet", Table: "firewalld", Chain: "filter_INPUT"}, "NftablesTableOwner"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := hook{mark: ruleset.Mark{Value: 0x100, Mask: 0xf00}, backend: tt.backend}
			if got := h.line(&tt.gate); !strings.Contains(got, tt.want) {
				t.Errorf("%s\nwant %q", got, tt.want)
			}
		})
	}
}
