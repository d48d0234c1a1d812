package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
	"rpcward/internal/control"
	"rpcward/internal/firewall"
	"rpcward/internal/guard"
	"rpcward/internal/registry"
	"rpcward/internal/rollback"
	"rpcward/internal/rpcnames"
	"rpcward/internal/ruleset"
	"rpcward/internal/sandbox"
	"rpcward/rpcbind"
)

const firewallLong = `Look at the kernel firewall that guards the registered services, and change it
without a running guard.

Each port that an RPC service registers is open to those whom /etc/hosts.allow and
/etc/hosts.deny let reach that service, and to nobody else. Services come and go on
other ports: rpcward guard follows them, what these commands apply does not.`

func newFirewallCommand(stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firewall",
		Short: "Plan, try, show and remove the kernel firewall for RPC services",
		Long:  firewallLong,
		Example: `  rpcward firewall plan                 # what would change, for whom
  rpcward firewall apply --confirm 60s  # taken back in a minute, unless
  rpcward firewall confirm              # you still get here and say so
  rpcward firewall show`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newFirewallPlanCommand(stdout),
		newFirewallApplyCommand(stdout),
		newFirewallConfirmCommand(stdout),
		newFirewallRollbackCommand(stdout),
		newFirewallKeepCommand(stderr),
		newFirewallShowCommand(stdout),
		newFirewallRemoveCommand(stdout),
		newFirewallExportCommand(stdout),
		newFirewallHookCommand(stdout),
	)
	return cmd
}

// book is where changes on trial are written down.
func book() *rollback.Book {
	return &rollback.Book{Dir: rollback.Dir, Open: func(backend string) (firewall.Firewall, error) {
		return firewall.Open(backend, firewall.Options{})
	}}
}

// backends are the values of --backend.
var backends = []string{firewall.BackendAuto, firewall.BackendNFT, firewall.BackendIPTablesNFT, firewall.BackendIPTablesLegacy}

// pick says which backend is meant, and why.
func (c *firewallFlags) pick() (backend, why string, err error) {
	switch {
	case !slices.Contains(backends, c.backend):
		return "", "", &usageError{&hintError{fmt.Errorf("no backend is called %q", c.backend), "there are " + strings.Join(backends, ", ")}}
	case !sandbox.HasCapability(unix.CAP_NET_ADMIN):
		return "", "", &hintError{errors.New("the firewall is not told to users without CAP_NET_ADMIN"), "run this as root; `rpcward firewall export` needs no rights"}
	case c.backend != firewall.BackendAuto:
		return c.backend, "as --backend says", nil
	}
	there, err := firewall.InForce(firewall.Options{})
	if err != nil {
		return "", "", err
	}
	if len(there) == 1 {
		return there[0], "rules of rpcward are there already", nil
	}
	d, err := firewall.Detect(firewall.Options{})
	return d.Backend, d.Why, err
}

// options are what else than policy and registrations decides on the firewall.
func (c *firewallFlags) options() (ruleset.Options, error) {
	mark, err := parseMark(c.mark)
	if err != nil {
		return ruleset.Options{}, &usageError{err}
	}
	return ruleset.Options{Mark: mark, Own: c.port}, nil
}

// rules makes a policy of the two files.
func (c *firewallFlags) rules(pair accessfile.Pair) (*ruleset.Policy, error) {
	verdict, err := parseDefault(c.defaultVerdict)
	if err != nil {
		return nil, &usageError{err}
	}
	for _, f := range []*accessfile.File{pair.Allow, pair.Deny} {
		if f.Fault != nil && f.State != accessfile.Missing {
			return nil, fmt.Errorf("reading %s: %w", f.Name, f.Fault)
		}
	}
	p, _, err := ruleset.NewPolicy(pair.Allow.File, pair.Deny.File, ruleset.PolicyOptions{Default: verdict, Names: rpcnames.Names})
	return p, err
}

// registered asks for the registrations. Without a port mapper there are none,
// which mapper tells.
func (c *firewallFlags) registered(ctx context.Context) (list []registry.Registration, mapper bool, err error) {
	list, err = guard.Registered(ctx, c.control, c.socket)
	if errors.Is(err, guard.ErrNoPortMapper) {
		return nil, false, nil
	}
	return list, err == nil, err
}

// planning is a plan, and what it was made of.
type planning struct {
	*guard.Plan
	fw      firewall.Firewall
	backend string
	why     string // the backend
	mapper  bool   // a port mapper told what is registered
}

// makePlan plans under the rules of pair. To look only is possible beside a
// running guard too. The caller closes fw.
func (c *firewallFlags) makePlan(ctx context.Context, pair accessfile.Pair, look bool) (*planning, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	p := &planning{}
	if p.backend, p.why, err = c.pick(); err != nil {
		return nil, err
	}
	policy, err := c.rules(pair)
	if err != nil {
		return nil, err
	}
	var list []registry.Registration
	if list, p.mapper, err = c.registered(ctx); err != nil {
		return nil, err
	}
	// One who is applying holds the table as a guard does.
	err = book().Calm(func() error {
		if p.fw, err = firewall.Open(p.backend, firewall.Options{Look: look}); err != nil {
			return err
		}
		if err := p.fill(policy, list, o, look); err != nil {
			p.fw.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *planning) fill(policy *ruleset.Policy, list []registry.Registration, o ruleset.Options, look bool) error {
	current, err := p.fw.Read()
	if err != nil {
		return owned(fmt.Errorf("reading the firewall: %w", err))
	}
	if p.Plan, err = guard.NewPlan(policy, current, list, o); err != nil {
		return err
	}
	if !look && !p.mapper && slices.ContainsFunc(current.SortedPorts(), func(q ruleset.Port) bool { return q.Port != ownPort(o) }) {
		return &hintError{errors.New("no port mapper answers, so that it is not known whose ports are guarded now"), "start the port mapper first, or `rpcward firewall remove`"}
	}
	return nil
}

func ownPort(o ruleset.Options) uint16 {
	if o.Own == 0 {
		return rpcbind.Port
	}
	return o.Own
}

// guardKeeps is firewall.ErrOwned for people.
type guardKeeps struct{}

func (guardKeeps) Error() string { return "a guard is running and keeps the rules" }
func (guardKeeps) Unwrap() error { return firewall.ErrOwned }

// owned adds advice where a guard is in the way.
func owned(err error) error {
	if errors.Is(err, firewall.ErrOwned) {
		return &hintError{guardKeeps{}, "it follows hosts.allow and the registered services by itself; end it first to do this by hand"}
	}
	return err
}

// guardRuns reports whether a port mapper of ours knows of a running guard.
// With nftables the kernel tells by itself.
func (c *firewallFlags) guardRuns(ctx context.Context) bool {
	client := control.NewClient(c.control)
	defer client.Close()
	s, err := client.Status(ctx)
	return err == nil && s.Guard != control.GuardNone
}

// changeable returns an error if a guard keeps the rules.
func (c *firewallFlags) changeable(ctx context.Context) error {
	if c.guardRuns(ctx) {
		return owned(firewall.ErrOwned)
	}
	return nil
}

// sources words who gets to a port.
func sources(guarded bool, a *ruleset.Addresses) string {
	switch {
	case !guarded:
		return "everybody (not guarded)"
	case slices.Equal(prefixNames(a), []string{"0.0.0.0/0", "::/0"}):
		return "everybody"
	}
	return a.String()
}

// printFindings lists findings about rules.
func printFindings(w io.Writer, found []hostsaccess.Diagnostic) {
	for i := range found {
		d := &found[i]
		fmt.Fprintf(w, "%s\n    so:  %s\n", shown(d.String()), shown(d.Consequence))
		if d.Hint != "" {
			fmt.Fprintf(w, "    fix: %s\n", shown(d.Hint))
		}
	}
}
