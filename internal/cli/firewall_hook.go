package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/internal/firewall"
	"rpcward/internal/ruleset"
)

const hookLong = `Print the lines with which the host's own firewall accepts what rpcward lets through.

The rules of rpcward only take away: a host whose own rules drop what they do not know
drops RPC packets of allowed clients too. With --mark, given here and to rpcward guard
or rpcward firewall apply, what is let through carries a mark, and one line accepts it.
Nothing is changed here.`

func newFirewallHookCommand(stdout io.Writer) *cobra.Command {
	var flags firewallFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "hook --mark MARK",
		Short: "Print the line for a firewall that drops by default, to accept what is let through",
		Long:  hookLong,
		Example: `  rpcward firewall hook --mark 0x100
  rpcward firewall apply --mark 0x100 --confirm 60s`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o, err := flags.options()
			if err != nil {
				return err
			}
			if o.Mark == (ruleset.Mark{}) {
				return &usageError{&hintError{errNoMark, "choose one that the host does not use: --mark 0x100, here and for guard and apply"}}
			}
			h := hook{mark: o.Mark}
			if all {
				h.all(stdout)
				return nil
			}
			if h.backend, _, err = flags.pick(); err != nil {
				return err
			}
			gates, err := firewall.Gates(firewall.Options{})
			if err != nil {
				return err
			}
			h.print(stdout, gates)
			return nil
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "print the lines for all firewalls, whether they are here or not")
	return cmd
}

var errNoMark = errors.New("packets that are let through have no mark, so that no rule can tell them")

// hook words lines that accept a mark.
type hook struct {
	mark    ruleset.Mark
	backend string // of our own rules
}

func (h *hook) print(w io.Writer, gates []firewall.Gate) {
	if len(gates) == 0 {
		fmt.Fprintln(w, "# Nothing on this host drops what rpcward lets through: no line is needed.")
		return
	}
	for i := range gates {
		fmt.Fprint(w, h.line(&gates[i]))
	}
}

// all prints lines for firewalls that need not be here.
func (h *hook) all(w io.Writer) {
	for _, g := range []firewall.Gate{
		{Program: "nft", Family: "inet", Table: "filter", Chain: "input", Drops: true},
		{Program: "iptables", Chain: "INPUT", Drops: true},
		{Program: "ip6tables", Chain: "INPUT", Drops: true},
		{Program: "iptables", Chain: "INPUT", UFW: true},
		{Program: "ip6tables", Chain: "INPUT", UFW: true},
		{Program: "iptables", Chain: "INPUT", FirewalldJump: true},
		{Program: "ip6tables", Chain: "INPUT", FirewalldJump: true},
		{Program: "nft", Family: "inet", Table: firewalldTable, Chain: "filter_INPUT", Drops: true},
	} {
		fmt.Fprint(w, h.line(&g))
	}
}

// firewalldTable is firewalld's table in nftables.
const firewalldTable = "firewalld"

// line is what one gate needs, with the reason as a comment.
func (h *hook) line(g *firewall.Gate) string {
	six := strings.HasPrefix(g.Program, "ip6tables")
	match := "-m mark --mark " + h.mark.String() + " -j ACCEPT"
	switch {
	case g.UFW:
		chain, file := "ufw-before-input", "/etc/ufw/before.rules"
		if six {
			chain, file = "ufw6-before-input", "/etc/ufw/before6.rules"
		}
		return fmt.Sprintf("# ufw filters with %s: now\n%[1]s -I %[2]s 1 %[3]s\n# and for good, into %[4]s above its last COMMIT:\n#   -A %[2]s %[3]s\n",
			g.Program, chain, match, file)
	case g.FirewalldJump:
		family := "ipv4"
		if six {
			family = "ipv6"
		}
		return fmt.Sprintf("# firewalld filters with %s\nfirewall-cmd --permanent --direct --add-rule %s filter INPUT 0 %s && firewall-cmd --reload\n", g.Program, family, match)
	case g.Program == firewall.BackendNFT:
		return h.nft(g)
	}
	position := 1
	if g.Program == h.backend || strings.Replace(g.Program, "ip6tables", "iptables", 1) == h.backend {
		position = 2 // behind the jump to ours, which sets the mark
	}
	return fmt.Sprintf("# %[1]s: INPUT %[2]s\n%[1]s -I INPUT %[3]d %[4]s\n", g.Program, whyGate(g), position, match)
}

func (h *hook) nft(g *firewall.Gate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# nftables: chain %s of table %s %s %s\n", g.Chain, g.Family, g.Table, whyGate(g))
	if g.Table == firewalldTable {
		b.WriteString("# firewalld forgets the line when it reloads, and refuses it with NftablesTableOwner=yes in firewalld.conf\n")
	}
	if g.Early {
		b.WriteString("# It comes before the rules of rpcward, when there is no mark yet: give it a priority above " + fmt.Sprint(ruleset.NFTPriority) + "\n")
	}
	fmt.Fprintf(&b, "nft insert rule %s %s %s meta mark and %#x == %#x accept\n", g.Family, g.Table, g.Chain, h.mark.Mask, h.mark.Value)
	return b.String()
}

func whyGate(g *firewall.Gate) string {
	if g.Drops {
		return "drops what no rule accepts"
	}
	return fmt.Sprintf("has %s, which may drop", count(max(g.Rules, 1), "rule"))
}
