package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rpcward/oncrpc"
	"rpcward/rpcbind/client"
)

const rpcinfoLong = `Ask a port mapper what is registered, and call the services. Without HOST this
host's port mapper is asked over its unix socket. The short options and the
output are rpcinfo(8)'s; what a server sends is shown with control characters
escaped, and long texts cut.

What to do is said by one of the options; without one all registrations are
listed, and with --netid and a PROGRAM that program is called.

With --json the result is one object. Its fields stay, new ones may be added:
  (none)         registrations: program version netid address service owner
  -s             programs: program versions netids service owner
  -p             mappings: program version protocol port service
  -l             addresses: program version netid family protocol semantics
                 address service
  -m             statistics, for each version: version calls sets unsets,
                 lookups: program version netid service success failure,
                 remote_calls: these and procedure indirect
  -T -t -u -a    pings: program version available error
  -b             answers: address host
  -d             program version netid deleted`

const rpcinfoExample = `  rpcward rpcinfo                               # all that is registered here
  rpcward rpcinfo -p nfs.example.org            # what a port mapper of version 2 tells
  rpcward rpcinfo -t nfs.example.org nfs        # which versions of NFS answer over TCP
  rpcward rpcinfo -T udp6 2001:db8::1 mountd 3  # does this one answer
  rpcward rpcinfo -u -n 2049 192.0.2.1 nfs 3    # at this port, whatever is registered
  rpcward rpcinfo -a 192.0.2.1.8.1 -T tcp nfs   # the same as a universal address
  rpcward rpcinfo -b ypserv 2                   # who serves NIS on these networks
  rpcward rpcinfo -d 100024 1                   # remove a dead service's registration
  rpcward rpcinfo --json | jq '.registrations[] | select(.owner == "unknown")'`

// newRPCInfoCommand is `rpcward rpcinfo`: the same as the drop-in command, with
// long names for its options.
func newRPCInfoCommand(stdout, stderr io.Writer) *cobra.Command {
	r := &rpcinfo{stdout: bufio.NewWriter(stdout)}
	r.warn = func(text string) {
		r.stdout.Flush()
		fmt.Fprintf(stderr, "rpcward: error: %s\n", text)
	}
	cmd := &cobra.Command{
		Use:     "rpcinfo [OPTIONS] [HOST] [PROGRAM [VERSION]]",
		Short:   "Ask port mappers, call services",
		Long:    rpcinfoLong,
		Example: rpcinfoExample,

		DisableFlagsInUseLine: true,
	}
	forms := map[rpcinfoForm]*bool{}
	f := cmd.Flags()
	f.SortFlags = false
	form := func(letter rpcinfoForm, name, usage string) {
		forms[letter] = f.BoolP(name, string(rune(letter)), false, usage)
	}
	form(formShort, "summary", "list programs, with their versions and netids on one line: [HOST]")
	form(formPortmap, "portmap", "list the mappings that version 2 knows: [HOST]")
	form(formStat, "statistics", "show how often the port mapper was asked for what: [HOST]")
	form(formList, "list", "list a program's addresses: HOST PROGRAM VERSION")
	form(formTCP, "tcp", "call a program over TCP: HOST PROGRAM [VERSION]")
	form(formUDP, "udp", "call a program over UDP: HOST PROGRAM [VERSION]")
	form(formBroadcast, "broadcast", "have all port mappers in reach call a program: PROGRAM VERSION")
	form(formDelete, "delete", "remove a registration of this host: PROGRAM VERSION")
	f.StringVarP(&r.uaddr, "address", "a", "", "call a program at this universal `ADDRESS`, with -T: PROGRAM [VERSION]")
	f.StringVarP(&r.netid, "netid", "T", "", "transport: udp, tcp, udp6, tcp6 or local `NETID`")
	f.Uint16VarP(&r.port, "port", "n", 0, "with -t and -u: call this `PORT` and don't ask the port mapper")
	f.BoolVar(&r.json, "json", false, "print JSON")
	f.Var((*timeoutValue)(&r.timeout), "timeout", "wait this `TIME` for each answer, such as 2.5s")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.args = args
		if err := r.setForm(forms, cmd.Flags().Changed("address")); err != nil {
			return &usageError{err}
		}
		return r.endToolbox(r.run())
	}
	return cmd
}

// setForm takes the one form that was asked for.
func (r *rpcinfo) setForm(forms map[rpcinfoForm]*bool, address bool) error {
	if address {
		r.form = formAddress
	}
	for letter, chosen := range forms {
		if !*chosen {
			continue
		}
		if r.form != formNone {
			return errors.New("only one of -a -b -d -l -m -p -s -t -u says what to do")
		}
		r.form = letter
	}
	return nil
}

// endToolbox turns the end of a run into what rpcward prints of it.
func (r *rpcinfo) endToolbox(err error) error {
	if flushErr := r.stdout.Flush(); err == nil && flushErr != nil {
		return fmt.Errorf("writing: %w", flushErr)
	}
	if errors.Is(err, errUsage) {
		return &usageError{err}
	}
	var e *rpcinfoError
	if !errors.As(err, &e) {
		return err
	}
	err = errors.New(strings.TrimPrefix(e.Error(), "rpcinfo: "))
	if hint := rpcHint(e.cause); hint != "" {
		return &hintError{err, hint}
	}
	return err
}

// rpcHint advises what to look at after a failed call.
func rpcHint(err error) string {
	var reply *oncrpc.ReplyError
	var dns *net.DNSError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &dns):
		return "the name or address is unknown, or not of the transport's family"
	case errors.Is(err, client.ErrNotRegistered):
		return "`rpcward rpcinfo HOST` lists what is registered"
	case errors.As(err, &reply) && reply.Stat == oncrpc.MsgDenied:
		return "the port mapper refuses this host: see hosts.allow and hosts.deny over there"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return "nobody listens there: is the port mapper running?"
	case errors.Is(err, syscall.EACCES):
		return "only root may do that"
	case callWords(err) == "RPC: Timed out":
		return "no answer: a firewall may drop the packets, or the port mapper may ignore strangers"
	}
	return ""
}

// timeoutValue is the value of --timeout.
type timeoutValue time.Duration

func (t *timeoutValue) String() string {
	if *t == 0 {
		return ""
	}
	return time.Duration(*t).String()
}

// Set reads a duration, or a number of seconds.
func (t *timeoutValue) Set(s string) error {
	d, err := parseTimeout(s)
	*t = timeoutValue(d)
	return err
}

// Type is what the help shows if nothing else names the value.
func (t *timeoutValue) Type() string { return "time" }
