package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpcward/internal/firewall"
	"rpcward/internal/guard"
	"rpcward/internal/ruleset"
)

const planLong = `Show what the firewall would be changed to: who gets to each service before and
after, which rule says so, and which clients that are using it now would be cut off.
Nothing is changed.

The exit code is 0 if nothing would change, 1 if something would, 2 for errors.

With --json the result is one object. Its fields stay, new ones may be added:
  backend, backend_why, port_mapper (whether one told what is registered), changes
  services   name ports guarded_before before guarded_after after changed why
  findings   file line severity code message consequence hint
  cut_off    address port services flows silent_seconds, which is null if not known
  udp_clients_known   false if the kernel tracks no connections
  text       the rules: nft, or iptables and ip6tables`

func newFirewallPlanCommand(stdout io.Writer) *cobra.Command {
	var (
		flags      firewallFlags
		text, asJS bool
	)
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what would change, for whom, and who would be cut off",
		Long:  planLong,
		Example: `  rpcward firewall plan
  rpcward firewall plan --text
  rpcward firewall plan --json | jq -r '.cut_off[].address'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := flags.makePlan(cmd.Context(), flags.read(), true)
			if err != nil {
				return &codedError{err, exitErrors}
			}
			defer p.fw.Close()
			out := bufio.NewWriter(stdout)
			if asJS {
				err = p.printJSON(out)
			} else {
				p.print(out)
				if p.Changes() {
					fmt.Fprintln(out, "\n`rpcward firewall apply --confirm 60s` makes the change, on trial.")
				}
				if text {
					fmt.Fprintf(out, "\n%s", p.text())
				}
			}
			if err == nil {
				err = out.Flush()
			}
			if err != nil {
				return &codedError{fmt.Errorf("writing: %w", err), exitErrors}
			}
			if p.Changes() {
				return exitCode(exitWarnings)
			}
			return nil
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().BoolVar(&text, "text", false, "print the rules too, as nft or iptables-restore read them")
	cmd.Flags().BoolVar(&asJS, "json", false, "print JSON")
	return cmd
}

// print says the plan in words.
func (p *planning) print(w io.Writer) {
	fmt.Fprintf(w, "backend: %s (%s)\n", p.backend, p.why)
	if !p.mapper {
		fmt.Fprintln(w, "no port mapper answers: which services run here, and on which ports, is not known")
	}
	fmt.Fprintln(w)
	for i := range p.Services {
		printService(w, &p.Services[i])
	}
	if len(p.Findings) > 0 {
		fmt.Fprintln(w)
		printFindings(w, p.Findings)
	}
	fmt.Fprintln(w)
	switch {
	case !p.Changes():
		fmt.Fprintln(w, "Nothing is to be changed.")
		return
	case p.Current.Base == ruleset.WrongBase:
		fmt.Fprintln(w, "Somebody changed the rules that rpcward had put here. They would be put right.")
	case !p.different():
		fmt.Fprintln(w, "The rules would be renewed; who gets to a service stays as it is.")
	}
	p.printCutOff(w)
	if !p.opens() {
		fmt.Fprintln(w, "No other host is let in at all: `rpcward protect --allow NETWORK` opens the services to one.")
	}
}

// different reports whether anything changes for anybody.
func (p *planning) different() bool {
	return slices.ContainsFunc(p.Services, func(s guard.PlannedService) bool { return s.Changed() })
}

// opens reports whether any other host gets to any service after the change.
func (p *planning) opens() bool {
	return slices.ContainsFunc(p.Services, func(s guard.PlannedService) bool { return s.Remains && s.After.Len() > 0 })
}

func printService(w io.Writer, s *guard.PlannedService) {
	fmt.Fprintf(w, "%s (%s)\n", shown(s.Name), strings.Join(portNames(s.Ports), ", "))
	before, after := sources(s.Guarded, s.Before), sources(s.Remains, s.After)
	if s.Changed() {
		fmt.Fprintf(w, "    now:  %s\n    then: %s\n", before, after)
	} else {
		fmt.Fprintf(w, "    stays: %s\n", after)
	}
	for _, why := range s.Why {
		fmt.Fprintf(w, "    why:  %s\n", shown(why))
	}
}

func (p *planning) printCutOff(w io.Writer) {
	if len(p.CutOff) > 0 {
		fmt.Fprintln(w, "These clients are using a service now and would be CUT OFF:")
	} else {
		fmt.Fprintln(w, "No client that is connected now would be cut off.")
	}
	for i := range p.CutOff {
		c := &p.CutOff[i]
		fmt.Fprintf(w, "    %v at %s (%v)", c.Addr, shown(c.Services), c.Port)
		if c.Flows > 1 {
			fmt.Fprintf(w, ", %s", count(c.Flows, "connection"))
		}
		fmt.Fprintln(w, lastHeard(c.Silent))
	}
	if !p.Tracked {
		fmt.Fprintln(w, "Clients that use UDP are not among them: the kernel tracks no connections here.")
	}
}

// lastHeard words how long ago a client was last heard.
func lastHeard(d time.Duration) string {
	switch {
	case d < 0:
		return ""
	case d < 2*time.Second:
		return ", last heard just now"
	}
	return fmt.Sprintf(", last heard %v ago", d.Round(time.Second))
}

// text is the rules as programs read them.
func (p *planning) text() []byte { return rulesText(p.backend, p.Desired) }

func rulesText(backend string, s *ruleset.State) []byte {
	if backend == firewall.BackendNFT {
		return s.NFT()
	}
	return bytes.Join([][]byte{
		[]byte("# iptables-restore --noflush\n"), s.IPTables(ruleset.IPTablesOptions{}),
		[]byte("\n# ip6tables-restore --noflush\n"), s.IPTables(ruleset.IPTablesOptions{IPv6: true}),
	}, nil)
}

// The JSON of `rpcward firewall plan`, documented in its help.
type (
	planJSON struct {
		Backend         string            `json:"backend"`
		BackendWhy      string            `json:"backend_why"`
		PortMapper      bool              `json:"port_mapper"`
		Changes         bool              `json:"changes"`
		Services        []serviceJSON     `json:"services"`
		Findings        []findingJSON     `json:"findings"`
		CutOff          []clientJSON      `json:"cut_off"`
		UDPClientsKnown bool              `json:"udp_clients_known"`
		Text            map[string]string `json:"text"`
	}
	serviceJSON struct {
		Name          string   `json:"name"`
		Ports         []string `json:"ports"`
		GuardedBefore bool     `json:"guarded_before"`
		Before        []string `json:"before"`
		GuardedAfter  bool     `json:"guarded_after"`
		After         []string `json:"after"`
		Changed       bool     `json:"changed"`
		Why           []string `json:"why"`
	}
	clientJSON struct {
		Address       string   `json:"address"`
		Port          string   `json:"port"`
		Services      string   `json:"services"`
		Flows         int      `json:"flows"`
		SilentSeconds *float64 `json:"silent_seconds"`
	}
)

func (p *planning) printJSON(w io.Writer) error {
	j := planJSON{
		Backend: p.backend, BackendWhy: p.why, PortMapper: p.mapper, Changes: p.Changes(), UDPClientsKnown: p.Tracked,
		Services: []serviceJSON{}, Findings: []findingJSON{}, CutOff: []clientJSON{}, Text: map[string]string{},
	}
	for i := range p.Services {
		s := &p.Services[i]
		j.Services = append(j.Services, serviceJSON{
			Name: s.Name, Ports: portNames(s.Ports), GuardedBefore: s.Guarded, Before: prefixNames(s.Before),
			GuardedAfter: s.Remains, After: prefixNames(s.After), Changed: s.Changed(), Why: s.Why,
		})
	}
	for i := range p.Findings {
		d := &p.Findings[i]
		j.Findings = append(j.Findings, findingJSON{
			File: d.File, Line: d.Pos.Line, Column: d.Pos.Column, Severity: d.Severity.String(), Code: string(d.Code),
			Message: d.Message, Consequence: d.Consequence, Hint: d.Hint,
		})
	}
	for _, c := range p.CutOff {
		client := clientJSON{Address: c.Addr.String(), Port: c.Port.String(), Services: c.Services, Flows: c.Flows}
		if c.Silent >= 0 {
			seconds := c.Silent.Seconds()
			client.SilentSeconds = &seconds
		}
		j.CutOff = append(j.CutOff, client)
	}
	if p.backend == firewall.BackendNFT {
		j.Text["nft"] = string(p.Desired.NFT())
	} else {
		j.Text["iptables"] = string(p.Desired.IPTables(ruleset.IPTablesOptions{}))
		j.Text["ip6tables"] = string(p.Desired.IPTables(ruleset.IPTablesOptions{IPv6: true}))
	}
	return writeJSON(w, j)
}

func writeJSON(w io.Writer, v any) error {
	j := json.NewEncoder(asciiWriter{w})
	j.SetIndent("", "  ")
	j.SetEscapeHTML(false)
	return j.Encode(v)
}

func portNames(list []ruleset.Port) []string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return names
}

func prefixNames(a *ruleset.Addresses) []string {
	names := []string{}
	for _, family := range [][]netip.Prefix{a.IPv4(), a.IPv6()} {
		for _, p := range family {
			names = append(names, p.String())
		}
	}
	return names
}
