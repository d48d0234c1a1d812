package daemon_test

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// threads returns what the kernel says of each thread of a process, proc(5).
func threads(t *testing.T, pid int) []map[string]string {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("threads of process %d: %v, %v", pid, paths, err)
	}
	var all []map[string]string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.Join(strings.Fields(value), " ")
		}
		all = append(all, status)
	}
	return all
}

// checkRights wants every thread of p to belong to a user, to no group but the
// user's, and to hold no capability.
func checkRights(t *testing.T, p *lab.Process, uid, gid string) {
	t.Helper()
	const none = "0000000000000000"
	want := map[string]string{
		"Uid": strings.Join([]string{uid, uid, uid, uid}, " "),
		"Gid": strings.Join([]string{gid, gid, gid, gid}, " "), "Groups": "",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "NoNewPrivs": "1",
	}
	for _, status := range threads(t, p.PID()) {
		for name, value := range want {
			if status[name] != value {
				t.Errorf("thread %s: %s %q, want %q", status["Pid"], name, status[name], value)
			}
		}
	}
}

func TestGivesUpRoot(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, user string
		options    []string
	}{
		{"by default", "_rpc", nil},
		{"rpcbind -s", "daemon", []string{"-s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u, err := user.Lookup(tt.user)
			lab.NeedFeature(t, "user "+tt.user, func() error { return err })
			h := lab.NewHost(t, "server")
			p := lab.StartPortMapper(t, h, lab.Rpcward(t), tt.options...)
			checkRights(t, p, u.Uid, u.Gid)
			if err := set(connect(t, h, "unix", lab.Sock), 400000); err != nil {
				t.Errorf("a change can't be saved without root: %v", err)
			}
		})
	}
}

// ordinary are the options with which setpriv(1) makes an ordinary user of root.
var ordinary = []string{"--reuid", "1000", "--regid", "1000", "--clear-groups"}

// A container's user that may bind low ports, and nothing else, can serve.
func TestOrdinaryUserWithCapability(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv")
	h := lab.NewHost(t, "container")
	args := append(ordinary, "--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service", lab.Rpcward(t).Path, "-f")
	p := h.Start("setpriv", args...)
	h.WaitPort("tcp", "127.0.0.1:111")
	waitLog(t, p, "serving")
	checkRights(t, p, "1000", "1000")
	for network, address := range map[string]string{"udp": "127.0.0.1:111", "tcp": "[::1]:111", "unix": abstract} {
		if _, err := ask(h, network, address, rpcbind.ProcGetTime, nil); err != nil {
			t.Errorf("over %s to %s: %v", network, address, err)
		}
	}
	if !strings.Contains(p.Log(), "/run/rpcbind.sock: permission denied") || !strings.Contains(p.Log(), "memory only") {
		t.Errorf("the log does not name what this user can't have:\n%s", p.Log())
	}
	if err := set(connect(t, h, "unix", abstract), 400000); err != nil {
		t.Errorf("SET: %v", err)
	}
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("end: %v", err)
	}
}

// A root that can't become anybody else serves too, without its capabilities,
// and keeps what is registered.
func TestRootThatStays(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv", "unshare")
	for _, tt := range []struct {
		name    string
		command []string
		why     string
	}{
		{"no capability but one", []string{"setpriv", "--clear-groups", "--bounding-set", "-all,+net_bind_service"}, "lacks CAP_SETUID"},
		{"no CAP_SETGID", []string{"setpriv", "--clear-groups", "--bounding-set", "-setgid"}, "lacks CAP_SETGID"},
		{"user namespace of one user", []string{"setpriv", "--clear-groups", "unshare", "--map-root-user", "--net", "--mount",
			"sh", "-c", `ip link set lo up; mount -t tmpfs tmpfs /run; exec "$@"`, "sh"}, "no such user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t, "container")
			command := append(tt.command, lab.Rpcward(t).Toolbox(), "serve")
			p := h.Start(command[0], command[1:]...)
			waitLog(t, p, "serving")
			checkRights(t, p, "0", "0")
			if log := p.Log(); strings.Count(log, "warning") != 1 || !strings.Contains(log, "working as root") || !strings.Contains(log, tt.why) {
				t.Errorf("warnings, want one with %q:\n%s", tt.why, log)
			}
			if err := p.Stop(syscall.SIGTERM); err != nil {
				t.Errorf("end: %v", err)
			}
		})
	}
}

// What was registered survives there.
func TestRootThatStaysSaves(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv")
	h := lab.NewHost(t, "container")
	for range 2 {
		p := h.Start("setpriv", "--bounding-set", "-all,+net_bind_service", lab.Rpcward(t).Toolbox(), "serve")
		p.WaitServing()
		if err := set(connect(t, h, "unix", lab.Sock), 400000); err != nil {
			t.Errorf("SET: %v", err)
		}
		p.Stop(syscall.SIGKILL)
	}
	p := serve(t, h)
	waitLog(t, p, "took over 1 registrations from /run/rpcward/registrations")
}

// A user that was asked for is not silently replaced by root.
func TestUserOutOfReach(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv")
	h := lab.NewHost(t, "container")
	_, err := h.Run(t.Context(), "setpriv", "--bounding-set", "-all,+net_bind_service", lab.Rpcward(t).Toolbox(), "serve", "--user", "daemon")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "changing to user daemon: this process lacks CAP_SETUID") {
		t.Errorf("error %v", err)
	}
}

func TestOrdinaryUserWithoutCapability(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "setpriv")
	h := lab.NewHost(t, "server")
	pm := lab.Rpcward(t)
	for _, tt := range []struct {
		name    string
		command []string
		want    string
	}{
		{"rpcbind", []string{pm.Path, "-f"}, "rpcbind: Sorry. You are not superuser"},
		{"serve", []string{pm.Toolbox(), "serve"}, "--port 11111 does not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := h.Run(context.Background(), "setpriv", append(ordinary, tt.command...)...)
			if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want exit status 1 and %q", err, tt.want)
			}
		})
	}
}
