package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// lock is held as long as the process lives, so that a second port mapper,
// ours or rpcbind, does not start beside it. The zero value holds nothing.
type lock struct{ file *os.File }

func (l *lock) release() {
	if l.file != nil {
		l.file.Close()
	}
}

// Whoever holds the lock and not the port may be about to start or to end.
const (
	lockPatience = time.Second
	lockRetry    = 50 * time.Millisecond
)

// takeLock takes c's lock file for ourselves, as rpcbind does: flock(2) on a
// file that stays. The port itself keeps a second one away too. So we go on
// without the lock where the file can't be made (a read-only /run, no rights),
// and where it is held by somebody who does not hold the port: rpcbind makes the
// file readable to all, and whoever can read it can lock it.
func takeLock(c *Config, log *slog.Logger) (*lock, error) {
	f, err := openLock(c.LockFile)
	if err != nil {
		log.Debug("no lock file", "err", err)
		return &lock{}, nil
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockRetry) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &lock{f}, nil
		}
		if by, ok := c.portHolder(); ok && errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, &runningError{name: c.Name, by: by}
		}
		if time.Now().After(end) || !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			log.Warn("going on without the lock: its holder, if any, does not hold the port (fuser names it)", "file", c.LockFile, "err", err)
			return &lock{}, nil
		}
	}
}

// openLock opens or makes a lock file, and keeps it to its owner if that is us:
// one that rpcbind made is open to all.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a plain file", path)
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid() {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// portHolder says who holds the port that we are to serve. A port that was
// passed to us is ours.
func (c *Config) portHolder() (by string, ok bool) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) { // sd_listen_fds(3)
		return "", false
	}
	for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP} {
		if by, ok := sockdiag.Holder(n, c.Port); ok {
			return by, true
		}
	}
	return "", false
}

// runningError says that another port mapper runs.
type runningError struct{ name, by string }

func (e *runningError) Error() string {
	const running = "another rpcbind is already running" // rpcbind's words, which scripts look for
	if e.name == "rpcbind" {
		return running + ". Aborting: it is " + e.by
	}
	return running + ": " + e.by
}
