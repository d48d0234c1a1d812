package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
	"rpcward/internal/identity"
	"rpcward/internal/inetd"
)

// tcpdchkUsage is that of tcpdchk(8).
const tcpdchkUsage = `usage: %s [-a] [-d] [-i inet_conf] [-v]
	-a: report rules with implicit "ALLOW" at end
	-d: use allow/deny files in current directory
	-i: location of inetd.conf file
	-v: list all rules
`

// tcpdchkMain is tcpdchk(8): args are its words, its name first.
func tcpdchkMain(args []string, stdout, stderr io.Writer) int {
	c := &tcpdchk{oracle: newOracle(stdout, stderr)}
	opts, operands, err := getopt("adi:v", nil, args[1:])
	if err != nil || len(operands) != 0 {
		if err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", args[0], err)
		}
		fmt.Fprintf(stderr, tcpdchkUsage, args[0])
		return exitFailure
	}
	for _, o := range opts {
		switch o.name {
		case "a":
			c.implicit = true
		case "d":
			c.here = true
		case "i":
			c.conf = o.arg
		case "v":
			c.verbose = true
		}
	}
	return c.end(c.run())
}

// newTcpdchkCommand is `rpcward tcpdchk`.
func newTcpdchkCommand() *cobra.Command {
	var here, implicit, verbose bool
	var conf string
	cmd := &cobra.Command{
		Use:   "tcpdchk [-a] [-d] [-i FILE] [-v]",
		Short: "Check the access files as tcpdchk(8) does",
		Long: `tcpdchk looks through /etc/hosts.allow and /etc/hosts.deny as tcpdchk(8) does: for
names that don't exist, for processes that inetd or xinetd doesn't start or
that nobody wraps, and for options that can't be carried out. Its output is
tcpdchk(8)'s, and it ends with 0 whatever it found.

It knows little of what lets clients in unseen. rpcward check does.`,
		Example: `  rpcward tcpdchk -v
  rpcward tcpdchk -a -i /etc/xinetd.conf`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := &tcpdchk{oracle: newOracle(cmd.OutOrStdout(), cmd.ErrOrStderr())}
			c.here, c.conf, c.implicit, c.verbose = here, conf, implicit, verbose
			return c.endToolbox(c.run())
		},
	}
	oracleFlags(cmd, &here, &conf)
	cmd.Flags().BoolVarP(&implicit, "all", "a", false, "report rules that grant without saying allow")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list all rules")
	return cmd
}

type tcpdchk struct {
	*oracle
	implicit bool // -a
	verbose  bool // -v

	reading []string // pattern files, on the way to the one under way
}

// linked are programs that Debian's tcpdchk knows to use libwrap, and the
// names of this one, which it doesn't know.
var linked = []string{"portmap", "mountd", "statd", "ugidd", "redir", "rlinetd", "sshd", "atftpd", "diald", "esound",
	"gdm", "gnome-session", "icecast", "icecast_admin", "icecast_client", "icecast_source", "mysqld", "ntop", "pptpd",
	"rquotad", "sendmail", "smail", "rpcbind", "rpcward"}

func (c *tcpdchk) run() error {
	c.list = c.verbose
	c.checkDaemonDir()
	if err := c.readConf(); err != nil {
		return err
	}
	for _, name := range linked {
		c.processes.Set(name, inetd.Wrapped)
	}
	if c.verbose {
		c.printf("Using network configuration file: %s\n", c.conf)
	}
	c.checkTable(c.allow())
	c.checkTable(c.deny())
	c.rules(c.allow(), true)
	c.rules(c.deny(), false)
	return nil
}

// rules checks a table; granting says what its rules do where they don't say.
func (c *tcpdchk) rules(path string, granting bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		if !isMissing(err) && !errors.Is(err, unix.EISDIR) {
			c.warnf("cannot open %s: %s", path, inetd.Reason(err))
		}
		return
	}
	c.file, c.line = path, 0
	for line, text := range hostsaccess.CompatLines(string(data)) {
		c.line = line
		if whole, ok := strings.CutSuffix(text, "\n"); !ok {
			c.warnf("missing newline or line too long")
		} else if !isComment(text) {
			c.rule(whole, granting)
		}
	}
	c.file = ""
}

func (c *tcpdchk) rule(text string, granting bool) {
	daemons, rest, ok := hostsaccess.CompatSplit(text, ':')
	if !ok {
		c.warnf(`missing ":" separator`)
		return
	}
	clients, options, hasOptions := hostsaccess.CompatSplit(rest, ':')
	if c.verbose {
		c.printf("\n>>> Rule %s line %d:\n", c.file, c.line)
	}
	c.words("daemons:  ", daemons, "daemon", c.daemon)
	c.words("clients:  ", clients, "client", c.client)
	if hasOptions {
		granting = c.carryOut(options, granting)
	} else {
		c.checkImplicit(granting)
	}
	if c.verbose {
		c.printf("access:   %s\n", map[bool]string{true: "granted", false: "denied"}[granting])
	}
}

func (c *tcpdchk) checkImplicit(granting bool) {
	if granting && c.implicit {
		c.warnf(`implicit "allow" at end of rule`)
	}
}

// words prints a list, and checks each word of it.
func (c *tcpdchk) words(title, list, what string, check func(word string)) {
	words := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
	if c.verbose {
		c.printf("%s%s\n", title, strings.Join(words, " "))
	}
	patterns := 0
	for _, w := range words {
		if strings.EqualFold(w, "EXCEPT") {
			patterns = 0
			continue
		}
		patterns++
		check(w)
	}
	if patterns == 0 {
		c.warnf("%s list is empty or ends in EXCEPT", what)
	}
}

// splitUser cuts a word at the first "@" that is not its first byte.
func splitUser(word string) (before, host string, found bool) {
	before, host, found = hostsaccess.CompatSplit(word[1:], '@')
	return word[:1] + before, host, found
}

func (c *tcpdchk) daemon(word string) {
	name, host, hasHost := splitUser(word)
	if hasHost && c.host(host) > 1 {
		c.warnf("host %s has more than one address", host)
		c.warnf("(consider using an address instead)")
	}
	if !c.plainWord(name, "daemon") {
		return
	}
	if isReserved(name) {
		c.warnf("%s: daemon name may be reserved word", name)
		return
	}
	c.checkProcess(name)
	c.processes.Set(name, inetd.Wrapped) // say it once
}

func (c *tcpdchk) client(word string) {
	user, host, hasUser := splitUser(word)
	if !hasUser {
		c.host(word)
		return
	}
	if !strings.EqualFold(user, "KNOWN") && c.plainWord(user, "user") && isReserved(user) {
		c.warnf("%s: user name may be reserved word", user)
	}
	c.host(host)
}

// plainWord says whether a daemon or user is a name of which more can be said.
// It warns of what looks like a pattern for hosts.
func (c *tcpdchk) plainWord(name, what string) bool {
	switch {
	case name[0] == '@', name[0] == '/':
		c.warnf("%s: %s name begins with \"%c\"", name, what, name[0])
	case name[0] == '.':
		c.warnf("%s: %s name begins with dot", name, what)
	case strings.HasSuffix(name, "."):
		c.warnf("%s: %s name ends in dot", name, what)
	case strings.EqualFold(name, "FAIL"):
		c.obsolete()
	case strings.EqualFold(name, "ALL"), isUnknown(name):
	default:
		return true
	}
	return false
}

// obsolete is about a word of the first releases.
func (c *tcpdchk) obsolete() {
	c.warnf("FAIL is no longer recognized")
	c.warnf("(use EXCEPT or DENY instead)")
}

// reserved are the wildcards, hosts_access(5).
var reserved = []string{"UNKNOWN", "KNOWN", "PARANOID", "ALL", "LOCAL"}

func isReserved(s string) bool {
	return slices.ContainsFunc(reserved, func(r string) bool { return strings.EqualFold(r, s) })
}

// host checks a pattern for hosts. It returns how many addresses it has, 1 for
// those that have no name.
func (c *tcpdchk) host(pattern string) int {
	address, mask, hasMask := hostsaccess.CompatSplit(pattern, '/')
	switch {
	case strings.HasPrefix(pattern, "@"):
		c.netgroup(pattern[1:])
	case strings.HasPrefix(pattern, "/"):
		c.patternFile(pattern)
	case hasMask:
		c.network(address, mask)
	case isBracketed(pattern):
	case strings.EqualFold(pattern, "FAIL"):
		c.obsolete()
	case isReserved(pattern):
	case !isNumeric(pattern) && strings.HasSuffix(pattern, "."):
		c.warnf("%s: domain or host name ends in dot", pattern)
	case !isNumeric(pattern) && pattern[0] != '.':
		return c.dns(pattern)
	case !isNumeric(pattern) || pattern == "0.0.0.0" || pattern == noAddress:
	case strings.HasPrefix(pattern, "."):
		c.warnf("%s: network number begins with dot", pattern)
	case !strings.HasSuffix(pattern, "."):
		c.dns(pattern)
	}
	return 1
}

func (c *tcpdchk) netgroup(name string) {
	if !hasMembers(name) {
		c.warnf("%s: unknown or empty netgroup", name)
	}
}

// patternFile checks the patterns of a file, which warnings then name.
// (tcpdchk forgets what comes behind it in the list.)
func (c *tcpdchk) patternFile(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		if !isMissing(err) {
			c.warnf("open %s: %s", path, inetd.Reason(err))
		}
		return
	}
	if slices.Contains(c.reading, path) {
		return // it includes itself
	}
	file, line := c.file, c.line
	c.file, c.reading = path, append(c.reading, path)
	defer func() { c.file, c.line, c.reading = file, line, c.reading[:len(c.reading)-1] }()
	for n, text := range hostsaccess.CompatLines(string(data)) {
		c.line = n
		for word := range strings.FieldsSeq(text) {
			c.host(word)
		}
	}
}

// dns looks a host up, and all its addresses too.
func (c *tcpdchk) dns(name string) int {
	addrs := c.oracle.host(name)
	for _, a := range addrs {
		c.endpoint(a)
	}
	return len(addrs)
}

// network checks a net/mask pattern. It also reports networks that no address
// is in, because bits are set outside of the mask, and masks with something
// behind them, for which libwrap's tcpdchk has no eye.
func (c *tcpdchk) network(address, mask string) {
	// libwrap takes a carriage return for the end of a word, tcpdchk doesn't.
	if !validNetwork(address, strings.TrimSuffix(mask, "\r")) {
		c.warnf("%s/%s: bad net/mask pattern", address, mask)
	}
}

func validNetwork(address, mask string) bool {
	bits, err := strconv.Atoi(mask)
	isLength := err == nil && mask[0] != '+'
	switch {
	case isBracketed(address):
		return isLength && 0 <= bits && bits <= 128 && !strings.Contains(address, "%")
	case strings.Contains(address+mask, ":") || !isAddress(address):
		return false
	case isLength:
		p, err := four(address).Prefix(bits)
		return err == nil && bits > 0 && p.Addr() == four(address)
	}
	if !isAddress(mask) {
		return false
	}
	a, m := four(address).As4(), four(mask).As4()
	for i := range a {
		if a[i]&^m[i] != 0 {
			return false
		}
	}
	return true
}

// four is the IPv4 address that isAddress took s for.
func four(s string) netip.Addr {
	a, _ := identity.ParseAddr(s)
	return a
}

// isBracketed says whether s is an IPv6 address as rules have it.
func isBracketed(s string) bool {
	inner, ok := strings.CutPrefix(s, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	a, err := netip.ParseAddr(inner)
	return ok && closed && err == nil && a.Is6()
}

// carryOut runs the options dry, on a client that stands for all, and returns
// whether the rule then grants.
func (c *tcpdchk) carryOut(options string, granting bool) bool {
	table := hostsaccess.Source{Name: c.file, Data: []byte("ALL:ALL:" + options + "\n")}
	tables := [2]hostsaccess.Source{{Name: c.file}, table}
	if granting {
		tables[0], tables[1] = tables[1], tables[0]
	}
	d := hostsaccess.NewTables(hostsaccess.Compat, tables[0], tables[1], thisMachine()).Decide(c.request())
	c.options(options, d.Actions)
	if granting = d.Verdict == hostsaccess.Allow; accessWord(&d) != "delegated" && !saysVerdict(d.Actions) {
		c.checkImplicit(granting)
	}
	return granting
}

// request stands for all that a rule may be about. The words are tcpdchk's.
func (c *tcpdchk) request() *hostsaccess.Request {
	return &hostsaccess.Request{
		Daemon:  "daemon_name",
		Server:  hostsaccess.Endpoint{Name: "server_hostname", Text: "server_addr"},
		User:    "user_name",
		Client:  hostsaccess.Endpoint{Name: "client_hostname", Text: "client_addr"},
		PID:     os.Getpid(),
		AclExec: dryRun,
	}
}

func saysVerdict(actions []hostsaccess.Action) bool {
	return slices.ContainsFunc(actions, func(a hostsaccess.Action) bool {
		return a.Kind == hostsaccess.ActAllow || a.Kind == hostsaccess.ActDeny || a.Fault != ""
	})
}
