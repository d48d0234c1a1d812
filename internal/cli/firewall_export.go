package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
)

const exportLong = `Write the rules to a file, for hosts that will not run the guard: for nft -f, for
iptables-restore --noflush or for ip6tables-restore --noflush. Needs no rights.

Such rules are for the ports that services have now. Services that pick a port at each
start must be told to keep it; how is written into the file as a comment.`

// formats are the values of --format.
var formats = []string{"nft", "iptables", "ip6tables"}

func newFirewallExportCommand(stdout io.Writer) *cobra.Command {
	var (
		flags          firewallFlags
		format, output string
	)
	cmd := &cobra.Command{
		Use:   "export --format FORMAT",
		Short: "Write the rules to a file, for hosts that will not run the guard",
		Long:  exportLong,
		Example: `  rpcward firewall export --format nft -o /etc/nftables.d/rpcward.nft
  rpcward firewall export --format iptables -o rules.v4
  rpcward firewall export --format ip6tables -o rules.v6`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(formats, format) {
				return &usageError{&hintError{fmt.Errorf("--format %q is none", format), "there are " + strings.Join(formats, ", ")}}
			}
			o, err := flags.options()
			if err != nil {
				return err
			}
			policy, err := flags.rules(flags.read())
			if err != nil {
				return err
			}
			list, mapper, err := flags.registered(cmd.Context())
			if err != nil {
				return err
			}
			desired, found := policy.Desired(fixed(list), o)
			printFindings(cmd.ErrOrStderr(), found)
			e := export{format: format, state: desired, list: list, mapper: mapper}
			if output == "" || output == "-" {
				_, err = stdout.Write(e.text())
				return err
			}
			return os.WriteFile(output, e.text(), 0o644)
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().MarkHidden("backend") // says nothing about a file
	cmd.Flags().StringVar(&format, "format", "", "`FORMAT` of the file: nft, iptables or ip6tables")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write to")
	return cmd
}

// fixed is what the planner needs of registrations.
func fixed(list []registry.Registration) (out []ruleset.Registration) {
	for _, r := range list {
		out = append(out, ruleset.Registration{Program: r.Program, NetID: r.NetID, At: r.IP})
	}
	return out
}

// export is a file in the making.
type export struct {
	format string
	state  *ruleset.State
	list   []registry.Registration
	mapper bool
}

func (e *export) text() []byte {
	var b bytes.Buffer
	b.WriteString("# Who gets to the RPC services of this host, by `rpcward firewall export`.\n")
	e.usage(&b)
	if !e.mapper {
		b.WriteString("# No port mapper answered: only the port mapper's own port is in here.\n")
	}
	e.advice(&b)
	b.WriteString("\n")
	if e.format == "nft" {
		b.Write(e.state.NFT())
	} else {
		b.Write(e.state.IPTables(ruleset.IPTablesOptions{IPv6: e.format == "ip6tables"}))
	}
	return b.Bytes()
}

func (e *export) usage(w io.Writer) {
	if e.format == "nft" {
		fmt.Fprint(w, `# Load it with: nft -f FILE (again after a change: it replaces itself)
# Take it back with: nft delete table inet rpcward
`)
		return
	}
	other := map[string]string{"iptables": "IPv6 needs --format ip6tables", "ip6tables": "IPv4 needs --format iptables"}[e.format]
	fmt.Fprintf(w, `# Load it with: %[1]s-restore --noflush FILE (--noflush, or all other rules are gone)
# Before it is loaded again: %[1]s -D INPUT -j %[2]s
# This is one half: %[3]s, or everybody gets in there.
`, e.format, ruleset.IPTablesInput, other)
}

// fixing says how a service is told to keep its port.
type fixing struct {
	program uint32
	name    string
	usual   uint16 // a port that many sites give it
	how     string // with the port for UDP, and that for TCP, as %[1]d and %[2]d
}

// fixings are from nfs.conf(5), rpc.statd(8), lockd's parameters in the kernel's
// admin-guide/kernel-parameters.txt, and rpc.rquotad(8).
var fixings = []fixing{
	{100005, "mountd", 20048, "/etc/nfs.conf: [mountd] port=%[2]d, then restart the NFS server (ganesha: MNT_Port = %[2]d; in NFS_CORE_PARAM)"},
	{100024, "statd", 662, "/etc/nfs.conf: [statd] port=%[2]d, then restart rpc-statd"},
	{100021, "lockd", 32803, `/etc/nfs.conf: [lockd] port=%[2]d and udp-port=%[1]d (ganesha: NLM_Port = %[2]d;)
#     or, of the kernel's module: /etc/modprobe.d/lockd.conf: options lockd nlm_tcpport=%[2]d nlm_udpport=%[1]d
#     or, before the NFS server starts: sysctl fs.nfs.nlm_tcpport=%[2]d fs.nfs.nlm_udpport=%[1]d`},
	{100011, "rquotad", 875, "/etc/default/quota (or /etc/sysconfig/rpc-rquotad): RPCRQUOTADOPTS=\"-p %[2]d\" (ganesha: Rquota_Port = %[2]d;)"},
}

// advice says of each service that may move how to keep it where it is.
func (e *export) advice(w io.Writer) {
	ports := e.ports()
	fmt.Fprintln(w, "#\n# Ports when this was written:")
	for _, program := range slices.Sorted(maps.Keys(ports)) {
		fmt.Fprintf(w, "#   %s: %s\n", serviceName(program), strings.Join(portNames(ports[program]), ", "))
	}
	if !slices.ContainsFunc(fixings, func(f fixing) bool { return ports[f.program] != nil }) {
		return
	}
	fmt.Fprintln(w, "# A service that comes back on another port is open to everybody there. To keep them:")
	for _, f := range fixings {
		if len(ports[f.program]) == 0 {
			continue
		}
		udp, tcp, ok := f.keep(ports[f.program])
		again := ""
		if !ok {
			again = "\n#     and then export again, for it has other ports now"
		}
		fmt.Fprintf(w, "#   %s: %s%s\n", f.name, fmt.Sprintf(f.how, udp, tcp), again)
	}
}

// keep returns the ports that a service has and can keep; it is not ok if it
// can't keep what it has: several ports, or two where it can be told one.
func (f *fixing) keep(ports []ruleset.Port) (udp, tcp uint16, ok bool) {
	for _, p := range ports {
		is := &udp
		if p.Proto == ruleset.TCP {
			is = &tcp
		}
		if *is != 0 {
			return f.usual, f.usual, false
		}
		*is = p.Port
	}
	udp, tcp = cmp.Or(udp, tcp), cmp.Or(tcp, udp)
	if udp != tcp && !strings.Contains(f.how, "%[1]d") {
		return f.usual, f.usual, false
	}
	return udp, tcp, true
}

// ports lists the ports of each program, in order.
func (e *export) ports() map[uint32][]ruleset.Port {
	ports := map[uint32][]ruleset.Port{}
	for _, r := range fixed(e.list) {
		port, ok := r.Key()
		if ok && r.Program != rpcbind.Program && !slices.Contains(ports[r.Program], port) {
			ports[r.Program] = append(ports[r.Program], port)
			slices.SortFunc(ports[r.Program], ruleset.Port.Compare)
		}
	}
	for _, port := range e.state.SortedPorts() {
		if strings.Contains(e.state.Chains[e.state.Ports[port]].Services, "portmap") {
			ports[rpcbind.Program] = append(ports[rpcbind.Program], port)
		}
	}
	return ports
}
