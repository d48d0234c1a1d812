package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/hostsaccess"
	"rpcward/internal/identity"
	"rpcward/internal/inetd"
)

// tcpdmatchUsage is that of tcpdmatch(8).
const tcpdmatchUsage = `usage: %s [-d] [-i inet_conf] daemon[@host] [user@]host
	-d: use allow/deny files in current directory
	-i: location of inetd.conf file
`

// tcpdmatchMain is tcpdmatch(8): args are its words, its name first.
func tcpdmatchMain(args []string, stdout, stderr io.Writer) int {
	m := &tcpdmatch{newOracle(stdout, stderr)}
	opts, operands, err := getopt("di:", nil, args[1:])
	if err != nil || len(operands) != 2 {
		if err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", args[0], err)
		}
		fmt.Fprintf(stderr, tcpdmatchUsage, args[0])
		return exitFailure
	}
	for _, o := range opts {
		if o.name == "d" {
			m.here = true
		} else {
			m.conf = o.arg
		}
	}
	return m.end(m.run(operands[0], operands[1]))
}

// newTcpdmatchCommand is `rpcward tcpdmatch`.
func newTcpdmatchCommand() *cobra.Command {
	var here bool
	var conf string
	cmd := &cobra.Command{
		Use:   "tcpdmatch [-d] [-i FILE] DAEMON[@HOST] [USER@]HOST",
		Short: "Tell what libwrap does with a client",
		Long: `tcpdmatch tells what programs that use Debian's libwrap, such as sshd or tcpd,
do with a client: which line of /etc/hosts.allow and /etc/hosts.deny decides,
what its options are, and whether access is granted. It runs no command.

A client is a host name, of which every address is tried, an address, whose
name is then taken for unknown, or one of the words unknown and paranoid.
The output is tcpdmatch(8)'s. rpcward itself decides otherwise where libwrap
does not do what is written: see rpcward explain.`,
		Example: `  rpcward tcpdmatch sshd 192.0.2.1
  rpcward tcpdmatch in.tftpd@198.51.100.7 root@client.example.org`,
		Args:                  cobra.ExactArgs(2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &tcpdmatch{newOracle(cmd.OutOrStdout(), cmd.ErrOrStderr())}
			m.here, m.conf = here, conf
			return m.endToolbox(m.run(args[0], args[1]))
		},
	}
	oracleFlags(cmd, &here, &conf)
	return cmd
}

// oracleFlags are the options of both tools.
func oracleFlags(cmd *cobra.Command, here *bool, conf *string) {
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(here, "directory", "d", false, "read hosts.allow and hosts.deny of the current folder")
	f.StringVarP(conf, "inetd", "i", "", "inetd.conf or xinetd.conf `FILE`")
}

// endToolbox prints what is left, and hands on the error.
func (o *oracle) endToolbox(err error) error {
	if flushErr := o.out.Flush(); err == nil && flushErr != nil {
		return fmt.Errorf("writing: %w", flushErr)
	}
	return err
}

type tcpdmatch struct{ *oracle }

// run predicts what happens to a client, given as [user@]host, that asks for a
// daemon, given as daemon[@server].
func (m *tcpdmatch) run(daemonWord, clientWord string) error {
	m.checkDaemonDir()
	daemon, server, hasServer := hostsaccess.CompatSplit(daemonWord, '@')
	if strings.HasPrefix(daemon, "/") {
		short := daemon[strings.LastIndexByte(daemon, '/')+1:]
		m.warnf("%s: daemon name normalized to: %s", daemon, short)
		daemon = short
	}
	if !hasServer {
		server = unknownHost
	}
	user, client, hasUser := hostsaccess.CompatSplit(clientWord, '@')
	if !hasUser {
		user, client = "", clientWord
	}
	if err := m.readConf(); err != nil {
		return err
	}
	m.processes.Set("portmap", inetd.NotWrapped)
	m.processes.Set("rpcbind", inetd.NotWrapped)
	m.checkProcess(daemon)
	m.checkTable(m.allow())
	m.checkTable(m.deny())
	r := &hostsaccess.Request{Daemon: daemon, User: user, PID: os.Getpid(), AclExec: dryRun}
	if err := m.setServer(r, server); err != nil {
		return err
	}
	return m.clients(r, client)
}

// dryRun stands for the commands of aclexec options: it supposes the best.
func dryRun(string) bool { return true }

// errManyAddresses says that the server of a connection has one address.
type errManyAddresses struct{ host string }

func (e errManyAddresses) Error() string {
	return fmt.Sprintf("Error: %s has more than one address\nPlease specify an address instead", e.host)
}

func (m *tcpdmatch) setServer(r *hostsaccess.Request, server string) error {
	if isUnknown(server) || isParanoid(server) {
		r.Server.Name = server
		return nil
	}
	addrs := m.host(server)
	if len(addrs) == 0 {
		return errTold
	}
	for _, a := range addrs {
		r.Server = m.endpoint(a)
	}
	if len(addrs) > 1 {
		return errManyAddresses{server}
	}
	return nil
}

// clients tells of a client by address or by a word as it is, and of one by
// name for each of its addresses.
func (m *tcpdmatch) clients(r *hostsaccess.Request, client string) error {
	switch {
	case isUnknown(client) || isParanoid(client):
		r.Client.Name = client
		m.tell(r)
		return nil
	case isAddress(client):
		r.Client = hostsaccess.Endpoint{Text: client, Name: unknownHost}
		m.tell(r)
		return nil
	}
	addrs := m.host(client)
	if len(addrs) == 0 {
		return errTold
	}
	for i, a := range addrs {
		if i > 0 {
			m.printf("\n")
		}
		r.Client = m.endpoint(a)
		m.tell(r)
	}
	return nil
}

// noAddress is what inet_addr(3) says of both an address and a mistake.
const noAddress = "255.255.255.255"

// isAddress says whether a client is given by its address, and not by
// something that getaddrinfo(3) makes one of.
func isAddress(s string) bool {
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	a, _ := identity.ParseAddr(s)
	return identity.IsQuad(s) && a.String() != noAddress
}

// tell prints one prediction.
func (m *tcpdmatch) tell(r *hostsaccess.Request) {
	m.show("client:   hostname", &r.Client.Name)
	m.show("client:   address ", addressText(&r.Client))
	m.show("client:   username", &r.User)
	m.show("server:   hostname", &r.Server.Name)
	m.show("server:   address ", addressText(&r.Server))
	m.show("server:   process ", &r.Daemon)
	m.predict(r)
}

func (m *tcpdmatch) predict(r *hostsaccess.Request) {
	allow, deny := readTable(m.allow()), readTable(m.deny())
	d := hostsaccess.NewTables(hostsaccess.Compat, allow, deny, thisMachine()).Decide(r)
	if !m.passed(&allow, d.Rule) {
		m.passed(&deny, d.Rule)
	}
	if d.Rule != nil {
		m.file, m.line = d.Rule.File, int(d.Rule.LastLine)
		m.printf("matched:  %s line %d\n", m.file, m.line)
		m.options(ruleOptions(d.Rule.Text), d.Actions)
		m.file = ""
	}
	m.printf("access:   %s\n", accessWord(&d))
}

// show prints what is known, as the expansion of a "%" in an option shows it.
// Like tcpdmatch's own request, ours then has the harmless text too.
func (m *tcpdmatch) show(label string, value *string) {
	b := []byte(*value)
	for i, c := range b {
		if !isLetterOrDigit(c) && !strings.ContainsRune("!@%-_=+:,./", rune(c)) {
			b[i] = '_'
		}
	}
	*value = string(b)
	if *value != "" && !isUnknown(*value) {
		m.printf("%s %s\n", label, *value)
	}
}

func isLetterOrDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

func addressText(e *hostsaccess.Endpoint) *string {
	text := e.Text
	if e.Text == "" && e.Addr.IsValid() {
		text = e.Addr.Addr().String()
	}
	return &text
}

// accessWord is the verdict as tcpdmatch prints it.
func accessWord(d *hostsaccess.Decision) string {
	for _, a := range d.Actions {
		if a.Kind == hostsaccess.ActTwist && a.Fault == "" {
			return "delegated"
		}
	}
	if d.Verdict == hostsaccess.Deny {
		return "denied"
	}
	return "granted"
}

// ruleOptions is the third field of a rule.
func ruleOptions(text string) string {
	_, rest, _ := hostsaccess.CompatSplit(text, ':')
	_, options, _ := hostsaccess.CompatSplit(rest, ':')
	return options
}

// passed warns of the lines of a table that libwrap can't read, up to the rule
// that decided. It reports whether that is in this table.
func (m *tcpdmatch) passed(s *hostsaccess.Source, rule *hostsaccess.Rule) (decided bool) {
	m.file = s.Name
	defer func() { m.file = "" }()
	if s.State == hostsaccess.TableUnreadable {
		_, err := os.ReadFile(s.Name)
		m.file = ""
		m.warnf("cannot open %s: %s", s.Name, reasonOf(err))
		return false
	}
	for line, text := range hostsaccess.CompatLines(string(s.Data)) {
		m.line = line
		if rule != nil && rule.File == s.Name && int(rule.LastLine) == line {
			return true
		}
		if !strings.HasSuffix(text, "\n") {
			m.warnf("missing newline or line too long")
			m.warnf("all the subsequent rules will be ignored")
			return false
		}
		if _, _, found := hostsaccess.CompatSplit(text, ':'); !found && !isComment(text) {
			m.warnf(`missing ":" separator`)
		}
	}
	return false
}

func reasonOf(err error) string {
	if err == nil {
		err = errors.New("cannot be read")
	}
	return inetd.Reason(err)
}

// isComment says whether a line holds no rule.
func isComment(line string) bool {
	return line[0] == '#' || strings.Trim(line, " \t\r\n") == ""
}
