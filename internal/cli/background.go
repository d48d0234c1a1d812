package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"rpcward/internal/daemon"
)

// backgroundEnv marks the process that detach started. Its value is the number
// of a descriptor, a pipe to the one that waits for it. Below that are sockets
// that a service manager passed, if any.
const backgroundEnv = "RPCWARD_BACKGROUND"

// firstPassed is the first descriptor that is passed, SD_LISTEN_FDS_START in
// sd_listen_fds(3), and the first of [exec.Cmd.ExtraFiles].
const firstPassed = 3

// self is the program that runs. The name that it was called by may mean
// another one: it is relative to a PATH or folder that may not be ours, or made
// up by the caller (exec -a rpcbind).
const self = "/proc/self/exe"

// inBackground reports whether this is the process that detach started.
func inBackground() bool { return os.Getenv(backgroundEnv) != "" }

// detach starts this program again, in a session of its own, and returns when
// that one serves. What it prints before goes to our standard error.
func detach() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting in the background: %w", err)
	}
	defer r.Close()
	passed := activation.Files(false)
	cmd := &exec.Cmd{
		Path:        self,
		Args:        os.Args,
		Env:         append(os.Environ(), fmt.Sprintf("%s=%d", backgroundEnv, firstPassed+len(passed))),
		Stderr:      os.Stderr,
		ExtraFiles:  append(passed, w),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return &daemon.HintError{Err: fmt.Errorf("starting in the background: %w", err), Hint: "-f stays in the foreground"}
	}
	if n, _ := r.Read(make([]byte, 1)); n == 1 {
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		os.Exit(1) // it has said why
	}
	return nil
}

// runDetached is the daemon in the background.
func runDetached(c daemon.Config) error {
	fd, err := strconv.Atoi(os.Getenv(backgroundEnv))
	if err != nil || fd < firstPassed {
		return fmt.Errorf("%s is not for use by others", backgroundEnv)
	}
	os.Unsetenv(backgroundEnv)
	if fd > firstPassed {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // it named the process that passed them on
	}
	setProcessName(c.Name)
	if err := os.Chdir("/"); err != nil {
		return err
	}
	syscall.CloseOnExec(fd)
	ready := os.NewFile(uintptr(fd), "ready")
	c.Background = true
	c.Ready = func() {
		ready.Write([]byte{1})
		ready.Close()
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			syscall.Dup3(int(null.Fd()), 2, 0)
			null.Close()
		}
	}
	return daemon.Run(context.Background(), c)
}

// setProcessName makes name what ps, pidof, ss and the kernel's log call this
// process, in place of the "exe" that it has from self. Each thread has a name,
// and new ones inherit theirs, proc_pid_comm(5).
func setProcessName(name string) {
	threads, _ := filepath.Glob("/proc/self/task/*/comm")
	for _, path := range threads {
		os.WriteFile(path, []byte(name), 0) // a thread may have ended, and a name is not worth failing for
	}
}
