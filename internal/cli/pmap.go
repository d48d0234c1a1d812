package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/internal/rpcnames"
	"rpcward/rpcbind"
)

// maxPmapLine is the longest line that pmap_set reads, in bytes.
const maxPmapLine = 4 << 10

// pmapDumpMain is pmap_dump(8): args are its words, its name first. Unlike that
// it tells by its exit code when there was nobody to ask: an empty backup that
// looks good is worse than none.
func pmapDumpMain(args []string, stdout, stderr io.Writer) int {
	if len(args) > 1 {
		fmt.Fprintf(stderr, "%s: takes no arguments\n", args[0])
		return 1
	}
	if err := pmapDump(context.Background(), stdout); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", args[0], pmapWords(err))
		return 1
	}
	return 0
}

// pmapSetMain is pmap_set(8), which warns of mappings that were not registered
// and exits with 0; `rpcward pmap set` exits with 1.
func pmapSetMain(args []string, stdin io.Reader, stderr io.Writer) int {
	if len(args) > 1 {
		fmt.Fprintf(stderr, "%s: takes no arguments\n", args[0])
		return 1
	}
	warn := func(text string) { fmt.Fprintln(stderr, text) }
	err := pmapSet(context.Background(), stdin, warn)
	if err == nil || errors.Is(err, errTold) {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %s\n", args[0], pmapWords(err))
	return 1
}

// pmapWords says err in libtirpc's words if it is a failed call's.
func pmapWords(err error) string {
	var call *pmapCallError
	if errors.As(err, &call) {
		return callWords(call.err)
	}
	return err.Error()
}

// pmapCallError is a failed call to this host's port mapper.
type pmapCallError struct{ err error }

func (e *pmapCallError) Error() string { return "asking this host's port mapper: " + e.err.Error() }
func (e *pmapCallError) Unwrap() error { return e.err }

// pmapDump prints the mappings of this host's port mapper as pmapSet reads them.
func pmapDump(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := ownMapper(ctx)
	if err != nil {
		return &pmapCallError{err}
	}
	defer c.Close()
	list, err := c.DumpMappings(ctx)
	if err != nil {
		return &pmapCallError{err}
	}
	out := bufio.NewWriter(stdout)
	for _, m := range list {
		fmt.Fprintf(out, "%10d %4d %5s %6d  %s\n", m.Program, m.Version, protName(m.Prot), m.Port, rpcnames.Name(m.Program))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// pmapSet registers the mappings that it reads. What the port mapper does not
// take is passed to warn, and makes the result errTold; a line that is none
// ends it, with the lines before registered.
func pmapSet(ctx context.Context, stdin io.Reader, warn func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := ownMapper(ctx)
	if err != nil {
		return &pmapCallError{err}
	}
	defer c.Close()
	var failed error
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, maxPmapLine)
	for lines.Scan() {
		m, ok := parseMapping(lines.Text())
		if !ok {
			return fmt.Errorf("malformed line: %s", cell(lines.Text()))
		}
		done, err := c.SetMapping(ctx, m)
		if err != nil {
			return &pmapCallError{err}
		}
		if !done {
			warn("not registered: " + lines.Text())
			failed = errTold
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("malformed line: longer than %d bytes", maxPmapLine)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	return failed
}

// parseMapping reads "program version protocol port", and passes over what
// follows. The protocol is tcp, udp or a number.
func parseMapping(line string) (rpcbind.Mapping, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return rpcbind.Mapping{}, false
	}
	switch fields[2] {
	case "tcp":
		fields[2] = "6"
	case "udp":
		fields[2] = "17"
	}
	var n [4]uint32
	for i := range n {
		bits := 32
		if i == 3 {
			bits = 16
		}
		v, err := strconv.ParseUint(fields[i], 10, bits)
		if err != nil {
			return rpcbind.Mapping{}, false
		}
		n[i] = uint32(v)
	}
	return rpcbind.Mapping{Program: n[0], Version: n[1], Prot: n[2], Port: n[3]}, true
}

// newPmapCommand is `rpcward pmap`.
func newPmapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pmap",
		Short: "Save and restore this host's mappings",
		Long: `Save and restore the port mapper's mappings of programs to UDP and TCP ports, as
pmap_dump(8) and pmap_set(8) do: one line each with program, version, protocol,
port and name. Any port mapper of this host will do, rpcward's or another.`,
		Example: `  rpcward pmap dump > mappings
  systemctl restart rpcbind
  rpcward pmap set < mappings`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "dump",
		Short: "Print the mappings",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return pmapHint(pmapDump(cmd.Context(), cmd.OutOrStdout()))
		},
	}, &cobra.Command{
		Use:   "set",
		Short: "Register the mappings read from standard input",
		Long: `Register the mappings read from standard input. A mapping that the port mapper
does not take, because another is registered in its place, is reported and makes
the exit code 1; the others are registered. A line that is no mapping ends it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			warn := func(text string) { fmt.Fprintf(cmd.ErrOrStderr(), "rpcward: %s\n", text) }
			return pmapHint(pmapSet(cmd.Context(), cmd.InOrStdin(), warn))
		},
	})
	return cmd
}

func pmapHint(err error) error {
	var call *pmapCallError
	if errors.As(err, &call) {
		return &hintError{err, "is a port mapper running? `rpcward serve` is one"}
	}
	return err
}
