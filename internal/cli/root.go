package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"rpcward/internal/accessfile"
	"rpcward/internal/daemon"
	"rpcward/internal/policy"
)

// Exit codes of rpcward's own commands. Those under another program's name
// have that program's.
const (
	exitFailure = 1
	exitUsage   = 2
)

// hintError is an error with advice for the user.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// codedError is an error of a command whose exit code 1 means something else.
type codedError struct {
	err  error
	code int
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// usageError is a command line that says nothing which can be done.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usageArgs makes the complaints of a check of arguments usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if err == nil {
			return nil
		}
		if len(args) > 0 && cmd.HasSubCommands() {
			cmd.SuggestionsMinimumDistance = 2
			if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
				err = &hintError{err, "did you mean `" + cmd.CommandPath() + " " + similar[0] + "`?"}
			}
		}
		return &usageError{err}
	}
}

// version returns the release that this program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

// toolbox runs `rpcward`. It prints errors as "rpcward: error: ..." and, where
// there is advice, then "rpcward: hint: ...".
func toolbox(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand(stdout, stderr)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	var usage *usageError
	isUsage := errors.As(err, &usage)
	if !errors.Is(err, errTold) {
		fmt.Fprintf(stderr, "rpcward: error: %v\n", err)
	}
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(stderr, "rpcward: hint: %s\n", hint)
	} else if isUsage {
		fmt.Fprintf(stderr, "rpcward: hint: `%s --help` tells what can be written\n", cmd.CommandPath())
	}
	var coded *codedError
	switch {
	case isUsage:
		return exitUsage
	case errors.As(err, &coded):
		return coded.code
	}
	return exitFailure
}

func hintOf(err error) string {
	var own *hintError
	var served *daemon.HintError
	var planned *accessfile.HintError
	var wrong *policy.RuleError
	switch {
	case errors.As(err, &own):
		return own.hint
	case errors.As(err, &served):
		return served.Hint
	case errors.As(err, &planned):
		return planned.Hint
	case errors.As(err, &wrong):
		return wrong.Hint
	}
	return ""
}

func newRootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "rpcward",
		Short: "A secure port mapper for Sun RPC",
		Long: `rpcward tells clients of NFSv3, NIS, VXI-11 and other Sun RPC services at which
ports these listen (portmap version 2, rpcbind versions 3 and 4), and only the
clients that /etc/hosts.allow and /etc/hosts.deny let.

Called by the name of a program whose place it takes, it behaves as that one:
rpcbind, portmap, rpcinfo, pmap_dump, pmap_set, tcpd, tcpdmatch, tcpdchk.`,
		Example: `  rpcward serve                      # be this host's port mapper
  rpcward rpcinfo                    # what is registered here
  rpcward rpcinfo -p nfs.example.org # and there
  rpcward rpcinfo --help
  rpcward check                      # what is wrong with hosts.allow and hosts.deny
  rpcward explain --from 192.0.2.1   # who gets what, and why
  rpcward protect --allow 192.0.2.0/24  # this network and nobody else, in the kernel too`,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		newServeCommand(stdout, stderr),
		newGuardCommand(stderr),
		newStatusCommand(),
		newFirewallCommand(stdout, stderr),
		newProtectCommand(stdout),
		newRPCInfoCommand(stdout, stderr),
		newPmapCommand(),
		newCheckCommand(),
		newExplainCommand(stdout),
		newAccessCommand(),
		newTcpdCommand(),
		newTcpdmatchCommand(),
		newTcpdchkCommand(),
		newVersionCommand(),
	)
	complainAboutUsage(root)
	return root
}

// complainAboutUsage makes bad arguments of cmd and of the commands below it
// usage errors.
func complainAboutUsage(cmd *cobra.Command) {
	if cmd.Args != nil {
		cmd.Args = usageArgs(cmd.Args)
	}
	for _, sub := range cmd.Commands() {
		complainAboutUsage(sub)
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "rpcward %s (%s, %s/%s)\n",
				version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
