package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpcward/internal/firewall"
	"rpcward/internal/policy"
	"rpcward/internal/rollback"
	"rpcward/internal/rpcnames"
	"rpcward/internal/ruleset"
	"rpcward/rpcbind"
)

const showLong = `Show the rules that are in the kernel now: for each service its ports, who gets to
them, and how many packets were let through and dropped since the rule is there.

With --json the result is one object. Its fields stay, new ones may be added:
  backends   name state kept_by_guard services, state is missing, changed or in place
  services   name ports allowed allowed_packets allowed_bytes dropped_packets dropped_bytes
  trial      state outcome began due ended kept (whether a process waits for its end), or null`

func newFirewallShowCommand(stdout io.Writer) *cobra.Command {
	var (
		flags firewallFlags
		asJS  bool
	)
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what is in force, and what it has let through and dropped",
		Long:  showLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			var s *showJSON
			err := book().Calm(func() (err error) {
				s, err = flags.look(cmd.Context())
				return err
			})
			if err != nil {
				return err
			}
			out := bufio.NewWriter(stdout)
			if asJS {
				if err := writeJSON(out, s); err != nil {
					return err
				}
			} else {
				s.print(out)
			}
			return out.Flush()
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJS, "json", false, "print JSON")
	return cmd
}

// The JSON of `rpcward firewall show`, documented in its help.
type (
	showJSON struct {
		Backends []backendJSON `json:"backends"`
		Trial    *trialJSON    `json:"trial"`
	}
	backendJSON struct {
		Name     string        `json:"name"`
		State    string        `json:"state"`
		Guard    bool          `json:"kept_by_guard"`
		Services []inForceJSON `json:"services"`
		Strays   []string      `json:"strays,omitempty"`
	}
	inForceJSON struct {
		Name           string   `json:"name"`
		Ports          []string `json:"ports"`
		Allowed        []string `json:"allowed"`
		AllowedPackets uint64   `json:"allowed_packets"`
		AllowedBytes   uint64   `json:"allowed_bytes"`
		DroppedPackets uint64   `json:"dropped_packets"`
		DroppedBytes   uint64   `json:"dropped_bytes"`

		set *ruleset.Addresses
	}
	trialJSON struct {
		State   string    `json:"state"`
		Outcome string    `json:"outcome"`
		Began   time.Time `json:"began"`
		Due     time.Time `json:"due"`
		Ended   time.Time `json:"ended,omitzero"`
		Kept    bool      `json:"kept"`
	}
)

// present returns the backends to look at: those with rules of ours, or the one
// that --backend names.
func (c *firewallFlags) present() ([]string, error) {
	backend, _, err := c.pick()
	if err != nil {
		return nil, err
	}
	if c.backend != firewall.BackendAuto {
		return []string{backend}, nil
	}
	return firewall.InForce(firewall.Options{})
}

func (c *firewallFlags) look(ctx context.Context) (*showJSON, error) {
	list, err := c.present()
	if err != nil {
		return nil, err
	}
	names := c.serviceNames(ctx)
	s := &showJSON{Backends: []backendJSON{}}
	for _, backend := range list {
		b, err := lookAt(backend, names)
		if err != nil {
			return nil, err
		}
		if b.Name == firewall.BackendNFT {
			b.Guard = b.Guard || isOwned()
		} else {
			b.Guard = c.guardRuns(ctx)
		}
		s.Backends = append(s.Backends, *b)
	}
	t, kept, err := book().Last()
	switch {
	case err == nil:
		s.Trial = &trialJSON{State: t.State, Outcome: t.Outcome, Began: t.Began, Due: t.Due, Ended: t.Ended, Kept: kept}
	case !errors.Is(err, rollback.ErrNone):
		return nil, err
	}
	return s, nil
}

// isOwned reports whether another process keeps the table of nftables.
func isOwned() bool {
	fw, err := firewall.OpenNFT(firewall.Options{})
	if err != nil {
		return false
	}
	defer fw.Close()
	_, err = fw.Read()
	return errors.Is(err, firewall.ErrOwned)
}

// serviceNames says what is registered on each port, as far as anybody tells.
func (c *firewallFlags) serviceNames(ctx context.Context) map[ruleset.Port]string {
	names := map[ruleset.Port]string{
		{Proto: ruleset.TCP, Port: c.port}: serviceName(rpcbind.Program),
		{Proto: ruleset.UDP, Port: c.port}: serviceName(rpcbind.Program),
	}
	list, _, _ := c.registered(ctx) // what is not told has no name
	for _, r := range list {
		port, ok := ruleset.Registration{Program: r.Program, NetID: r.NetID, At: r.IP}.Key()
		name := serviceName(r.Program)
		if !ok || slices.Contains(strings.Split(names[port], ", "), name) {
			continue
		}
		if names[port] != "" {
			name = names[port] + ", " + name
		}
		names[port] = name
	}
	return names
}

// serviceName is what rules call a program, as in a plan.
func serviceName(program uint32) string {
	if program == rpcbind.Program {
		return policy.Names[0]
	}
	return append(rpcnames.Names(program), fmt.Sprint(program))[0]
}

func lookAt(backend string, names map[ruleset.Port]string) (*backendJSON, error) {
	fw, err := firewall.Open(backend, firewall.Options{Look: true})
	if err != nil {
		return nil, err
	}
	defer fw.Close()
	state, err := fw.Read()
	if err != nil {
		return nil, fmt.Errorf("reading the firewall: %w", err)
	}
	counters, err := fw.Counters()
	if err != nil {
		return nil, fmt.Errorf("reading counters: %w", err)
	}
	b := &backendJSON{Name: backend, State: state.Base.String(), Services: []inForceJSON{}, Strays: state.Strays}
	at := map[string]int{}
	for _, port := range state.SortedPorts() {
		chain := state.Ports[port]
		i, there := at[chain]
		if !there {
			i = len(b.Services)
			at[chain] = i
			word, _, _ := strings.Cut(chain, "_")
			set, seen := state.Sets[state.Chains[chain].Set], counters[chain]
			b.Services = append(b.Services, inForceJSON{
				Name: cmp.Or(names[port], word), Allowed: prefixNames(set), set: set,
				AllowedPackets: seen.Allowed.Packets, AllowedBytes: seen.Allowed.Bytes,
				DroppedPackets: seen.Dropped.Packets, DroppedBytes: seen.Dropped.Bytes,
			})
		}
		b.Services[i].Ports = append(b.Services[i].Ports, port.String())
	}
	return b, nil
}

func (s *showJSON) print(w io.Writer) {
	if len(s.Backends) == 0 {
		fmt.Fprintln(w, "No rules of rpcward are in the kernel: whoever the host's other rules let in gets to its RPC services.")
	}
	for i := range s.Backends {
		s.Backends[i].print(w)
	}
	if s.Trial != nil {
		fmt.Fprintf(w, "\n%s\n", s.Trial)
	}
}

func (b *backendJSON) print(w io.Writer) {
	by := ""
	if b.Guard {
		by = ", kept by a running guard"
	}
	fmt.Fprintf(w, "%s: %s%s\n\n", b.Name, b.State, by)
	for i := range b.Services {
		s := &b.Services[i]
		fmt.Fprintf(w, "%s (%s)\n    open to: %s\n    packets: %d let through, %d dropped\n",
			shown(s.Name), strings.Join(s.Ports, ", "), sources(true, s.set), s.AllowedPackets, s.DroppedPackets)
	}
	for _, stray := range b.Strays {
		fmt.Fprintf(w, "not ours: %s\n", shown(stray))
	}
	if b.State != ruleset.GoodBase.String() {
		fmt.Fprintln(w, "Nothing of it can be relied on: `rpcward firewall apply` puts it right.")
	}
}

// String words what became of the last change.
func (t *trialJSON) String() string {
	if t.State != rollback.Pending {
		return fmt.Sprintf("The last change by hand, of %s: %s (%s)", t.Began.Local().Format(time.DateTime), shown(t.Outcome), clock(t.Ended))
	}
	line := fmt.Sprintf("The change of %s is on trial: `rpcward firewall confirm` keeps it, else it is taken back at %s.", clock(t.Began), clock(t.Due))
	if t.Outcome != "" {
		line += "\nIt " + shown(t.Outcome)
	}
	if !t.Kept {
		line += "\nBut the process that waits for its end is gone: run `rpcward firewall confirm` or `rpcward firewall rollback`."
	}
	return line
}

func newFirewallRemoveCommand(stdout io.Writer) *cobra.Command {
	var flags firewallFlags
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Take all rules of rpcward out of the kernel, which opens the ports",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := flags.present()
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(stdout, "No rules of rpcward are in the kernel.")
				return nil
			}
			if err := flags.changeable(cmd.Context()); err != nil {
				return err
			}
			names := flags.serviceNames(cmd.Context())
			return owned(book().Drop("void, since all rules were removed", func() error {
				for _, backend := range list {
					if err := remove(stdout, backend, names); err != nil {
						return err
					}
				}
				return nil
			}))
		},
	}
	flags.add(cmd.Flags())
	return cmd
}

func remove(w io.Writer, backend string, names map[ruleset.Port]string) error {
	fw, err := firewall.Open(backend, firewall.Options{})
	if err != nil {
		return err
	}
	defer fw.Close()
	before, err := fw.Read()
	if err != nil {
		return fmt.Errorf("reading the firewall: %w", err)
	}
	if err := fw.Remove(); err != nil {
		return fmt.Errorf("removing the rules: %w", err)
	}
	left, err := fw.Read()
	if err != nil {
		return fmt.Errorf("reading the firewall: %w", err)
	}
	if none := (&ruleset.State{}); !left.Equal(none) {
		return fmt.Errorf("the rules are not all gone: %v", left)
	}
	fmt.Fprintf(w, "The rules of rpcward are removed (%s).\n", backend)
	for _, c := range ruleset.Changes(before, left) {
		c.Services = names[c.Port]
		fmt.Fprintln(w, "    "+c.String())
	}
	fmt.Fprintln(w, "Whoever the host's other rules let in gets to these ports now.")
	return nil
}
