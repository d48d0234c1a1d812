package rollback

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeping marks the calling process as the keeper of a trial, until release is
// called. The keeper of an earlier trial goes away by itself within a moment.
func (b *Book) keeping(id string) (release func(), err error) {
	release, err = b.flock(keeperFile, unix.LOCK_EX)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.Dir, keeperFile), []byte(id), 0o600)
	}
	return release, err
}

// kept reports whether the keeper of a trial runs.
func (b *Book) kept(id string) bool {
	release, err := b.flock(keeperFile, unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		release()
		return false
	}
	now, _ := os.ReadFile(filepath.Join(b.Dir, keeperFile))
	return string(now) == id
}

// keeperPatience is how long a keeper may take to start.
const keeperPatience = 10 * time.Second

// startKeeper starts a keeper and waits until it keeps.
func (b *Book) startKeeper(start func(id string) error, id string) error {
	if err := start(id); err != nil {
		return fmt.Errorf("%w: %w", ErrNoKeeper, err)
	}
	for deadline := time.Now().Add(keeperPatience); !b.kept(id); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return ErrNoKeeper
		}
	}
	return nil
}

// self is the running program, even if another one has taken its path since.
const self = "/proc/self/exe"

// StartKeeper starts our own program with arguments that make it call Keep:
// where systemd runs the host as a transient service, which outlives the
// caller's session and whatever is done to it, else as a process in a session of
// its own.
func StartKeeper(id string, args ...string) error {
	if systemdRuns() {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		unit := "rpcward-rollback-" + strings.ToLower(id)
		options := []string{"--quiet", "--collect", "--unit=" + unit, "--description=Take back a change of the firewall", "--", program}
		if exec.Command("systemd-run", append(options, args...)...).Run() == nil {
			return nil
		}
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "rpcward"
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// systemdRuns reports whether systemd could run the keeper where we are: in
// another network or with other files it would restore the wrong firewall.
func systemdRuns() bool {
	if _, err := os.Lstat("/run/systemd/system"); err != nil { // sd_booted(3)
		return false
	}
	for _, ns := range []string{"net", "mnt"} {
		ours, err := os.Readlink(filepath.Join("/proc/self/ns", ns))
		theirs, err2 := os.Readlink(filepath.Join("/proc/1/ns", ns))
		if err != nil || err2 != nil || ours != theirs {
			return false
		}
	}
	_, err := exec.LookPath("systemd-run")
	return err == nil
}
