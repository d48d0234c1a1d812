// Package effects carries out what the options of an access rule ask for,
// hosts_options(5), on the process that holds the client's connection: tcpd(8),
// which does so once and then becomes the service. A process that serves on
// must not use it: most of what it does can't be undone.
package effects

import (
	"fmt"
	"log/syslog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
)

// shell runs the commands of options, hosts_options(5).
const shell = "/bin/sh"

// Session is the connection of one client. Inherit makes one.
type Session struct {
	Socket int  // descriptor of the connection
	Stream bool // not datagrams

	// The two ends; zero values where they are not known.
	Client, Server netip.AddrPort

	// Warn is called with what could not be done and does not matter much.
	Warn func(text string)

	unread bool // the client's datagram is still to be received
	group  bool // was set by option group
}

// Outcome is what Run leaves to its caller.
type Outcome struct {
	// Priority, if Logs is set, is what to log the connection with.
	Priority syslog.Priority
	Logs     bool
	// Twist, if not "", is the command to become in place of the service.
	Twist string
}

// Run carries out the actions of a decision in order. It changes the present
// thread, which it takes for good: whoever goes on with Become must do so on
// the same goroutine.
//
// An error means that something which others rely on could not be done, such
// as a change of user. The client must then be refused.
func (s *Session) Run(actions []hostsaccess.Action) (Outcome, error) {
	runtime.LockOSThread() // the nice value is a thread's, setpriority(2)
	var o Outcome
	for i := range actions {
		a := &actions[i]
		if a.Fault != "" {
			return o, fmt.Errorf("%s", a.Fault)
		}
		switch a.Kind {
		case hostsaccess.ActSeverity:
			o.Priority, o.Logs = priority(a.Number), true
		case hostsaccess.ActTwist:
			o.Twist = a.Value
		default:
			if err := s.run(a); err != nil {
				return o, fmt.Errorf("option %s: %w", a.Name, err)
			}
		}
	}
	return o, nil
}

func (s *Session) run(a *hostsaccess.Action) error {
	switch a.Kind {
	case hostsaccess.ActSpawn:
		s.warn(spawn(a.Value))
	case hostsaccess.ActKeepAlive:
		s.warn(os.NewSyscallError("setsockopt SO_KEEPALIVE", unix.SetsockoptInt(s.Socket, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)))
	case hostsaccess.ActLinger:
		l := unix.Linger{Onoff: 1, Linger: int32(a.Number)}
		if a.Number == 0 {
			l.Onoff = 0
		}
		s.warn(os.NewSyscallError("setsockopt SO_LINGER", unix.SetsockoptLinger(s.Socket, unix.SOL_SOCKET, unix.SO_LINGER, &l)))
	case hostsaccess.ActBanner:
		s.warn(s.banner(a.Output))
	case hostsaccess.ActNice:
		s.warn(nice(a.Number))
	case hostsaccess.ActUmask:
		unix.Umask(a.Number)
	case hostsaccess.ActSetEnv:
		return os.Setenv(a.Variable, a.Value)
	case hostsaccess.ActUser:
		return s.becomeUser(a.Value, a.Group)
	case hostsaccess.ActGroup:
		return s.becomeGroup(a.Value)
	}
	return nil
}

func (s *Session) warn(err error) {
	if err != nil && s.Warn != nil {
		s.Warn(err.Error())
	}
}

// priority is what syslog(3) makes of a priority without a facility: the one
// that the log was opened with, which is daemon for tcpd.
func priority(number int) syslog.Priority {
	const facilities = ^7
	p := syslog.Priority(number)
	if p&facilities == 0 {
		p |= syslog.LOG_DAEMON
	}
	return p
}

// spawn runs a command with no input or output and waits for it.
func spawn(command string) error {
	err := exec.Command(shell, "-c", command).Run()
	if _, ended := err.(*exec.ExitError); ended {
		return nil // its own business
	}
	return err
}

// Succeeds runs the command of an aclexec option, like spawn, and says whether
// it ended with code 0. It is what hostsaccess.Request.AclExec asks for.
func Succeeds(command string) bool {
	return exec.Command(shell, "-c", command).Run() == nil
}

// Become replaces this process by the command of a twist option, which talks to
// the client. It returns only if that fails.
func (s *Session) Become(command string) error {
	for fd := range 3 {
		if fd == s.Socket {
			continue
		}
		if err := unix.Dup3(s.Socket, fd, 0); err != nil {
			return fmt.Errorf("twist_option: dup: %w", err)
		}
	}
	return fmt.Errorf("twist_option: %s: %w", shell, unix.Exec(shell, []string{"sh", "-c", command}, os.Environ()))
}

// nice adds to the nice value of this thread: exec(2) keeps the value of the
// thread that calls it. The kernel cuts what is out of range, and says 20 less
// the nice value where it is asked.
func nice(increment int) error {
	reversed, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-reversed+min(increment, 40))
	}
	return os.NewSyscallError("nice", err)
}

// bannerPatience is how long a client may take to receive a banner.
const bannerPatience = 10 * time.Second

// banner sends text to the client; banners are for streams, hosts_options(5).
func (s *Session) banner(text []byte) error {
	if !s.Stream {
		return nil
	}
	for deadline := time.Now().Add(bannerPatience); len(text) > 0; {
		n, err := unix.SendmsgN(s.Socket, text, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			text = text[n:]
		case err == unix.EAGAIN && time.Now().Before(deadline):
			ready := []unix.PollFd{{Fd: int32(s.Socket), Events: unix.POLLOUT}}
			if _, err := unix.Poll(ready, int(time.Until(deadline).Milliseconds())); err != nil && err != unix.EINTR {
				return os.NewSyscallError("poll", err)
			}
		case err != unix.EINTR:
			return os.NewSyscallError("sending a banner", err)
		}
	}
	return nil
}
