package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// BinaryEnv names the environment variable with the path of a rpcward to test
// instead of one built from this tree, such as one from a package.
const BinaryEnv = "RPCWARD_BIN"

// Sock is the path of the port mapper's unix socket.
const Sock = "/run/rpcbind.sock"

// PortMapper is a port mapper to test. Each of them takes rpcbind's options.
type PortMapper struct {
	Name string // "rpcbind" or "rpcward"
	Path string // the program; its name is what it will find in argv[0]
}

// Stock is the distribution's rpcbind: the judge of whether a test is right.
func Stock(t testing.TB) PortMapper {
	t.Helper()
	NeedCommand(t, "rpcbind")
	path, err := exec.LookPath("rpcbind")
	if err != nil {
		t.Fatal(err)
	}
	return PortMapper{Name: "rpcbind", Path: path}
}

// Rpcward is this tree's rpcward under the name rpcbind, built once per test
// program and without cgo, as it is shipped.
func Rpcward(t testing.TB) PortMapper {
	t.Helper()
	NeedCommand(t, "go")
	path, err := build()
	if err != nil {
		t.Fatalf("building rpcward: %v", err)
	}
	return PortMapper{Name: "rpcward", Path: path}
}

// Toolbox returns the path of the same program under the name rpcward, for
// its own commands and long options.
func (pm PortMapper) Toolbox() string { return filepath.Join(filepath.Dir(pm.Path), "rpcward") }

// buildDir is where Main wants the program; empty outside of Main.
var buildDir string

// Main runs the tests of a package that uses [Rpcward], and removes what was
// built for them.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rpcward-lab")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Hosts run programs as other users from here.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	buildDir = dir
	return m.Run()
}

// build returns the path of rpcward, as a link named rpcbind beside the program.
var build = sync.OnceValues(func() (string, error) {
	if buildDir == "" {
		return "", errors.New("the package has no TestMain that calls lab.Main")
	}
	program := filepath.Join(buildDir, "rpcward")
	if given := os.Getenv(BinaryEnv); given != "" {
		if err := os.Symlink(given, program); err != nil {
			return "", err
		}
	} else if err := goBuild(program); err != nil {
		return "", err
	}
	link := filepath.Join(buildDir, "rpcbind")
	return link, os.Symlink("rpcward", link)
})

func goBuild(program string) error {
	cmd := exec.Command("go", "build", "-o", program, "rpcward/cmd/rpcward")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// OpenTo writes the policy of h with which pm answers the host itself and
// clients that match one of the patterns of hosts_access(5), and nobody else.
// rpcward needs one line for that; rpcbind answers whom no rule names, and its
// rules also apply to loopback addresses.
func (pm PortMapper) OpenTo(h *Host, patterns ...string) {
	h.t.Helper()
	list := strings.Join(patterns, " ")
	if pm.Name == "rpcward" {
		h.Allow("portmap: " + list)
		return
	}
	h.Allow("rpcbind: 127.0.0.1 [::1] " + list)
	h.Deny("rpcbind: ALL")
}

// StartPortMapper starts pm on h in the foreground with rpcbind's options, and
// waits until it answers.
func StartPortMapper(t testing.TB, h *Host, pm PortMapper, options ...string) *Process {
	t.Helper()
	p := h.Start(pm.Path, append([]string{"-f"}, options...)...)
	p.Name = pm.Name
	p.WaitServing()
	return p
}

// WaitServing waits until the port mapper answers on its unix socket, which
// it does last: by then it has all others.
func (p *Process) WaitServing() {
	p.t.Helper()
	p.waitUntil("answering on "+Sock, func() error {
		conn, err := p.Host.Dial("unix", Sock)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 4}, dialTime)
		return err
	})
}
