package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"rpcward/hostsaccess"
	"rpcward/internal/identity"
	"rpcward/internal/inetd"
)

// hostPatience is how long a look-up of tcpdmatch and tcpdchk may take.
const hostPatience = 10 * time.Second

// oracle is what tcpdmatch(8) and tcpdchk(8) share: options, the configuration
// of inetd, and how they print. Both print warnings on standard output, where
// those of Debian's are meant to go. (They get lost: its libwrap logs by
// functions that the tools don't intercept.)
type oracle struct {
	out    *bufio.Writer
	stderr io.Writer

	here bool   // -d: the files of the current folder
	conf string // -i: the configuration of inetd
	list bool   // options, as they would be carried out

	file      string // what warnings are about; "" for nothing
	line      int
	processes inetd.Processes
}

func newOracle(stdout, stderr io.Writer) *oracle {
	return &oracle{out: bufio.NewWriter(stdout), stderr: stderr, list: true}
}

// names returns a resolver that has not asked anything yet, so that what is
// wrong with a name is said wherever it occurs.
func (o *oracle) names() *identity.Resolver {
	return &identity.Resolver{Warn: o.warn}
}

func (o *oracle) warn(text string) { o.say("warning", text) }

func (o *oracle) printf(format string, args ...any) { fmt.Fprintf(o.out, format, args...) }

func (o *oracle) warnf(format string, args ...any) {
	o.warn(fmt.Sprintf(format, args...))
}

func (o *oracle) errorf(format string, args ...any) {
	o.say("error", fmt.Sprintf(format, args...))
}

func (o *oracle) say(what, text string) {
	if o.file != "" {
		what = fmt.Sprintf("%s: %s, line %d", what, o.file, o.line)
	}
	o.printf("%s: %s\n", what, text)
}

// allow and deny are the paths of the two files.
func (o *oracle) allow() string { return o.table("hosts.allow") }
func (o *oracle) deny() string  { return o.table("hosts.deny") }

func (o *oracle) table(name string) string {
	if o.here {
		return name
	}
	return "/etc/" + name
}

// checkDaemonDir warns if tcpd can't find programs without a path.
func (o *oracle) checkDaemonDir() {
	info, err := inetd.CheckPath(daemonDir, o.warn)
	switch {
	case err != nil:
		o.warnf("REAL_DAEMON_DIR %s: %s", daemonDir, inetd.Reason(err))
	case !info.IsDir():
		o.warnf("REAL_DAEMON_DIR %s is not a directory", daemonDir)
	}
}

// checkTable warns of a file that anybody may write; it need not exist.
func (o *oracle) checkTable(path string) {
	inetd.CheckPath(path, o.warn)
}

// readConf reads the configuration of inetd, if there is any.
func (o *oracle) readConf() error {
	c := &inetd.Config{}
	path := o.conf
	if path == "" {
		path = firstExisting(inetd.Places)
	}
	if path != "" {
		var err error
		if c, err = inetd.Read(path); err != nil {
			return fmt.Errorf("open %s: %s", path, inetd.Reason(err))
		}
		o.conf = path
	}
	o.processes = c.Inspect(daemonDir, func(w inetd.Warning) {
		o.file, o.line = w.File, w.Line
		o.warn(w.Text)
	})
	o.file = ""
	if o.conf == "" {
		o.conf = "(null)"
	}
	return nil
}

func firstExisting(paths []string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// checkProcess warns of a process whose rules may do nothing.
func (o *oracle) checkProcess(name string) {
	switch o.processes.Of(name) {
	case inetd.NotConfigured:
		o.warnf("%s: no such process name in %s", name, o.conf)
	case inetd.NotWrapped:
		o.warnf("%s: service possibly not wrapped", name)
	default:
		return
	}
}

// host finds the addresses of what a user wrote for a host, and says what is
// odd about the name. It is libwrap's find_inet_addr.
func (o *oracle) host(name string) []netip.Addr {
	if a, ok := identity.ParseAddr(name); ok {
		return []netip.Addr{a}
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostPatience)
	defer cancel()
	h, err := o.names().Host(ctx, name, "ip")
	if name == "" || err != nil {
		o.warnf("%s: host not found", name)
		return nil
	}
	if !strings.EqualFold(name, h.Official) {
		o.warnf("%s: hostname alias", name)
		o.warnf("(official name: %.127s)", h.Official)
	}
	return h.Addrs
}

// endpoint is a host of which the address is known; the name is looked up.
func (o *oracle) endpoint(a netip.Addr) hostsaccess.Endpoint {
	e := hostsaccess.Endpoint{Addr: netip.AddrPortFrom(a, 0)}
	name, state := o.names().HostName(a)
	switch state {
	case hostsaccess.NameKnown:
		e.Name = name
	case hostsaccess.NameParanoid:
		e.Name = paranoidHost
	default:
		e.Name = unknownHost
		o.warnf("host address %s->name lookup failed", a)
	}
	return e
}

// What libwrap calls a host without a name, and one with a wrong name.
const (
	unknownHost  = "unknown"
	paranoidHost = "paranoid"
)

func isUnknown(s string) bool  { return strings.EqualFold(s, unknownHost) }
func isParanoid(s string) bool { return strings.EqualFold(s, paranoidHost) }

// isNumeric is libwrap's test for what is no name: nothing but digits, dots
// and slashes. The empty word is numeric.
func isNumeric(s string) bool { return strings.Trim(s, "0123456789./") == "" }

// options prints what a rule's options would do, and reports what is wrong
// with them. raw is the text of the options, of which actions came.
func (o *oracle) options(raw string, actions []hostsaccess.Action) {
	fields := optionFields(raw)
	for i := range actions {
		a := &actions[i]
		if i < len(fields) && expands(a.Kind) {
			o.checkPercents(fields[i])
		}
		if o.list && a.Kind != hostsaccess.ActNone {
			o.printf("option:   %s %s\n", a.Name, a.Argument)
		}
		switch {
		case a.Fault != "":
			o.errorf("%s", a.Fault)
		case a.Kind == hostsaccess.ActBanner:
			o.banner(a)
		}
	}
}

// optionFields cuts the options of a rule apart.
func optionFields(raw string) []string {
	const colon = "\x00" // which no line holds
	raw = strings.ReplaceAll(raw, `\:`, colon)
	fields := strings.Split(raw, ":")
	for i := range fields {
		fields[i] = strings.ReplaceAll(fields[i], colon, ":")
	}
	return fields
}

func expands(k hostsaccess.ActionKind) bool {
	switch k {
	case hostsaccess.ActSpawn, hostsaccess.ActTwist, hostsaccess.ActAclExec, hostsaccess.ActSetEnv:
		return true
	}
	return false
}

// checkPercents warns of % with a letter that is none of hosts_access(5).
func (o *oracle) checkPercents(s string) {
	for i := 0; i+1 < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		i++
		if !strings.Contains("aAcdhHnNprRsu%", s[i:i+1]) {
			o.warnf("unrecognized %%%c", s[i])
		}
	}
}

// banner shows what the client would be sent.
func (o *oracle) banner(a *hostsaccess.Action) {
	if a.Output != nil {
		o.out.Write(a.Output)
		return
	}
	if _, err := os.Stat(a.Value); err != nil {
		o.warnf("%s: %s", a.Value, inetd.Reason(err))
	}
}

// end prints what is left, and an error as these programs print theirs.
func (o *oracle) end(err error) int {
	if flushErr := o.out.Flush(); err == nil && flushErr != nil {
		err = flushErr
	}
	if err == nil {
		return 0
	}
	if !errors.Is(err, errTold) {
		fmt.Fprintln(o.stderr, err)
	}
	return exitFailure
}

// isMissing says whether a file is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
