package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

// TakenError says that another socket holds an address that we need.
type TakenError struct {
	NetID rpcbind.NetID
	Addr  netip.AddrPort // of IP transports
	Path  string         // of unix sockets
	By    string         // who holds it, as far as is known
}

func (e *TakenError) Error() string {
	by := cmp.Or(e.By, "another process")
	if e.Path != "" {
		return fmt.Sprintf("socket %s is in use by %s", e.Path, by)
	}
	return fmt.Sprintf("%s port %d is in use by %s", e.NetID.Transport().Protocol, e.Addr.Port(), by)
}

// Listen opens the sockets of c. What the host does not have (IPv6, say) is
// skipped and named in Sockets.Skipped; a port in use is a *TakenError.
func Listen(c Config) (*Sockets, error) {
	s := &Sockets{}
	for _, n := range c.NetIDs {
		if err := s.listenIP(n, &c); err != nil {
			s.Close()
			return nil, err
		}
	}
	for _, path := range c.Unix {
		err := s.listenUnix(path)
		if forbidden(err) {
			s.Skipped = append(s.Skipped, fmt.Sprintf("%s: %v", path, rootCause(err)))
		} else if err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// bindSpec is one address, or one interface, to bind.
type bindSpec struct {
	addr   netip.Addr
	device string
}

func wildcard(n rpcbind.NetID) netip.Addr {
	if n.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func loopback(n rpcbind.NetID) netip.Addr {
	if n.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// bindSpecs lists what to bind for n: the network's sockets first, the
// loopback address last.
func (c *Config) bindSpecs(n rpcbind.NetID) ([]bindSpec, error) {
	var specs []bindSpec
	if len(c.Hosts) == 0 && !c.LoopbackOnly {
		specs = append(specs, bindSpec{addr: wildcard(n)})
	}
	for _, h := range c.Hosts {
		more, err := hostSpecs(n, h)
		if err != nil {
			return nil, err
		}
		specs = append(specs, more...)
	}
	specs = slices.DeleteFunc(specs, func(s bindSpec) bool { return s.addr == loopback(n) || s.device == "lo" })
	return append(specs, bindSpec{addr: loopback(n)}), nil
}

// resolveTimeout bounds the look-up of a host name at start.
const resolveTimeout = 5 * time.Second

// hostSpecs lists what to bind for n at an address, an interface, or a name of
// this host: nothing, if it has no address of n's family.
func hostSpecs(n rpcbind.NetID, host string) ([]bindSpec, error) {
	addr, err := netip.ParseAddr(host)
	if err == nil {
		return addressSpecs(n, []netip.Addr{addr}), nil
	}
	if _, err := net.InterfaceByName(host); err == nil {
		return []bindSpec{{addr: wildcard(n), device: host}}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an address, an interface nor a name of this host", host)
	}
	return addressSpecs(n, addrs), nil
}

func addressSpecs(n rpcbind.NetID, addrs []netip.Addr) []bindSpec {
	var specs []bindSpec
	for _, a := range addrs {
		if a = a.Unmap(); n.Accepts(a) {
			specs = append(specs, bindSpec{addr: a})
		}
	}
	return specs
}

// sharing lets the sockets of one transport stand beside each other on a port:
// the kernel gives a packet to the one with the closest address. The port must
// be free for the first; after the last nobody else may join, unless several
// workers have sockets with one address, among which the kernel divides callers
// only for as long as sharing goes on. Then our own user may: for a port mapper
// that is root, who bound the port.
type sharing struct{ sockets []socket }

// socket is an open one, of either kind.
type socket interface {
	control(func(fd int)) // calls the function with the descriptor
}

func (sh *sharing) set(on int) {
	for _, s := range sh.sockets {
		s.control(func(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, on) })
	}
}

func (s *Sockets) listenIP(n rpcbind.NetID, c *Config) error {
	specs, err := c.bindSpecs(n)
	if err != nil {
		return err
	}
	var sh sharing
	if c.Workers <= 1 || !n.Datagram() {
		defer sh.set(0)
	}
	for _, spec := range specs {
		err := s.listenSpec(n, spec, c, &sh)
		switch {
		case absent(err) && len(c.Hosts) == 0, absent(err) && spec.addr.IsLoopback():
			s.Skipped = append(s.Skipped, fmt.Sprintf("%v on %v: %v", n, spec.addr, rootCause(err)))
			continue
		case errors.Is(err, unix.EADDRINUSE):
			return &TakenError{NetID: n, Addr: netip.AddrPortFrom(spec.addr, c.Port)}
		case err != nil:
			return fmt.Errorf("binding %v port %d on %v: %w", n, c.Port, spec.addr, rootCause(err))
		}
	}
	return nil
}

// listenSpec opens what there is to be of n at spec: one socket for streams,
// one for each worker for datagrams.
func (s *Sockets) listenSpec(n rpcbind.NetID, spec bindSpec, c *Config, sh *sharing) error {
	count := 1
	if n.Datagram() {
		count = max(c.Workers, 1)
	}
	for worker := range count {
		opened, err := s.listenOne(n, spec, c.Port, worker, len(sh.sockets) > 0)
		if err != nil {
			return err
		}
		sh.sockets = append(sh.sockets, opened)
		sh.set(1)
	}
	return nil
}

// absent reports whether err means that this host has no such protocol or address.
func absent(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) ||
		errors.Is(err, unix.EPROTONOSUPPORT)
}

// forbidden reports whether err means that there is no place for a socket that
// this process may use: a container without root, a read-only root.
func forbidden(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENOENT)
}

// rootCause strips what the net package says around a system error.
func rootCause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (s *Sockets) listenOne(n rpcbind.NetID, spec bindSpec, port uint16, worker int, join bool) (socket, error) {
	at := netip.AddrPortFrom(spec.addr, port)
	if n.Datagram() {
		fd, err := bindDatagram(n, spec.device, at, join)
		if err != nil {
			return nil, err
		}
		d := &datagramSocket{fd: fd, netid: n, listed: at, device: spec.device, worker: worker}
		s.datagrams = append(s.datagrams, d)
		return d, nil
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) { err = prepare(int(fd), n, spec.device, join) }); cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	network := "tcp4"
	if n.Is6() {
		network = "tcp6"
	}
	l, err := lc.Listen(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	ss := &streamSocket{listener: l, netid: n, listed: at, device: spec.device}
	s.streams = append(s.streams, ss)
	return ss, nil
}

// bindDatagram opens a UDP socket that is bound to at.
func bindDatagram(n rpcbind.NetID, device string, at netip.AddrPort, join bool) (fd int, err error) {
	family := unix.AF_INET
	if n.Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = prepare(fd, n, device, join); err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sockaddr returns ap as the wrappers of system calls want it. A scope that
// names no interface makes an address that can't be bound.
func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		sa.ZoneId = math.MaxInt32
		if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa
}

// prepare sets the options that must stand before bind(2).
func prepare(fd int, n rpcbind.NetID, device string, join bool) error {
	if n.Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("binding to interface %s: %w", device, err)
		}
	}
	if join {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	if n.Datagram() {
		return wantPacketInfo(fd, n.Is6(), true)
	}
	return nil
}

// receiveBuffer is the queue in bytes that we ask for each datagram socket;
// the kernel gives what its limits allow.
const receiveBuffer = 4 << 20

// wantPacketInfo asks for the interface and the address that packets came to.
func wantPacketInfo(fd int, is6, datagram bool) error {
	if datagram && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if is6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// ListenUnix opens a unix socket that everybody on this host may connect to:
// who may do what is decided by credentials. A path that begins with "@" is in
// the abstract name space. A file that nobody listens on any more is replaced;
// closing the listener does not remove it.
func ListenUnix(path string) (*net.UnixListener, error) {
	if path == "" {
		return nil, errors.New("a unix socket without a path")
	}
	if path[0] != '@' {
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening socket %s: %w", path, rootCause(err))
	}
	l.SetUnlinkOnClose(false)
	if path[0] != '@' {
		if err := os.Chmod(path, 0o666); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func (s *Sockets) listenUnix(path string) error {
	l, err := ListenUnix(path)
	if errors.Is(err, unix.EADDRINUSE) {
		return s.abstractTaken(path)
	}
	if err != nil {
		return err
	}
	if path[0] != '@' {
		s.paths = append(s.paths, path)
	}
	s.streams = append(s.streams, &streamSocket{listener: l, netid: rpcbind.Local, path: path})
	return nil
}

// abstractTaken deals with a name that another process listens on. Anybody may
// take an abstract one, and must not keep the port mapper from starting by it.
func (s *Sockets) abstractTaken(path string) error {
	taken := &TakenError{NetID: rpcbind.Local, Path: path}
	c, err := net.Dial("unix", path)
	if err != nil {
		return taken
	}
	defer c.Close()
	cred, err := peerCred(c.(*net.UnixConn))
	if err != nil {
		return taken
	}
	taken.By = fmt.Sprintf("process %d of user %d", cred.Pid, cred.Uid)
	if cred.Uid == 0 || int(cred.Uid) == os.Geteuid() {
		return taken
	}
	s.Skipped = append(s.Skipped, taken.Error()+": services of this host that ask there are deceived")
	return nil
}

// removeStale removes a socket that nobody listens on any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening socket %s: %w", path, rootCause(err))
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is in the way and is not a socket", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) { // a full queue has somebody behind it too
		return &TakenError{NetID: rpcbind.Local, Path: path}
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("opening socket %s: %w", path, rootCause(err))
	}
	return nil
}
