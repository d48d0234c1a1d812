package daemon_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

const lockPath = "/run/rpcbind.lock"

// hold starts a program of user 1000 that locks a file of h and keeps it.
func hold(t *testing.T, h *lab.Host, path string) *lab.Process {
	t.Helper()
	p := h.Start("setpriv", append(ordinary, "flock", "--nonblock", path, "sh", "-c", "echo locked; exec sleep 60")...)
	p.WaitLog("locked")
	return p
}

// A stranger who holds rpcbind's lock file, which all can read, does not keep
// us from starting, and can't hold the file that we leave.
func TestStrangerHoldsLock(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv", "flock")
	h := lab.NewHost(t, "server")
	p := lab.StartPortMapper(t, h, lab.Stock(t))
	p.Stop(os.Interrupt)
	if mode := strings.TrimSpace(h.MustRun("stat", "-c", "%a", lockPath)); mode != "444" {
		t.Errorf("rpcbind leaves its lock file with mode %s", mode)
	}
	hold(t, h, lockPath)
	p = serve(t, h)
	waitLog(t, p, "going on without the lock")
	if err := set(connect(t, h, "unix", abstract), 400000); err != nil {
		t.Errorf("SET: %v", err)
	}
	for _, path := range []string{lockPath, "/run/rpcward/registrations.lock"} {
		_, err := h.Run(t.Context(), "setpriv", append(ordinary, "flock", "--nonblock", path, "true")...)
		if err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("a stranger locks %s: %v", path, err)
		}
	}
}

// Nor does one who holds the state folder.
func TestStrangerHoldsStateFolder(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv", "flock")
	h := lab.NewHost(t, "server")
	p := serve(t, h)
	if err := set(connect(t, h, "unix", abstract), 400000); err != nil {
		t.Fatal(err)
	}
	p.Stop(os.Kill)
	hold(t, h, "/run/rpcward")
	p = serve(t, h)
	if got := programs(t, h); len(got) != 1 || strings.Contains(p.Log(), "warning") {
		t.Errorf("after the restart: %v\n%s", got, p.Log())
	}
}

// A port that a service manager passed is not held by somebody else.
func TestLockHeldAndPortPassed(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv", "flock")
	h := lab.NewHost(t, "server")
	h.MustRun("sh", "-c", "umask 022; : > "+lockPath)
	hold(t, h, lockPath)
	l, err := h.Listen("tcp", "127.0.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := h.Command(context.Background(), "sh", "-c",
		fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=1 exec %s serve", lab.Rpcward(t).Toolbox()))
	cmd.ExtraFiles = []*os.File{file}
	p := h.StartCommand(cmd)
	waitLog(t, p, "going on without the lock")
	waitLog(t, p, "serving")
	if _, err := ask(h, "tcp", "127.0.0.1:111", rpcbind.ProcNull, nil); err != nil {
		t.Errorf("NULL: %v", err)
	}
}

// What is named as the lock file by mistake is left alone.
func TestLockFileIsNoFile(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	h.MustRun("sh", "-c", "mkfifo -m 666 /run/pipe && mknod -m 666 /run/null c 1 3")
	for _, path := range []string{"/run/pipe", "/run/null", "/run"} {
		before := h.MustRun("stat", "-c", "%a", path)
		p := serve(t, h, "--lock-file", path)
		p.Stop(os.Interrupt)
		if after := h.MustRun("stat", "-c", "%a", path); after != before {
			t.Errorf("%s: mode %s, was %s", path, after, before)
		}
	}
}
