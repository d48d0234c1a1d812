package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
	"rpcward/internal/policy"
)

// Exit codes of `rpcward check`.
const (
	exitWarnings = 1
	exitErrors   = 2
)

const checkLong = `Look for mistakes in hosts.allow and hosts.deny, and for rules that do something
else than they seem to. Services that use libwrap say nothing of either: many a
mistake opens a door. Each finding says what comes of it for such services, and
what to write instead. The port mapper takes no files into use in which a rule
about it, or about ALL, has a mistake.

FILES are looked at in the place of /etc/hosts.allow and /etc/hosts.deny. One with
"deny" in its name is a hosts.deny.

The exit code is 0 if nothing is wrong, 1 for warnings, 2 for errors. Notes (info)
do not count.

With --fix, mistakes that have one right answer are mended: networks with host bits,
addresses cut short, IPv6 without brackets, masks that libwrap does not match,
comments behind rules, byte order marks, carriage returns, a missing last newline.
What changes is shown first. The old file is kept beside the new one.

With --json the result is one object. Its fields stay, new ones may be added:
  files     path role state, which is readable, missing, not-a-file or unreadable
  findings  file line column severity code message consequence hint fixable,
            severity is info, warning or error; line 0 means the whole file
  errors warnings notes   how many there are
  port_mapper             usable, answers, reason`

// check is one run of `rpcward check`.
type check struct {
	files  policyFlags
	fix    bool
	yes    bool
	json   bool
	stdin  io.Reader
	stdout io.Writer

	pair accessfile.Pair
}

func newCheckCommand() *cobra.Command {
	c := &check{}
	cmd := &cobra.Command{
		Use:   "check [FILES]",
		Short: "Find mistakes and open doors in hosts.allow and hosts.deny",
		Long:  checkLong,
		Example: `  rpcward check
  rpcward check --fix
  rpcward check ./hosts.deny
  rpcward check --json | jq -r '.findings[] | "\(.file):\(.line) \(.code)"'`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.stdin, c.stdout = cmd.InOrStdin(), cmd.OutOrStdout()
			if err := c.name(args); err != nil {
				return &usageError{err}
			}
			return c.run()
		},
	}
	f := cmd.Flags()
	f.BoolVar(&c.fix, "fix", false, "mend what has one right answer")
	f.BoolVar(&c.yes, "yes", false, "with --fix: don't ask")
	f.BoolVar(&c.json, "json", false, "print JSON")
	return cmd
}

// name tells which of the files is which.
func (c *check) name(args []string) error {
	if c.fix && c.json {
		return errors.New("--fix shows what it changes, --json does not: use one of them")
	}
	c.files = policyFlags{accessfile.AllowPath, accessfile.DenyPath}
	if len(args) > 0 {
		c.files = policyFlags{}
	}
	for _, path := range args {
		role := &c.files.allow
		if strings.Contains(filepath.Base(path), "deny") {
			role = &c.files.deny
		}
		if *role != "" {
			return fmt.Errorf("%s and %s cannot both be a %s: put \"deny\" into the name of the one that refuses", *role, path, map[bool]string{true: "hosts.allow", false: "hosts.deny"}[role == &c.files.allow])
		}
		*role = path
		if _, err := os.Lstat(path); err != nil {
			return fmt.Errorf("reading %s: %w", path, errors.Unwrap(err))
		}
	}
	return nil
}

func (c *check) run() error {
	c.pair = c.files.read()
	if c.fix {
		if err := c.mend(); err != nil {
			return err
		}
	}
	found := c.pair.Check()
	out := bufio.NewWriter(c.stdout)
	if c.json {
		if err := c.printJSON(out, found); err != nil {
			return err
		}
	} else {
		c.print(out, found)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	switch n := tally(found); {
	case n[hostsaccess.Error] > 0:
		return exitCode(exitErrors)
	case n[hostsaccess.Warning] > 0:
		return exitCode(exitWarnings)
	}
	return nil
}

// tally counts findings by their severity.
func tally(found []hostsaccess.Diagnostic) map[hostsaccess.Severity]int {
	n := map[hostsaccess.Severity]int{}
	for _, d := range found {
		n[d.Severity]++
	}
	return n
}

// each returns the files that are looked at.
func (c *check) each() (list []*accessfile.File) {
	for _, f := range []*accessfile.File{c.pair.Allow, c.pair.Deny} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

func (c *check) print(w io.Writer, found []hostsaccess.Diagnostic) {
	for i := range found {
		c.printFinding(w, &found[i])
	}
	n := tally(found)
	var names []string
	for _, f := range c.each() {
		name := f.Name
		if f.State == accessfile.Missing {
			name += " (not there)"
		}
		names = append(names, name)
	}
	switch {
	case len(found) == 0:
		fmt.Fprintf(w, "%s: nothing wrong\n", strings.Join(names, ", "))
	default:
		fmt.Fprintf(w, "%s: %s, %s, %s\n", strings.Join(names, ", "),
			count(n[hostsaccess.Error], "error"), count(n[hostsaccess.Warning], "warning"), count(n[hostsaccess.Info], "note"))
	}
	if fixable := c.fixable(); fixable > 0 {
		fmt.Fprintf(w, "`rpcward check --fix` mends %d of them.\n", fixable)
	}
	usable, words := c.portMapper()
	if usable {
		fmt.Fprintf(w, "rpcward as the port mapper answers %s.\n", words)
		return
	}
	fmt.Fprintf(w, "rpcward as the port mapper does not take these files into use: %s.\nIt keeps the rules that it has; after a restart it answers this host only.\n", words)
}

// fixable counts what --fix would mend.
func (c *check) fixable() (n int) {
	for _, f := range c.each() {
		if f.State == accessfile.Readable {
			_, mended := f.Mend()
			n += len(mended)
		}
	}
	return n
}

// portMapper says whom rpcward answers by these files, or why it does not take
// them.
func (c *check) portMapper() (usable bool, words string) {
	var trees [2]*hostsaccess.File
	for i, f := range []*accessfile.File{c.pair.Allow, c.pair.Deny} {
		switch {
		case f == nil:
			continue
		case f.Fault != nil && f.State != accessfile.Missing:
			return false, f.Name + " cannot be read"
		}
		trees[i] = f.File
	}
	p, _, err := policy.New(trees[0], trees[1], policy.Options{})
	if err != nil {
		return false, shown(err.Error())
	}
	return true, p.Summary()
}

// printFinding shows a finding with the line that it is about.
func (c *check) printFinding(w io.Writer, d *hostsaccess.Diagnostic) {
	fmt.Fprintf(w, "%v [%s]\n", d, d.Code)
	if text, mark, ok := c.excerpt(d); ok {
		fmt.Fprintf(w, "    | %s\n    | %s^\n", text, mark)
	}
	fmt.Fprintf(w, "    so:  %s\n", d.Consequence)
	if d.Hint != "" {
		fmt.Fprintf(w, "    fix: %s\n", d.Hint)
	}
	fmt.Fprintln(w)
}

// maxBefore is how much of a line, in bytes, is shown in front of the place of a
// finding.
const maxBefore = 60

// excerpt is the line that a finding is about, and blanks for what stands in
// front of the mark below it.
func (c *check) excerpt(d *hostsaccess.Diagnostic) (text, before string, ok bool) {
	for _, f := range c.each() {
		if f.Name != d.File || d.Pos.Line == 0 {
			continue
		}
		line := physicalLine(f.File.Source, int(d.Pos.Line))
		at := min(int(d.Pos.Column)-1, len(line))
		head := line[:at]
		if at > maxBefore {
			head = "..." + line[at-maxBefore:at]
		}
		head = shown(head)
		return head + shown(line[at:]), strings.Repeat(" ", len(head)), true
	}
	return "", "", false
}

// physicalLine returns line n, counted from 1, of a text.
func physicalLine(text string, n int) string {
	for range n - 1 {
		_, text, _ = strings.Cut(text, "\n")
	}
	text, _, _ = strings.Cut(text, "\n")
	return strings.TrimSuffix(text, "\r")
}

// mend writes what --fix can, after having shown it.
func (c *check) mend() error {
	var planned []accessfile.Replacement
	for _, f := range c.each() {
		if f.State != accessfile.Readable {
			continue
		}
		if text, mended := f.Mend(); len(mended) > 0 {
			planned = append(planned, accessfile.Replacement{Path: f.Name, Old: f.File.Source, New: text, Backup: true})
		}
	}
	if len(planned) == 0 {
		fmt.Fprint(c.stdout, "nothing that has one right answer is wrong\n\n")
		return nil
	}
	for i := range planned {
		if err := writeDiff(c.stdout, &planned[i]); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	fmt.Fprint(c.stdout, "\nThese lines act from then on, for all services that read the files.\n")
	if !c.yes && !ask(c.stdin, c.stdout, "Write them?") {
		fmt.Fprint(c.stdout, "Nothing was changed. With --yes it is written without a question.\n\n")
		return nil
	}
	for i := range planned {
		backup, err := planned[i].Replace()
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s is mended, the old one is %s\n", planned[i].Path, backup)
	}
	fmt.Fprintln(c.stdout)
	c.pair = c.files.read()
	return nil
}

// terminal returns the terminal that r is, if it is one.
func terminal(r io.Reader) (*os.File, bool) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return f, err == nil
}

// ask asks who sits at the terminal, if anybody does.
func ask(stdin io.Reader, stdout io.Writer, question string) bool {
	f, ok := terminal(stdin)
	if !ok {
		return false
	}
	fmt.Fprint(stdout, question+" [y/N] ")
	answer, err := bufio.NewReader(f).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}

// The JSON of `rpcward check`, documented in its help.
type (
	checkJSON struct {
		Files      []fileJSON    `json:"files"`
		Findings   []findingJSON `json:"findings"`
		Errors     int           `json:"errors"`
		Warnings   int           `json:"warnings"`
		Notes      int           `json:"notes"`
		PortMapper mapperJSON    `json:"port_mapper"`
	}
	fileJSON struct {
		Path  string `json:"path"`
		Role  string `json:"role"`
		State string `json:"state"`
	}
	findingJSON struct {
		File        string `json:"file"`
		Line        int32  `json:"line"`
		Column      int32  `json:"column"`
		Severity    string `json:"severity"`
		Code        string `json:"code"`
		Message     string `json:"message"`
		Consequence string `json:"consequence"`
		Hint        string `json:"hint"`
		Fixable     bool   `json:"fixable"`
	}
	mapperJSON struct {
		Usable  bool   `json:"usable"`
		Answers string `json:"answers"`
		Reason  string `json:"reason"`
	}
)

func (c *check) printJSON(w io.Writer, found []hostsaccess.Diagnostic) error {
	n := tally(found)
	v := checkJSON{
		Files: []fileJSON{}, Findings: []findingJSON{},
		Errors: n[hostsaccess.Error], Warnings: n[hostsaccess.Warning], Notes: n[hostsaccess.Info],
	}
	for _, f := range c.each() {
		role := "allow"
		if f == c.pair.Deny {
			role = "deny"
		}
		v.Files = append(v.Files, fileJSON{f.Name, role, f.State.String()})
	}
	for _, d := range found {
		v.Findings = append(v.Findings, findingJSON{
			File: d.File, Line: d.Pos.Line, Column: d.Pos.Column, Severity: d.Severity.String(), Code: string(d.Code),
			Message: d.Message, Consequence: d.Consequence, Hint: d.Hint, Fixable: len(d.Fix) > 0,
		})
	}
	usable, words := c.portMapper()
	v.PortMapper.Usable = usable
	if usable {
		v.PortMapper.Answers = words
	} else {
		v.PortMapper.Answers, v.PortMapper.Reason = "this host only, or the last good rules", words
	}
	e := json.NewEncoder(asciiWriter{w})
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
