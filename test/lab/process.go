package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long the lab waits for what should take a moment.
const patience = 20 * time.Second

// Command prepares a command to run on h with [Host.Run]'s rules: only its
// path is looked up so far. Set what is special about it (Env, ExtraFiles,
// Credential), then hand it to [Host.StartCommand] or [Host.RunCommand].
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a daemon that it left behind may hold the pipes open
	return cmd
}

// Run runs a command on h to its end and returns what it wrote to its standard
// output. The error has its standard error and wraps *exec.ExitError if it
// ended with a code other than 0.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.RunCommand(h.Command(ctx, name, args...))
}

// RunCommand is Run for a prepared command.
func (h *Host) RunCommand(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := h.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w\n%s%s", h.Name, strings.Join(cmd.Args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), err
}

// Process is a program that runs in the background of a host.
type Process struct {
	Host *Host
	Name string

	t    testing.TB
	cmd  *exec.Cmd
	log  string        // file with its output
	done chan struct{} // closed when it has ended
	err  error         // from Wait, once done is closed
}

// Start starts a program in the background. It ends with the test; if the
// test failed, what it wrote is shown.
func (h *Host) Start(name string, args ...string) *Process {
	h.t.Helper()
	return h.StartCommand(h.Command(context.Background(), name, args...))
}

// StartCommand is Start for a prepared command.
//
// The output goes to a file, not to a pipe: a program that turns itself into a
// daemon keeps its descriptors, and we don't want to wait for it.
func (h *Host) StartCommand(cmd *exec.Cmd) *Process {
	h.t.Helper()
	log, err := os.Create(filepath.Join(h.t.TempDir(), "log"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p := &Process{Host: h, Name: filepath.Base(cmd.Args[0]), t: h.t, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	if err := h.Do(cmd.Start); err != nil {
		h.t.Fatalf("%s: starting %s: %v", h.Name, p.Name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	h.t.Cleanup(p.cleanup)
	return p
}

func (p *Process) cleanup() {
	p.Signal(syscall.SIGKILL)
	<-p.done
	if p.t.Failed() {
		p.t.Logf("output of %s on %s:\n%s", p.Name, p.Host.Name, p.Log())
	}
}

// PID is the process id as the test sees it; inside it has another.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the program has written so far, to both outputs.
func (p *Process) Log() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; none is sent to a program that has ended.
func (p *Process) Signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signalling %s: %v", p.Name, err)
	}
}

// Stop sends a signal and waits for the program's end. The error is that of
// [exec.Cmd.Wait].
func (p *Process) Stop(sig os.Signal) error {
	p.t.Helper()
	p.Signal(sig)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.t.Fatalf("%s on %s does not end on signal %v\n%s", p.Name, p.Host.Name, sig, p.Log())
		return nil
	}
}

// WaitLog waits until the program has written text.
func (p *Process) WaitLog(text string) {
	p.t.Helper()
	p.waitUntil("writing "+text, func() error {
		if !strings.Contains(p.Log(), text) {
			return errors.New("it has not")
		}
		return nil
	})
}

// waitUntil waits for ready to return nil, and ends the test if the program
// ends before.
func (p *Process) waitUntil(what string, ready func() error) {
	p.t.Helper()
	Eventually(p.t, p.Name+" "+what, func() error {
		err := ready()
		select {
		case <-p.done:
			p.t.Fatalf("%s ended before %s: %v\n%s", p.Name, what, p.err, p.Log())
		default:
		}
		return err
	})
}

// Eventually calls check until it returns nil, and ends the test with its last
// error when that takes too long.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(wait)
	}
}
