// Package daemon is the port mapper as a program: it opens sockets and state,
// gives up root, answers calls until it is told to stop, and reloads the policy
// when it changes. It wires the other packages together and has no logic of
// the protocol itself.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"

	"rpcward/internal/control"
	"rpcward/internal/policy"
	"rpcward/internal/policyfile"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/internal/sockdiag"
	"rpcward/internal/transport"
	"rpcward/internal/warmstart"
	"rpcward/rpcbind"
)

// Config is what a command line says. Default returns the usual one.
type Config struct {
	Name string // under which messages are logged

	Port         uint16   // for UDP and TCP
	Hosts        []string // addresses and interfaces to serve, none for all
	LoopbackOnly bool     // serve 127.0.0.1 and ::1 alone
	Unix         []string // unix sockets; "@" begins an abstract one

	AllowFile, DenyFile string         // hosts_access(5); both empty for no rules
	Default             policy.Default // for clients that no rule matches

	StateDir      string // registrations are kept here; empty keeps them in memory only
	StateRequired bool   // do not start without StateDir
	ImportDir     string // rpcbind's warm start files; empty for none
	MapFile       string // portmap's mapping file, read when there is no other state
	LockFile      string // empty for none
	ControlSocket string // for guard and status; empty for none
	User          string // to work as after start; empty picks one

	Reap           bool // remove registrations whose services are gone
	Mapper         portmapper.Options
	LogConnections bool
	Debug          bool
	Background     bool // log to syslog

	Stderr io.Writer
	Ready  func() // called when calls are answered; may be nil
}

// Paths that port mappers and their clients agree on.
const (
	SocketPath     = "/run/rpcbind.sock"  // _PATH_RPCBINDSOCK in rpc/rpcb_prot.h
	AbstractSocket = "@/run/rpcbind.sock" // _PATH_RPCBINDSOCK_ABSTRACT
	LockPath       = "/run/rpcbind.lock"
	ControlPath    = control.Path
	StatePath      = "/run/rpcward"
	RpcbindState   = "/run/rpcbind" // where rpcbind keeps its warm start files
	netconfigPath  = "/etc/netconfig"
)

// FallbackPort needs no rights, and is served for a first look.
const FallbackPort = 11111

// Default is the configuration of a port mapper for a whole host.
func Default() Config {
	return Config{
		Name: "rpcward", Port: rpcbind.Port, Unix: []string{SocketPath, AbstractSocket},
		AllowFile: "/etc/hosts.allow", DenyFile: "/etc/hosts.deny",
		StateDir: StatePath, ImportDir: RpcbindState, LockFile: LockPath, ControlSocket: ControlPath,
		Mapper: portmapper.Options{Rates: policy.DefaultRates()},
		Stderr: os.Stderr,
	}
}

// daemon is a Config at work.
type daemon struct {
	Config
	queue   *logQueue
	log     *slog.Logger
	socks   *transport.Sockets
	control net.Listener   // nil without a control socket
	made    []string       // files of unix sockets that are ours, not passed to us
	state   *warmstart.Dir // nil without a state folder
	saved   []registry.Registration
	policy  *policyfile.Watcher
	reg     *registry.Registry
	access  *accessLog
	hangup  chan os.Signal
}

// Run serves until ctx is done or the process is told to stop by SIGTERM,
// SIGINT or SIGQUIT, and returns when the last call is answered and everything
// is saved. An error means that it did not start.
func Run(ctx context.Context, c Config) error {
	d := &daemon{Config: c, queue: newLogQueue(openSink(c.Name, c.Background, c.Stderr)), hangup: make(chan os.Signal, 1)}
	defer d.queue.close() // last of all: state and lock do not wait for the log
	d.log = newLogger(d.queue, c.Debug)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer stop()
	signal.Ignore(syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	signal.Notify(d.hangup, syscall.SIGHUP)
	defer signal.Stop(d.hangup)

	if c.LockFile != "" {
		l, err := takeLock(&c, d.log)
		if err != nil {
			return err
		}
		defer l.release()
	}
	if err := d.openSockets(); err != nil {
		return err
	}
	if err := d.openState(); err != nil {
		d.abandon()
		return err
	}
	return d.serve(ctx)
}

// abandon closes what was opened for a start that failed, so that another one
// can be tried in this process too.
func (d *daemon) abandon() {
	d.socks.Close()
	if d.control != nil {
		d.control.Close()
	}
	for _, path := range d.made {
		os.Remove(path)
	}
	if d.state != nil {
		d.state.Close()
	}
}

// openSockets takes the sockets that a service manager passed; only without
// any it opens its own.
func (d *daemon) openSockets() error {
	var err error
	if files := activation.Files(true); len(files) > 0 {
		d.socks, err = transport.FromFiles(files)
	} else {
		d.socks, err = transport.Listen(transport.Config{
			Port: d.Port, Hosts: d.Hosts, LoopbackOnly: d.LoopbackOnly,
			NetIDs: visibleTransports(netconfigPath), Unix: d.Unix, Workers: transport.Workers(),
		})
		d.made = slices.DeleteFunc(slices.Clone(d.Unix), func(path string) bool { return strings.HasPrefix(path, "@") })
	}
	var taken *transport.TakenError
	switch {
	case errors.As(err, &taken):
		if taken.Path == "" {
			taken.By, _ = sockdiag.Holder(taken.NetID, taken.Addr.Port())
		}
		return taken
	case errors.Is(err, syscall.EACCES):
		return &HintError{err, fmt.Sprintf("ports below 1024 need root or CAP_NET_BIND_SERVICE; --port %d does not", FallbackPort)}
	case err != nil:
		return err
	}
	for _, note := range d.socks.Skipped {
		d.log.Warn("not served: " + note)
	}
	d.openControl()
	if d.Mapper.Forward != nil {
		d.socks.JoinMulticast(interfaceIndexes())
	}
	return nil
}

// openControl opens the control socket. Without one there is no guard that is in
// step, but all else works.
func (d *daemon) openControl() {
	if d.ControlSocket == "" {
		return
	}
	l, err := transport.ListenUnix(d.ControlSocket)
	if errors.Is(err, fs.ErrPermission) {
		d.log.Debug("no control socket: this user may not make one", "err", err)
		return
	}
	if err != nil {
		d.log.Warn("no control socket: neither guard nor status can ask", "err", err)
		return
	}
	d.control = l
	d.made = append(d.made, d.ControlSocket)
}

// HintError is an error with advice for the user.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

func interfaceIndexes() []int {
	ifis, _ := net.Interfaces() // none: no broadcasts over IPv6
	var list []int
	for _, i := range ifis {
		list = append(list, i.Index)
	}
	return list
}

// openState opens the state folder while the process still has the rights to
// make it, and gives those up.
func (d *daemon) openState() error {
	acc, err := serviceAccount(d.User)
	if err != nil {
		return err
	}
	if acc.stuck != nil {
		d.log.Warn("working as root, without its capabilities: start it as another user, with CAP_NET_BIND_SERVICE alone", "err", acc.stuck)
	}
	if d.StateDir != "" {
		d.state, err = warmstart.Open(d.StateDir, warmstart.Options{UID: acc.uid, GID: acc.gid, ImportDir: d.ImportDir})
		switch {
		case err == nil:
			err = d.load()
		case d.StateRequired:
			err = &HintError{fmt.Errorf("opening the state folder: %w", err),
				"--state-dir none keeps registrations in memory only, and a restart loses them"}
		default:
			d.log.Warn("registrations are kept in memory only, and a restart loses them: --state-dir names a folder that this user can write to", "err", err)
			d.state, err = nil, nil
		}
		if err != nil {
			return err
		}
	}
	return acc.assume()
}

// load reads the registrations that were saved, here or by rpcbind.
func (d *daemon) load() error {
	loaded, err := d.state.Load()
	if err != nil {
		return fmt.Errorf("reading the state folder: %w", err)
	}
	for _, note := range loaded.Notes {
		d.log.Warn(note)
	}
	if n := len(loaded.Registrations); n > 0 {
		d.log.Info(fmt.Sprintf("took over %d registrations from %s", n, loaded.Source))
	}
	d.saved = loaded.Registrations
	return nil
}

func (d *daemon) serve(ctx context.Context) error {
	var store registry.Store // stays nil without a state folder
	if d.state != nil {
		store = d.state
		defer d.state.Close()
	}
	if len(d.saved) == 0 && d.MapFile != "" {
		d.saved = d.readMapFile()
	}
	var feed *control.Feed
	if d.control != nil {
		feed = control.NewFeed(store, d.log)
		feed.Stale = stale
		store = feed
	}
	d.reg = registry.New(d.socks.Own(), d.saved, store)
	if err := d.saveFirst(store); err != nil {
		d.log.Error("registrations can't be saved; changes will be refused until they can", "err", err)
	}

	var workers sync.WaitGroup
	d.policy = policyfile.New(d.AllowFile, d.DenyFile, policy.Options{Default: d.Config.Default}, d.log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers.Go(func() { d.policy.Run(ctx) })
	workers.Go(func() { d.reloadOnHangup(ctx) })
	if d.Reap {
		workers.Go(func() { (&reaper{registry: d.reg, log: d.log}).run(ctx) })
	}
	if d.control != nil {
		workers.Go(func() { control.Serve(ctx, d.control, feed, d.log) })
	}
	d.access = newAccessLog(d.queue, d.LogConnections, d.Mapper.Rates)
	logging, endLogging := context.WithCancel(context.WithoutCancel(ctx)) // until the last call is counted
	defer endLogging()
	workers.Go(func() { d.access.run(logging) })

	// The workers for datagrams seldom leave their processors: as many more for
	// all else, so that the kernel divides the time between the two.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + transport.Workers())
	mapper := portmapper.New(d.reg, d.policy.Current, new(host), d.access, d.Mapper)
	d.announce()
	server := transport.NewServer(mapper, d.log)
	server.Dropped = d.access.DroppedInKernel
	server.Serve(ctx, d.socks)
	cancel()
	endLogging()
	workers.Wait()
	return d.leave()
}

// saveFirst saves what was taken over, so that the files it came from are not
// needed any more.
func (d *daemon) saveFirst(store registry.Store) error {
	if store == nil {
		return nil
	}
	return store.Save(nil, d.reg.Snapshot())
}

func (d *daemon) reloadOnHangup(ctx context.Context) {
	for {
		select {
		case <-d.hangup:
			d.policy.Reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// announce says in plain words what is served, once calls that come in now will
// be answered. For whom was said when the policy was read.
func (d *daemon) announce() {
	serving := "serving " + d.socks.Describe()
	d.log.Info(serving)
	sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS="+serving+"; answering "+d.policy.Current().Summary())
	if d.Ready != nil {
		d.queue.flush() // before standard error goes, or says more
		d.Ready()
	}
}

// leave writes rpcbind's files too, so that one can go back to it.
func (d *daemon) leave() error {
	sd.SdNotify(false, sd.SdNotifyStopping)
	if d.state == nil || d.ImportDir == "" {
		return nil
	}
	if err := d.state.Export(d.reg.Snapshot()); err != nil {
		d.log.Warn("writing rpcbind's warm start files", "err", err)
	}
	return nil
}
