package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
)

// policyFlags are the options by which commands are told of other files than
// this host's.
type policyFlags struct{ allow, deny string }

func (p *policyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.allow, "hosts-allow", accessfile.AllowPath, "`FILE` of rules for who is let in, hosts_access(5)")
	f.StringVar(&p.deny, "hosts-deny", accessfile.DenyPath, "`FILE` of rules for who is refused, hosts_access(5)")
}

func (p *policyFlags) read() accessfile.Pair { return accessfile.ReadPair(p.allow, p.deny) }

// exitCode ends a command that has printed all there is to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// maxShown is the longest text, in bytes, that is shown of a line of a file.
const maxShown = 160

// shown makes a piece of a file fit to print on one line: what could move a
// terminal's cursor becomes \xHH, a tab one blank.
func shown(s string) string {
	cut := ""
	if len(s) > maxShown {
		s, cut = s[:maxShown], "..."
	}
	return strings.ReplaceAll(escaped(s), "\t", " ") + cut
}

// escaped is shown without a limit, and with its tabs.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' && c != '\t' || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// ruleText is a rule on one line.
func ruleText(r *hostsaccess.Rule) string { return shown(strings.Join(strings.Fields(r.Text), " ")) }

// rulePlace is where a rule stands: file and line.
func rulePlace(r *hostsaccess.Rule) string { return fmt.Sprintf("%s:%d", r.File, r.Pos.Line) }

// count words a number of things: "1 error", "2 errors".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
