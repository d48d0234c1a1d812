package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"rpcward/internal/control"
	"rpcward/internal/daemon"
	"rpcward/internal/firewall"
	"rpcward/internal/guard"
	"rpcward/internal/policy"
	"rpcward/internal/policyfile"
	"rpcward/internal/rpcnames"
	"rpcward/internal/ruleset"
	"rpcward/internal/sandbox"
	"rpcward/rpcbind"
)

// firewallFlags are the options that all commands about the firewall have.
type firewallFlags struct {
	policyFlags
	backend        string
	defaultVerdict string
	mark           string
	port           uint16
	control        string
	socket         string
}

func (c *firewallFlags) add(f *pflag.FlagSet) {
	c.policyFlags.add(f)
	f.StringVar(&c.backend, "backend", firewall.BackendAuto, "`BACKEND` of the firewall: auto, nft, iptables-nft or iptables-legacy")
	f.StringVar(&c.defaultVerdict, "default", "closed", "`VERDICT` for clients that no rule matches: closed or allow")
	f.StringVar(&c.mark, "mark", "", "`VALUE[/MASK]` to mark the packets that are let through with, for rules that accept by it")
	f.Uint16Var(&c.port, "port", rpcbind.Port, "UDP and TCP `PORT` of the port mapper")
	f.StringVar(&c.control, "control-socket", control.Path, "`PATH` of the control socket of rpcward serve")
	f.StringVar(&c.socket, "socket", daemon.SocketPath, "`PATH` of the unix socket of another port mapper")
}

// source is where the registrations come from.
func (c *firewallFlags) source() *guard.Either {
	return &guard.Either{Control: c.control, Socket: c.socket}
}

// parseMark reads the value of --mark, decimal or hexadecimal.
func parseMark(s string) (ruleset.Mark, error) {
	if s == "" {
		return ruleset.Mark{}, nil
	}
	value, mask, masked := strings.Cut(s, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	m := uint64(0xffffffff)
	if err == nil && masked {
		m, err = strconv.ParseUint(mask, 0, 32)
	}
	if err != nil || v == 0 || v&^m != 0 {
		return ruleset.Mark{}, &hintError{fmt.Errorf("--mark %q is no mark", s), "write a number within its mask, such as 0x100 or 0x100/0xff00"}
	}
	return ruleset.Mark{Value: uint32(v), Mask: uint32(m)}, nil
}

func newGuardCommand(stderr io.Writer) *cobra.Command {
	var (
		flags        firewallFlags
		removeOnExit bool
		debug        bool
	)
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "Keep the kernel firewall in step with the registered services",
		Long: `Keep the kernel firewall in step with the registered services.

Each port that an RPC service registers is open to those whom /etc/hosts.allow and
/etc/hosts.deny let reach that service (mountd, rpc.mountd and 100005 all name it),
and to nobody else, over UDP and TCP, IPv4 and IPv6. A service that no rule names
follows the port mapper's rules. This host itself is never kept out.

Beside rpcward serve a registration is published when its port is guarded; beside
another port mapper the guard asks once a second. The rules stay when it ends.`,
		Example: `  rpcward guard
  rpcward guard --backend nft --mark 0x100
  rpcward firewall plan        # what it would do, before it does`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, end := daemon.OpenLog("rpcward-guard", stderr, debug)
			defer end()
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
			defer stop()
			verdict, err := parseDefault(flags.defaultVerdict)
			if err != nil {
				return err
			}
			mark, err := parseMark(flags.mark)
			if err != nil {
				return err
			}
			fw, err := openFirewall(flags.backend)
			if err != nil {
				return err
			}
			defer fw.Close()
			if err := limitRights(fw.Name()); err != nil {
				return err
			}
			source := flags.source()
			source.Log = log
			watcher := policyfile.New(flags.allow, flags.deny, policy.Options{Default: verdict}, log)
			g := guard.New(guard.Config{
				Firewall: fw, Source: source, Policy: watcher, Default: verdict, Names: rpcnames.Names,
				Mark: mark, Own: flags.port, Log: log,
				Ready: func() {
					log.Info("guarding the port mapper", "backend", fw.Name())
					sd.SdNotify(false, sd.SdNotifyReady)
				},
			})
			if err := runGuard(ctx, g, watcher); err != nil {
				return err
			}
			if removeOnExit {
				return fw.Remove()
			}
			return nil
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().BoolVar(&removeOnExit, "remove-on-exit", false, "take the rules away at the end, which opens the ports")
	cmd.Flags().BoolVarP(&debug, "debug", "d", false, "log more")
	return cmd
}

// runGuard runs g and what it depends on until ctx is done.
func runGuard(ctx context.Context, g *guard.Guard, w *policyfile.Watcher) error {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	workers.Go(func() { w.Run(ctx) })
	workers.Go(func() {
		for {
			select {
			case <-hangup:
				w.Reload(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return g.Run(ctx)
}

// openFirewall opens a backend, with advice if that can't be.
func openFirewall(backend string) (firewall.Firewall, error) {
	if !sandbox.HasCapability(unix.CAP_NET_ADMIN) {
		return nil, &hintError{fmt.Errorf("the firewall can't be changed without CAP_NET_ADMIN"), "run this as root"}
	}
	return firewall.Open(backend, firewall.Options{})
}

// limitRights keeps what a backend needs: netlink wants CAP_NET_ADMIN, and the
// programs of iptables open a raw socket too.
func limitRights(backend string) error {
	if backend == firewall.BackendNFT {
		return sandbox.KeepCapabilities(unix.CAP_NET_ADMIN)
	}
	return sandbox.KeepCapabilities(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
}
