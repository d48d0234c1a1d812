package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
)

const accessLong = `Let clients in, or refuse them, by editing /etc/hosts.allow and /etc/hosts.deny as
an admin would: an address is taken out of rules that say otherwise, if these are
about NAME alone, added to a line that says the same, and only else given a line of
its own. Comments and layout stay. Each file is replaced at once; services, and
rpcward, find it changed at the next client.

NAME is a daemon's name in these files, such as portmap, mountd or sshd, or ALL.
portmap, rpcbind and rpcward all mean the port mapper. ADDR is an address, a network
or ALL; IPv6 needs no brackets here. This host is never locked out: denying ALL
spares its loopback addresses.`

// access is one run of `rpcward access`.
type access struct {
	files  policyFlags
	dryRun bool
	stdout io.Writer
}

func newAccessCommand() *cobra.Command {
	a := &access{}
	cmd := &cobra.Command{
		Use:   "access",
		Short: "Let clients in or refuse them, by editing hosts.allow and hosts.deny",
		Long:  accessLong,
		Example: `  rpcward access allow portmap 192.168.1.0/24 2001:db8::/32
  rpcward access deny portmap 192.168.1.77
  rpcward access deny ALL 203.0.113.0/24 --dry-run
  rpcward access list portmap`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	edit := func(name, short string, verdict hostsaccess.Verdict) *cobra.Command {
		return &cobra.Command{
			Use: name + " NAME ADDR...", Short: short, Long: accessLong,
			Args: cobra.MinimumNArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				a.stdout = cmd.OutOrStdout()
				return a.edit(verdict, args[0], args[1:])
			},
		}
	}
	cmd.AddCommand(
		edit("allow", "Let clients in", hostsaccess.Allow),
		edit("deny", "Refuse clients", hostsaccess.Deny),
		&cobra.Command{
			Use: "list [NAME]", Short: "Show the rules for a daemon, in the order in which they decide",
			Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				a.stdout = cmd.OutOrStdout()
				return a.list(append(args, "portmap")[0])
			},
		},
	)
	f := cmd.PersistentFlags()
	a.files.add(f)
	f.BoolVar(&a.dryRun, "dry-run", false, "only show what would be changed")
	return cmd
}

// attempts is how often an edit is planned anew since somebody else was faster.
const attempts = 3

func (a *access) edit(verdict hostsaccess.Verdict, name string, addresses []string) error {
	s, err := accessfile.ParseService(name)
	if err != nil {
		return &usageError{err}
	}
	targets, err := parseTargets(addresses)
	if err != nil {
		return err
	}
	for range attempts {
		var plan *accessfile.Plan
		if plan, err = a.files.read().Plan(s, verdict, targets); err != nil {
			return err
		}
		if err = a.carryOut(plan); !errors.Is(err, accessfile.ErrChanged) {
			return err
		}
	}
	return err
}

// carryOut writes the files, and tells what that changed and for whom.
func (a *access) carryOut(plan *accessfile.Plan) error {
	if !a.dryRun {
		for i := range plan.Replacements {
			if _, err := plan.Replacements[i].Replace(); err != nil {
				if os.IsPermission(err) {
					return &hintError{err, "only root may edit it; --dry-run shows what would be changed"}
				}
				return err
			}
		}
	}
	for i := range plan.Replacements {
		if err := writeDiff(a.stdout, &plan.Replacements[i]); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	for _, e := range plan.Effects {
		fmt.Fprintln(a.stdout, effectLine(plan.Service, &e))
	}
	if why := accessfile.WhyIgnored(plan.Service.Name); why != "" {
		fmt.Fprintf(a.stdout, "but %s %s: these rules do nothing for it\n", plan.Service.Name, why)
	}
	if a.dryRun && len(plan.Replacements) > 0 {
		fmt.Fprintln(a.stdout, "nothing was written (--dry-run)")
	}
	return nil
}

// effectLine says what an edit does for one target.
func effectLine(s accessfile.Service, e *accessfile.Effect) string {
	line := e.Target.Text + ": "
	if e.Already {
		line += "already " + outcomeWords(s, e.After)
	} else {
		before := "; before: "
		if e.Partly {
			before = "; before, in part: "
		}
		line += outcomeWords(s, e.After) + before + outcomeWords(s, e.Before)
	}
	for _, d := range e.Exceptions {
		line += fmt.Sprintf("\n  but %s by %s: %s", outcomeVerb(s, d.Verdict), rulePlace(d.Rule), ruleText(d.Rule))
	}
	return line
}

// outcomeWords says what becomes of a client, and by which rule.
func outcomeWords(s accessfile.Service, d hostsaccess.Decision) string {
	if d.Rule == nil {
		return outcomeVerb(s, d.Verdict) + ", since no rule matches"
	}
	return outcomeVerb(s, d.Verdict) + " by " + d.Rule.String()
}

// outcomeVerb says what becomes of a client that the files say v about. Whom
// they do not mention the port mapper refuses and other services let in.
func outcomeVerb(s accessfile.Service, v hostsaccess.Verdict) string {
	switch {
	case v == hostsaccess.Allow && s.PortMapper():
		return "answered"
	case v == hostsaccess.Allow, v == hostsaccess.NoRule && !s.PortMapper():
		return "let in"
	}
	return "refused"
}

// list shows what the files say for a daemon.
func (a *access) list(name string) error {
	s, err := accessfile.ParseService(name)
	if err != nil {
		return &usageError{err}
	}
	pair := a.files.read()
	rules := 0
	for i, f := range []*accessfile.File{pair.Allow, pair.Deny} {
		if f.Fault != nil && f.State != accessfile.Missing {
			return fmt.Errorf("reading %s: %w", f.Name, f.Fault)
		}
		for _, r := range s.Rules(f) {
			rules++
			verb := outcomeVerb(s, r.Verdict(hostsaccess.Allow+hostsaccess.Verdict(i)))
			if r.Broken {
				verb = "WRONG"
			}
			fmt.Fprintf(a.stdout, "%-8s  %-24s  %s\n", verb, rulePlace(r), ruleText(r))
		}
	}
	rest := "all others"
	if rules == 0 {
		rest = "everybody"
	}
	if s.PortMapper() {
		rest += " but this host"
	}
	fmt.Fprintf(a.stdout, "%-8s  %-24s  %s\n", outcomeVerb(s, hostsaccess.NoRule), "(no rule)", rest)
	if why := accessfile.WhyIgnored(s.Name); why != "" {
		fmt.Fprintf(a.stdout, "\n%s %s: these rules do nothing for it\n", s.Name, why)
	}
	if strings.EqualFold(name, "ALL") {
		fmt.Fprintln(a.stdout, "\nrules for single daemons are not shown: name one")
	}
	return nil
}
