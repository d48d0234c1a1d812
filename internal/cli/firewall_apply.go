package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rpcward/internal/accessfile"
	"rpcward/internal/daemon"
	"rpcward/internal/rollback"
)

const applyLong = `Put the rules into the kernel, once: services that register later are not guarded
until it is done again, or rpcward guard runs.

With --confirm they are on trial: unless somebody runs rpcward firewall confirm in
time, exactly what was there before comes back. That is done by a process of its own
(a transient unit where systemd runs), so it happens even if this command, the
terminal or the connection is gone. rpcward firewall show tells what came of it.`

// applying is one run of `rpcward firewall apply` or `rpcward protect`.
type applying struct {
	flags   firewallFlags
	confirm time.Duration
	yes     bool
	stdin   io.Reader
	stdout  io.Writer
}

func newFirewallApplyCommand(stdout io.Writer) *cobra.Command {
	a := &applying{stdout: stdout}
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Put the rules into the kernel, once, and take them back unless confirmed",
		Long:  applyLong,
		Example: `  rpcward firewall apply --confirm 60s
  rpcward firewall confirm`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.stdin = cmd.InOrStdin()
			if err := a.checkWait(); err != nil {
				return err
			}
			return a.run(cmd.Context())
		},
	}
	a.flags.add(cmd.Flags())
	cmd.Flags().DurationVar(&a.confirm, "confirm", 0, "take the rules back after this `TIME` unless they are confirmed")
	cmd.Flags().BoolVarP(&a.yes, "yes", "y", false, "don't ask")
	return cmd
}

// shortestTrial leaves time to type a command.
const shortestTrial = time.Second

func (a *applying) checkWait() error {
	if a.confirm != 0 && a.confirm < shortestTrial {
		return &usageError{&hintError{fmt.Errorf("--confirm %v leaves no time to confirm", a.confirm), "write a time such as 60s or 5m"}}
	}
	return nil
}

// free returns an error if a guard keeps the rules, or a change is on trial.
func (a *applying) free(ctx context.Context) error {
	if err := a.flags.changeable(ctx); err != nil {
		return err
	}
	if t, _, err := book().Last(); err == nil && t.State == rollback.Pending {
		return onTrial(t)
	}
	return nil
}

func onTrial(t *rollback.Trial) error {
	return &hintError{fmt.Errorf("the change of %s is still on trial, until %s", clock(t.Began), clock(t.Due)),
		"`rpcward firewall confirm` keeps it, `rpcward firewall rollback` takes it back at once"}
}

// plan makes a plan that can be carried out.
func (a *applying) plan(ctx context.Context, pair accessfile.Pair) (*planning, error) {
	if err := a.free(ctx); err != nil {
		return nil, err
	}
	return a.flags.makePlan(ctx, pair, false)
}

func (a *applying) run(ctx context.Context) error {
	p, err := a.plan(ctx, a.flags.read())
	if err != nil {
		return err
	}
	defer p.fw.Close()
	if !p.Changes() {
		if err := a.free(ctx); err != nil { // somebody else has just made it, on trial
			return err
		}
	}
	p.print(a.stdout)
	if !p.Changes() {
		return nil
	}
	if !a.agreed() {
		fmt.Fprintln(a.stdout, "Nothing was changed.")
		return nil
	}
	return a.try(p, nil)
}

// agreed asks who sits at the terminal, if there is no way back and nobody has
// said that none is needed.
func (a *applying) agreed() bool {
	if _, there := terminal(a.stdin); !there || a.yes || a.confirm > 0 {
		return true
	}
	fmt.Fprintln(a.stdout, "\nThere is no way back by itself: --confirm 60s would make one.")
	return ask(a.stdin, a.stdout, "Apply it for good?")
}

// try carries out the plan, and the replacements of files with it.
func (a *applying) try(p *planning, files []accessfile.Replacement) error {
	t, err := book().Try(rollback.Change{
		Firewall: p.fw, Desired: p.Desired, Files: files, Wait: a.confirm,
		StartKeeper: func(id string) error { return rollback.StartKeeper(id, "firewall", keepCommand, id) },
	})
	switch {
	case errors.Is(err, rollback.ErrPending):
		return onTrial(t)
	case errors.Is(err, rollback.ErrForeign):
		return &hintError{err, "`rpcward firewall remove` clears it away; without --confirm it is put right"}
	case err != nil:
		return owned(err)
	case a.confirm == 0:
		fmt.Fprintf(a.stdout, "\nApplied. `rpcward firewall remove` takes it back.\n")
		return nil
	}
	fmt.Fprintf(a.stdout, `
Applied, on trial. At %s all is as before again, unless you can still get here and type
    rpcward firewall confirm
`, clock(t.Due))
	return nil
}

// clock is a time for people who watch.
func clock(t time.Time) string { return t.Local().Format(time.TimeOnly) }

func newFirewallConfirmCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Keep what was applied on trial",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			t, err := book().Confirm()
			if err != nil {
				return nothingPending(t, err)
			}
			fmt.Fprintf(stdout, "The change of %s stays.\n", clock(t.Began))
			return nil
		},
	}
}

func newFirewallRollbackCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Take back at once what was applied on trial",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			t, err := book().Back("", "taken back by hand")
			if err != nil {
				return nothingPending(t, err)
			}
			fmt.Fprintf(stdout, "The change of %s is taken back: what was there before is in force again, which was verified.\n", clock(t.Began))
			return nil
		},
	}
}

func needRoot() error {
	_, _, err := (&firewallFlags{backend: "nft"}).pick()
	return err
}

// nothingPending says why there is nothing to confirm or to take back.
func nothingPending(t *rollback.Trial, err error) error {
	if !errors.Is(err, rollback.ErrNone) {
		return owned(err)
	}
	if t == nil {
		return &hintError{errors.New("no change is on trial"), "`rpcward firewall apply --confirm 60s` begins one"}
	}
	switch t.State {
	case rollback.RolledBack:
		return &hintError{fmt.Errorf("too late: the change of %s was rolled back at %s", clock(t.Began), clock(t.Ended)),
			"apply it again with more time, such as --confirm 5m"}
	case rollback.Confirmed:
		return fmt.Errorf("no change is on trial: the last one was confirmed at %s", clock(t.Ended))
	case rollback.Final:
		return fmt.Errorf("no change is on trial: the last one was made for good, at %s", clock(t.Ended))
	}
	return fmt.Errorf("no change is on trial: the last one, of %s, %s", clock(t.Began), shown(t.Outcome))
}

// keepCommand is what a keeper is called with.
const keepCommand = "keep"

func newFirewallKeepCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:    keepCommand + " ID",
		Short:  "Wait for the confirmation of a change on trial (started by apply)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
			log, end := daemon.OpenBackgroundLog("rpcward-firewall", stderr)
			defer end()
			err := book().Keep(ctx, args[0], log)
			if err != nil {
				log.ErrorContext(ctx, "firewall: a change on trial was neither confirmed nor taken back", "err", err)
			}
			return err
		},
	}
}
