package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rpcward/internal/control"
)

func newStatusCommand() *cobra.Command {
	var (
		socket string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell who is registered, and whether the guard is in step",
		Long: `Tell who is registered with rpcward serve on this host, and for each registration
whether its port is guarded, and whether any socket is bound to it still.`,
		Example: `  rpcward status
  rpcward status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := control.NewClient(socket)
			defer c.Close()
			s, err := c.Status(cmd.Context())
			if err != nil {
				return &hintError{err, "rpcward serve has a control socket; other port mappers answer rpcward rpcinfo"}
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			writeStatus(cmd.OutOrStdout(), &s)
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "control-socket", control.Path, "`PATH` of the control socket of rpcward serve")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// guardWords say what the states of the guard mean.
var guardWords = map[string]string{
	control.GuardNone:   "none: no firewall follows the registrations (rpcward guard)",
	control.GuardBehind: "behind: it has not guarded the last registrations yet",
	control.GuardInStep: "in step",
}

func writeStatus(w io.Writer, s *control.Status) {
	fmt.Fprintf(w, "guard: %s\n\n", guardWords[s.Guard])
	fmt.Fprintln(w, "   program version netid     address                service    owner      state")
	for _, r := range s.Registrations {
		fmt.Fprintf(w, "%10d%5d    %-9s %-22s %-10s %-10s %s\n",
			r.Program, r.Version, cell(r.NetID), cell(r.Addr), nameOr(r.Program, "-"), cell(r.Owner), stateOf(&r, s.Guard))
	}
}

// stateOf words the state of one registration.
func stateOf(r *control.RegistrationInfo, guard string) string {
	reg, ok := r.Parse()
	state := ""
	switch {
	case !ok || reg.NetID.IsLocal():
		return "this host"
	case r.Guarded:
		state = "guarded"
	case guard == control.GuardNone:
		state = "not guarded"
	default:
		state = "not guarded yet"
	}
	if r.Stale {
		state += ", stale: no socket is bound"
	}
	return state
}
