package firewall

import (
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"

	"rpcward/internal/ruleset"
)

// Gate is a chain of the host's own firewall that packets to this host pass
// after ours, and that may drop what ours lets through.
type Gate struct {
	// Program is "nft", or the program that the chain is made with:
	// "iptables", "ip6tables", each with "-nft" or "-legacy" behind it.
	Program       string
	Family        string // of an nft table: "inet", "ip" or "ip6"
	Table, Chain  string
	Drops         bool // what no rule accepts
	Rules         int  // in the chain, without ours
	Early         bool // it comes before ours, so that a mark of ours is not there yet
	UFW           bool // ufw made it
	FirewalldJump bool // firewalld made it, and keeps a chain for direct rules in it
}

// Gates lists the gates of a host. It changes nothing.
func Gates(o Options) ([]Gate, error) {
	if o.Run == nil {
		o.Run = (*exec.Cmd).Run
	}
	list, err := nativeGates(o)
	if err != nil {
		return nil, err
	}
	for _, legacy := range []bool{true, false} {
		gates, _ := iptablesGates(o, legacy) // not installed: none
		list = append(list, gates...)
	}
	return list, nil
}

// families are those of nftables that see IP packets to this host.
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// nativeGates lists base chains that filter input and were not made by iptables
// or us.
func nativeGates(o Options) (list []Gate, err error) {
	conn, err := nftables.New(nftables.WithNetNSFd(o.NetNS))
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		input := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookInput && c.Type == nftables.ChainTypeFilter
		ours := c.Table.Name == ruleset.NFTTable || c.Table.Name == ruleset.NFTSpare
		iptables := c.Table.Family != nftables.TableFamilyINet && c.Name == "INPUT"
		if !input || families[c.Table.Family] == "" || ours || iptables {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		g := Gate{
			Program: BackendNFT, Family: families[c.Table.Family], Table: c.Table.Name, Chain: c.Name, Rules: len(rules),
			Drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
			Early: c.Priority != nil && *c.Priority <= ruleset.NFTPriority,
		}
		if g.Rules > 0 || g.Drops {
			list = append(list, g)
		}
	}
	return list, nil
}

// iptablesGates lists the INPUT chains of iptables that are in use. The save
// programs read, without a table's name, only tables that are there.
func iptablesGates(o Options, legacy bool) (list []Gate, err error) {
	o.Legacy, o.NoSets = legacy, true
	t, err := OpenIPTables(o)
	if err != nil {
		return nil, err
	}
	for _, f := range t.families {
		out, err := t.run(f, "save", nil)
		if err != nil {
			continue
		}
		g := Gate{Program: strings.TrimSuffix(t.program(f, "save"), "-save"), Table: "filter", Chain: "INPUT"}
		table := ""
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "*"):
				table = line
			case table != "*filter":
			case strings.HasPrefix(line, ":INPUT DROP"):
				g.Drops = true
			case strings.HasPrefix(line, "-A INPUT ") && !strings.HasSuffix(line, " "+ruleset.IPTablesInput):
				g.Rules++
				g.UFW = g.UFW || slices.Contains([]string{"ufw-before-input", "ufw6-before-input"}, lastWord(line))
				g.FirewalldJump = g.FirewalldJump || lastWord(line) == "INPUT_direct"
			}
		}
		if g.Rules > 0 || g.Drops {
			list = append(list, g)
		}
	}
	return list, nil
}

func lastWord(line string) string { return line[strings.LastIndexByte(line, ' ')+1:] }
