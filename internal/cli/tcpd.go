package cli

import (
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
	"rpcward/internal/effects"
	"rpcward/internal/identity"
	"rpcward/internal/inetd"
)

// The places that the TCP Wrappers know. They are compiled in, as in Debian's:
// whoever starts tcpd could otherwise choose its rules.
const (
	allowFile = "/etc/hosts.allow"
	denyFile  = "/etc/hosts.deny"
	daemonDir = "/usr/sbin" // REAL_DAEMON_DIR
)

// tcpdUmask keeps services from making files that everybody may write.
const tcpdUmask = 0o022

// refusalPause is how long tcpd stays after refusing a client, so that inetd
// is not kept busy by one that tries again and again. The connection is closed
// before. (Debian's tcpd stays for 5 seconds and keeps the connection open.)
const refusalPause = time.Second

func newTcpdCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tcpd DAEMON [ARGUMENT]...",
		Short: "Check a client's access, then become the daemon that serves it",
		Long: `tcpd is started by inetd, xinetd or systemd with a client's connection as its
standard input. It asks /etc/hosts.allow and /etc/hosts.deny, carries out the
options of the rule that decides, and becomes the daemon or closes the
connection. It logs what it did with syslog(3), and prints nothing.

DAEMON is a path, whose last component is the name in the rules, or the name of
a program in ` + daemonDir + `. Installed under the name tcpd, the program takes it from
argv[0], as inetd.conf(5) and xinetd's flag NAMEINARGS give it.`,
		Example: `  finger stream tcp nowait nobody /usr/sbin/rpcward rpcward tcpd in.fingerd
  finger stream tcp nowait nobody /usr/sbin/tcpd    in.fingerd   # installed as tcpd`,
		Args:               cobra.MinimumNArgs(1),
		DisableFlagParsing: true, // they are the daemon's
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.HasPrefix(args[0], "-") {
				return cmd.Help()
			}
			if tcpdMain(args, cmd.ErrOrStderr()) != 0 {
				return errTold
			}
			return nil
		},
	}
}

// calledAsTcpd says whether this program was executed under the name tcpd.
// argv[0] doesn't tell: inetd puts the name of the service there.
func calledAsTcpd() bool { return filepath.Base(executedPath()) == "tcpd" }

// atExecFn is AT_EXECFN, linux/auxvec.h.
const atExecFn = 31

// executedPath returns the path that execve(2) was called with, of
// several names the one that was used, getauxval(3). "" if that
// can't be told.
func executedPath() string {
	auxv, err := unix.Auxv()
	if err != nil {
		return ""
	}
	for _, entry := range auxv {
		if entry[0] == atExecFn {
			return ownString(int64(entry[1]))
		}
	}
	return ""
}

// ownString reads a C string of this process.
func ownString(address int64) string {
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return ""
	}
	defer memory.Close()
	b := make([]byte, unix.PathMax)
	n, err := memory.ReadAt(b, address)
	if err != nil && n == 0 {
		return ""
	}
	path, _, _ := strings.Cut(string(b[:n]), "\x00")
	return path
}

// tcpdMain is tcpd(8): argv is what inetd called it with. Like the original it
// tells nobody but the log, and ends with 0 where it refused.
func tcpdMain(argv []string, stderr io.Writer) int {
	process := filepath.Base(argv[0])
	if strings.EqualFold(process, "tcpd") || !isSocket(0) {
		fmt.Fprintln(stderr, "tcpd: is started by inetd, with a client's connection, in the place of a service; see tcpd(8)")
		return exitFailure
	}
	unix.Umask(tcpdUmask)
	w := wrapper{argv: argv, process: process}
	w.path = argv[0]
	if !filepath.IsAbs(w.path) {
		w.path, w.process = daemonDir+"/"+argv[0], argv[0]
	}
	w.argv[0] = w.process
	w.names.Warn = func(text string) { w.log(syslog.LOG_ERR, "warning: %s", text) }
	if err := w.serve(); err != nil {
		w.session.Refuse()
		time.Sleep(refusalPause)
	}
	return 0
}

func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// wrapper is one tcpd.
type wrapper struct {
	path    string // the program
	process string // its name, for rules and the log
	argv    []string
	session *effects.Session
	names   identity.Resolver
	user    string // what ident said; "" if nobody was asked
}

// errRefused is told to nobody but the log.
var errRefused = errors.New("refused")

// serve decides, and becomes the service or the command of a twist option. It
// returns when the client is refused, or when nothing could be become of.
func (w *wrapper) serve() (err error) {
	if w.session, err = effects.Inherit(0); err != nil {
		w.log(syslog.LOG_ERR, "warning: %v", err)
	}
	w.session.Warn = func(text string) { w.log(syslog.LOG_ERR, "warning: %s", text) }
	if err := w.ipOptions(); err != nil {
		return err
	}
	decision := w.decide()
	refuse := decision.Verdict == hostsaccess.Deny
	o, err := w.session.Run(decision.Actions)
	if err != nil {
		w.log(syslog.LOG_ERR, "error: %s: %v", place(decision.Rule), err)
		refuse = true
	}
	return w.finish(refuse, decision.Why, o)
}

// place is a rule as messages name it.
func place(r *hostsaccess.Rule) string {
	if r == nil {
		return "no rule"
	}
	return fmt.Sprintf("%s, line %d", r.File, r.LastLine)
}

// finish does what was decided.
func (w *wrapper) finish(refuse bool, why string, o effects.Outcome) error {
	granted, refused := syslog.LOG_DAEMON|syslog.LOG_INFO, syslog.LOG_DAEMON|syslog.LOG_WARNING
	if o.Logs {
		granted, refused = o.Priority, o.Priority
	}
	if refuse {
		w.log(refused, "refused connect from %s (%s)", w.client(), w.address())
		return errRefused
	}
	if o.Twist != "" {
		w.log(refused, "twist %s to %s", w.client(), o.Twist)
		err := w.session.Become(o.Twist)
		w.log(syslog.LOG_ERR, "error: %v", err)
		return err
	}
	w.log(granted, "connect from %s (%s)", w.client(), w.address())
	err := unix.Exec(w.path, w.argv, os.Environ())
	w.log(syslog.LOG_ERR, "error: cannot execute %s: %s", w.path, inetd.Reason(err))
	return err
}

// ipOptions refuses clients that say which way answers go to them, and drops
// all other IP options: tcpd(8), "HOST ADDRESS SPOOFING".
func (w *wrapper) ipOptions() error {
	options := w.session.IPOptions()
	if options == nil {
		return nil
	}
	if effects.SourceRouted(options) {
		w.log(syslog.LOG_WARNING, "refused connect from %s with IP source routing options", w.client())
		return errRefused
	}
	w.log(syslog.LOG_NOTICE, "connect from %s with IP options (ignored): % x", w.client(), options)
	if err := w.session.ClearIPOptions(); err != nil {
		w.log(syslog.LOG_ERR, "%v", err)
		return err
	}
	return nil
}

// decide asks the two files.
func (w *wrapper) decide() hostsaccess.Decision {
	tables := hostsaccess.NewTables(hostsaccess.Strict, readTable(allowFile), readTable(denyFile), thisMachine())
	w.tell(tables.Diagnostics())
	return tables.Decide(&hostsaccess.Request{
		Daemon:   w.process,
		Client:   hostsaccess.Endpoint{Addr: w.session.Client},
		Server:   hostsaccess.Endpoint{Addr: w.session.Server},
		PID:      os.Getpid(),
		Datagram: !w.session.Stream,
		Resolver: askedOnce{w},
		AclExec:  effects.Succeeds,
	})
}

// mostTold bounds what one connection logs about wrong rules.
const mostTold = 10

// tell logs the mistakes in the files, since rules that hold one may refuse.
func (w *wrapper) tell(all []hostsaccess.Diagnostic) {
	told := 0
	for _, d := range all {
		if d.Severity != hostsaccess.Error {
			continue
		}
		if told++; told > mostTold {
			w.log(syslog.LOG_ERR, "warning: and more; see rpcward check")
			return
		}
		w.log(syslog.LOG_ERR, "warning: %s, line %d: %s", d.File, d.Pos.Line, d.Message)
	}
}

// askedOnce keeps what ident said, for the log.
type askedOnce struct{ *wrapper }

func (a askedOnce) HostName(addr netip.Addr) (string, hostsaccess.NameState) {
	return a.names.HostName(addr)
}

func (a askedOnce) UserName(client, server netip.AddrPort, seconds int) string {
	a.user = a.names.UserName(client, server, seconds)
	return a.user
}

// client is the client as far as it is known by now: user@host.
func (w *wrapper) client() string {
	host, known := w.names.Known(w.session.Client.Addr())
	if !known {
		host = w.address()
	}
	if w.user == "" {
		return host
	}
	return w.user + "@" + host
}

func (w *wrapper) address() string {
	if a := w.session.Client.Addr(); a.IsValid() {
		return a.Unmap().String()
	}
	return "unknown"
}

// log writes to syslog(3). Whatever can't be logged there is lost: standard
// error is the client's connection.
func (w *wrapper) log(p syslog.Priority, format string, args ...any) {
	const facilities = ^7
	if p&facilities == 0 {
		p |= syslog.LOG_DAEMON
	}
	log, err := syslog.New(p, w.process)
	if err != nil {
		return
	}
	defer log.Close()
	io.WriteString(log, oneLine(fmt.Sprintf(format, args...)))
}

// oneLine makes what a client may have chosen fit for a log.
func oneLine(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// readTable reads one of the two files.
func readTable(path string) hostsaccess.Source {
	data, err := os.ReadFile(path)
	s := hostsaccess.SourceFrom(path, data, err)
	if errors.Is(err, unix.EISDIR) {
		s.State = hostsaccess.TableDirectory
	}
	return s
}

// thisMachine is what rules can ask of it.
func thisMachine() hostsaccess.Environment {
	return hostsaccess.Environment{
		ReadFile:   os.ReadFile,
		InNetgroup: inNetgroup,
		HasInterface: func(name string) bool {
			_, err := net.InterfaceByName(name)
			return err == nil
		},
		HasUser: func(name string) bool {
			_, err := user.Lookup(name)
			return err == nil
		},
		HasGroup: func(name string) bool {
			_, err := user.LookupGroup(name)
			return err == nil
		},
	}
}
