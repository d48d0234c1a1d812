package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
	"rpcward/internal/firewall"
)

const protectLong = `Open this host's RPC services to networks and close them to everybody else, in one
step: writes who is let in to the port mapper into /etc/hosts.allow, shows what that
means for each registered service and who would be cut off, and puts the rules into
the kernel firewall, over UDP and TCP, IPv4 and IPv6.

Services that no rule names follow the port mapper's. Comments and layout of the file
stay, and the old one is kept beside it. Unless you run rpcward firewall confirm in
time, all of it is taken back: rules and file. On any error nothing is changed.

Services that register later on other ports are guarded by rpcward guard.`

// defaultTrial is how long protect waits for a confirmation.
const defaultTrial = time.Minute

func newProtectCommand(stdout io.Writer) *cobra.Command {
	a := &applying{stdout: stdout}
	var (
		allow  []string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "protect --allow NET...",
		Short: "Open RPC services to networks and close them to everybody else",
		Long:  protectLong,
		Example: `  rpcward protect --allow 192.168.1.0/24 2001:db8:1::/48
  rpcward firewall confirm
  rpcward protect --allow 10.0.0.0/8 --yes   # without a way back`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			a.stdin = cmd.InOrStdin()
			if a.yes {
				a.confirm = 0
			}
			if err := a.checkWait(); err != nil {
				return err
			}
			if len(allow) == 0 {
				return &usageError{&hintError{errors.New("--allow says who is let in"), "name a network, such as --allow 192.168.1.0/24"}}
			}
			targets, err := parseTargets(append(allow, args...))
			if err != nil {
				return err
			}
			return a.protect(cmd.Context(), targets, dryRun)
		},
	}
	a.flags.add(cmd.Flags())
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "address or `NETWORK` that is let in; more may follow")
	cmd.Flags().DurationVar(&a.confirm, "confirm", defaultTrial, "take all back after this `TIME` unless it is confirmed; 0 for never")
	cmd.Flags().BoolVarP(&a.yes, "yes", "y", false, "don't ask, and take nothing back")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be changed")
	return cmd
}

func parseTargets(addresses []string) (list []accessfile.Target, err error) {
	for _, text := range addresses {
		t, err := accessfile.ParseTarget(text)
		if err != nil {
			return nil, &usageError{err}
		}
		list = append(list, t)
	}
	return list, nil
}

func (a *applying) protect(ctx context.Context, targets []accessfile.Target, dryRun bool) error {
	edit, err := a.planEdit(targets)
	if err != nil {
		return err
	}
	p, err := a.plan(ctx, edited(a.flags.read(), edit))
	if errors.Is(err, firewall.ErrOwned) {
		return &hintError{guardKeeps{}, "it follows hosts.allow: `rpcward access allow portmap NETWORK` is all that is to be done"}
	}
	if err != nil {
		return err
	}
	defer p.fw.Close()
	if err := a.showEdit(edit); err != nil {
		return err
	}
	p.print(a.stdout)
	switch {
	case !p.Changes() && len(edit.Replacements) == 0:
		return nil
	case dryRun:
		fmt.Fprintln(a.stdout, "\nNothing was changed (--dry-run).")
		return nil
	case !a.agreed():
		fmt.Fprintln(a.stdout, "Nothing was changed.")
		return nil
	}
	err = a.try(p, edit.Replacements)
	if os.IsPermission(err) {
		return &hintError{err, "only root may edit it; --dry-run shows what would be changed"}
	}
	return err
}

// planEdit plans to let the targets in to the port mapper.
func (a *applying) planEdit(targets []accessfile.Target) (*accessfile.Plan, error) {
	s, err := accessfile.ParseService("portmap")
	if err != nil {
		return nil, err
	}
	plan, err := a.flags.read().Plan(s, hostsaccess.Allow, targets)
	if err != nil {
		return nil, err
	}
	for i := range plan.Replacements {
		plan.Replacements[i].Backup = true
	}
	return plan, nil
}

func (a *applying) showEdit(plan *accessfile.Plan) error {
	for i := range plan.Replacements {
		if err := writeDiff(a.stdout, &plan.Replacements[i]); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	for i := range plan.Effects {
		fmt.Fprintln(a.stdout, effectLine(plan.Service, &plan.Effects[i]))
	}
	fmt.Fprintln(a.stdout)
	return nil
}

// edited is the pair of files as the plan would leave them.
func edited(pair accessfile.Pair, plan *accessfile.Plan) accessfile.Pair {
	for _, f := range []**accessfile.File{&pair.Allow, &pair.Deny} {
		for _, r := range plan.Replacements {
			if r.Path == (*f).Name {
				*f = &accessfile.File{File: hostsaccess.Parse(r.Path, []byte(r.New))}
			}
		}
	}
	return pair
}
