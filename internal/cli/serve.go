package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpcward/internal/daemon"
	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/sandbox"
)

// newServeCommand is `rpcward serve`.
func newServeCommand(stdout, stderr io.Writer) *cobra.Command {
	c := daemon.Default()
	c.Stderr = stderr
	var (
		defaultVerdict string
		forward        []string
		fallback       bool
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the port mapper",
		Long: `Run the port mapper (portmap version 2, rpcbind versions 3 and 4) in the foreground.

Who is answered over the network is said by /etc/hosts.allow and /etc/hosts.deny,
under the names portmap, rpcbind or rpcward. If no rule matches, only this host is
answered. One line in hosts.allow opens a network, for UDP and TCP at once:

    portmap : 192.168.1.0/24
    portmap : [2001:db8::]/32`,
		Example: `  rpcward serve
  rpcward serve --listen eth1 --listen 192.168.1.1
  rpcward serve --forward default          # let NIS clients find their server by broadcast
  rpcward serve --port 11111 --loopback-only --state-dir none`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Default, err = parseDefault(defaultVerdict); err != nil {
				return err
			}
			if c.Mapper.Forward, err = parseForward(forward); err != nil {
				return err
			}
			c.StateRequired = cmd.Flags().Changed("state-dir")
			if c.StateDir == "none" {
				c.StateDir = ""
			}
			if fallback {
				return serveOrFallBack(cmd.Context(), c)
			}
			return daemon.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&c.Hosts, "listen", "l", nil, "serve this `ADDRESS` or interface only; may be repeated; loopback is always served")
	f.Uint16VarP(&c.Port, "port", "p", c.Port, "UDP and TCP `PORT`")
	f.BoolVar(&c.LoopbackOnly, "loopback-only", false, "serve 127.0.0.1 and ::1 only")
	f.StringArrayVar(&c.Unix, "socket", c.Unix, "unix socket `PATH` for this host's services, \"@\" begins an abstract one; may be repeated")
	f.StringVar(&c.AllowFile, "hosts-allow", c.AllowFile, "`FILE` of rules for who is answered, hosts_access(5)")
	f.StringVar(&c.DenyFile, "hosts-deny", c.DenyFile, "`FILE` of rules for who is refused, hosts_access(5)")
	f.StringVar(&defaultVerdict, "default", "closed", "`VERDICT` for clients that no rule matches: closed or allow")
	f.StringVar(&c.StateDir, "state-dir", c.StateDir, "`FOLDER` where registrations are saved, or none")
	f.StringVar(&c.ImportDir, "rpcbind-state", c.ImportDir, "`FOLDER` of rpcbind's warm start files, to take over from it and to go back")
	f.StringVar(&c.LockFile, "lock-file", c.LockFile, "`FILE` that keeps a second port mapper away")
	f.BoolVar(&c.Reap, "reap", false, "remove registrations whose ports no socket is bound to any more")
	f.StringVar(&c.ControlSocket, "control-socket", c.ControlSocket, "unix socket `PATH` for rpcward guard and status, empty for none")
	f.StringVar(&c.User, "user", "", "`NAME` of the user to work as after start (default _rpc, rpc or daemon)")
	f.BoolVar(&c.Mapper.InsecureLocal, "insecure-local", false, "let unprivileged ports of this host register over IP")
	f.BoolVar(&c.Mapper.InsecureRemote, "insecure-remote", false, "let hosts that the rules allow register and unregister")
	f.StringArrayVar(&forward, "forward", nil, "forward `CALLS` for others: default, or PROGRAM:PROCEDURE[,PROCEDURE...]; may be repeated")
	f.Uint32Var(&c.Mapper.Rates.Unlisted, "rate", c.Mapper.Rates.Unlisted, "answer `N` calls a second of each network (/24, IPv6 /56) that --default allow lets in; 0 for no limit")
	f.Uint32Var(&c.Mapper.Rates.Listed, "rate-listed", c.Mapper.Rates.Listed, "answer `N` calls a second of each network that a rule lets in; 0 for no limit")
	f.BoolVar(&c.Mapper.Rates.LogOnly, "rate-log-only", false, "log what is over these rates, and answer it")
	f.BoolVar(&c.LogConnections, "log-connections", false, "log allowed calls too")
	f.BoolVarP(&c.Debug, "debug", "d", false, "log more")
	f.BoolVar(&fallback, "fallback", false, fmt.Sprintf("where port 111 can't be had, serve port %d on loopback without any files", daemon.FallbackPort))
	return cmd
}

// serveOrFallBack serves the host, or if that can't be, something to look at.
func serveOrFallBack(ctx context.Context, c daemon.Config) error {
	c.Ready = func() {
		fmt.Fprintf(c.Stderr, "next, in another terminal:  %s rpcinfo -p    (Ctrl-C ends this one)\n", os.Args[0])
	}
	err := daemon.Run(ctx, c)
	if err == nil {
		return nil
	}
	fmt.Fprintf(c.Stderr, "port 111 can't be served: %v\nserving port %d of this host's loopback address instead, with built-in defaults\n", err, daemon.FallbackPort)
	c.Port, c.LoopbackOnly, c.Unix = daemon.FallbackPort, true, nil
	c.AllowFile, c.DenyFile, c.StateDir, c.ImportDir, c.LockFile, c.ControlSocket = "", "", "", "", "", ""
	c.Mapper.InsecureLocal = true
	c.Ready = func() {
		fmt.Fprintf(c.Stderr, "next, in another terminal:  %s rpcinfo -a 127.0.0.1.%d.%d -T udp 100000    (Ctrl-C ends this one)\n", os.Args[0], daemon.FallbackPort>>8, daemon.FallbackPort&0xff)
	}
	return daemon.Run(ctx, c)
}

func parseDefault(s string) (policy.Default, error) {
	switch s {
	case "closed":
		return policy.Closed, nil
	case "allow":
		return policy.Allow, nil
	}
	return policy.Closed, fmt.Errorf("--default is closed or allow, not %q", s)
}

// parseForward reads the values of --forward.
func parseForward(values []string) (*portmapper.ForwardList, error) {
	if len(values) == 0 {
		return nil, nil
	}
	list := portmapper.ForwardList{}
	for _, v := range values {
		if v == "default" {
			for program, procs := range portmapper.DefaultForwardList() {
				list[program] = append(list[program], procs...)
			}
			continue
		}
		program, procs, err := parseForwardRule(v)
		if err != nil {
			return nil, err
		}
		list[program] = append(list[program], procs...)
	}
	return &list, nil
}

func parseForwardRule(v string) (program uint32, procs []uint32, err error) {
	name, list, ok := strings.Cut(v, ":")
	n, err := strconv.ParseUint(name, 10, 32)
	if !ok || err != nil {
		return 0, nil, fmt.Errorf("--forward %q: write PROGRAM:PROCEDURE[,PROCEDURE...] in numbers, or default", v)
	}
	for p := range strings.SplitSeq(list, ",") {
		proc, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return 0, nil, fmt.Errorf("--forward %q: %q is not a procedure number", v, p)
		}
		procs = append(procs, uint32(proc))
	}
	return uint32(n), procs, nil
}

const rpcbindUsage = "usage: rpcbind [-adfiLlrsvw] [-h address] ...\n"

// rpcbindMain is the daemon under rpcbind's name and with its options, rpcbind(8).
func rpcbindMain(args []string, stdout, stderr io.Writer) int {
	opts, operands, err := getopt("adfiLlrsvwh:", nil, args)
	if err != nil || len(operands) > 0 {
		if err != nil {
			fmt.Fprintf(stderr, "rpcbind: %v\n", err)
		}
		fmt.Fprint(stderr, rpcbindUsage)
		return 1
	}
	c := daemon.Default()
	c.Name, c.Stderr = "rpcbind", stderr
	foreground := false
	for _, o := range opts {
		switch o.name {
		case "d":
			c.Debug = true
		case "f":
			foreground = true
		case "h":
			c.Hosts = append(c.Hosts, o.arg)
		case "i":
			c.Mapper.InsecureLocal, c.Mapper.InsecureRemote = true, true
		case "L":
			c.Mapper.InsecureLocal = true
		case "l":
			c.LogConnections = true
		case "r":
			list := portmapper.DefaultForwardList()
			c.Mapper.Forward = &list
		case "s":
			c.User = "daemon"
		case "v":
			printRpcbindVersion(stdout)
			return 0
		}
		// -a (abort on errors when debugging) and -w (warm start) ask for what
		// is always so: errors end the start, and state is kept.
	}
	if os.Geteuid() != 0 && !inherited() && !mayBind() && !inBackground() {
		fmt.Fprintln(stderr, "rpcbind: Sorry. You are not superuser")
		return 1
	}
	return runDaemon(c, foreground)
}

func printRpcbindVersion(w io.Writer) {
	fmt.Fprintf(w, "rpcbind (rpcward) %s\nremote calls: no, unless -r\nhosts_access(5): yes\nwarm start: always\n", version())
}

const portmapUsage = `usage: portmap [-dfFvV] [-t dir] [-i address] [-l] [-u uid] [-g gid] [-U user] [-m mapfile] [-p port]
  -d, -f, -F  stay in the foreground
  -v          log requests
  -i address  serve this address only; may be repeated
  -l          serve 127.0.0.1 and ::1 only
  -U user     work as this user; -u and -g are taken from it
  -m mapfile  take over the mappings in this file
  -p port     serve this port
  -V          print the version
`

// portmapMain is the daemon under portmap's name and with its options, portmap(8).
func portmapMain(args []string, stdout, stderr io.Writer) int {
	opts, operands, err := getopt("Vdfvlt:i:u:g:U:m:p:hF", nil, args)
	if err != nil || len(operands) > 0 {
		if err != nil {
			fmt.Fprintf(stderr, "portmap: %v\n", err)
		}
		fmt.Fprint(stderr, portmapUsage)
		return 1
	}
	c := daemon.Default()
	c.Name, c.Stderr = "portmap", stderr
	foreground := false
	for _, o := range opts {
		switch o.name {
		case "V":
			fmt.Fprintf(stdout, "portmap (rpcward) %s\n", version())
			return 0
		case "h":
			fmt.Fprint(stdout, portmapUsage)
			return 0
		case "d", "f", "F":
			foreground = true
			c.Debug = c.Debug || o.name == "d"
		case "v":
			c.LogConnections = true
		case "l":
			c.LoopbackOnly = true
		case "i":
			c.Hosts = append(c.Hosts, o.arg)
		case "U":
			c.User = o.arg
		case "m":
			if c.MapFile, err = filepath.Abs(o.arg); err != nil { // the background is at /
				fmt.Fprintf(stderr, "portmap: -m %s: %v\n", o.arg, err)
				return 1
			}
		case "p":
			port, err := strconv.ParseUint(o.arg, 10, 16)
			if err != nil || port == 0 {
				fmt.Fprintf(stderr, "portmap: -p %s: not a port\n", o.arg)
				return 1
			}
			c.Port = uint16(port)
		case "t", "u", "g":
			fmt.Fprintf(stderr, "portmap: -%s is not needed and has no effect: name a user with -U\n", o.name)
		}
	}
	return runDaemon(c, foreground)
}

// inherited reports whether a service manager passed sockets, sd_listen_fds(3).
func inherited() bool { return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) }

// mayBind reports whether this process may bind port 111 without being root.
func mayBind() bool { return sandbox.HasCapability(unix.CAP_NET_BIND_SERVICE) }

// runDaemon runs c in this process, or in one of its own in the background.
func runDaemon(c daemon.Config, foreground bool) int {
	var err error
	switch {
	case foreground:
		err = daemon.Run(context.Background(), c)
	case inBackground():
		err = runDetached(c)
	default:
		err = detach()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
	var hint *daemon.HintError
	if errors.As(err, &hint) {
		fmt.Fprintf(c.Stderr, "%s: hint: %s\n", c.Name, hint.Hint)
	}
	return 1
}
