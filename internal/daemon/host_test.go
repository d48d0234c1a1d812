package daemon_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// Hosts on which something is missing that others have.
func TestBareHosts(t *testing.T) {
	t.Parallel()
	all := []string{"local", "tcp", "tcp6", "udp", "udp6"}
	for _, tt := range []struct {
		name    string
		prepare string // shell command
		netids  []string
		log     string // must be said
	}{
		{"no files", "rm /etc/services /etc/netconfig /etc/rpc /etc/hosts.allow /etc/hosts.deny /etc/passwd /etc/group", all, ""},
		{"netconfig without IPv6", `sed -i 's/^\(udp6\|tcp6\)/#\1/' /etc/netconfig`, []string{"local", "tcp", "udp"}, ""},
		{"IPv6 disabled", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1", all, "not served: udp6 on ::1"},
		{"read-only /run", "mount -o remount,ro /run", all, "read-only file system"},
		{"no loopback", "ip link set lo down", all, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t, "bare")
			h.MustRun("sh", "-c", tt.prepare)
			p := h.Start(lab.Rpcward(t).Path, "-f")
			waitLog(t, p, "serving")
			if got := ownNetIDs(t, h); !slices.Equal(got, tt.netids) {
				t.Errorf("own transports %v, want %v", got, tt.netids)
			}
			if !strings.Contains(p.Log(), tt.log) {
				t.Errorf("the log does not say %q:\n%s", tt.log, p.Log())
			}
			if tt.name != "no loopback" {
				if _, err := ask(h, "udp", "127.0.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
					t.Errorf("over UDP: %v", err)
				}
			}
			if err := p.Stop(syscall.SIGTERM); err != nil {
				t.Errorf("end: %v", err)
			}
		})
	}
}

// withoutIPv6Env makes this test program a helper that runs another program on
// a host that has no IPv6 at all.
const withoutIPv6Env = "RPCWARD_TEST_WITHOUT_IPV6"

// withoutIPv6 takes AF_INET6 away as a kernel without it would, by a filter on
// socket(2), seccomp(2), and runs the program that the environment names.
func withoutIPv6() {
	program := os.Getenv(withoutIPv6Env)
	if program == "" {
		return
	}
	const nr, arg0 = 0, 16 // offsets in struct seccomp_data, linux/seccomp.h
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arg0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	err := setFilter(filter)
	if err == nil {
		err = unix.Exec(program, []string{program, "-f"}, []string{"PATH=/usr/sbin:/usr/bin"})
	}
	fmt.Fprintln(os.Stderr, "running without IPv6:", err)
	os.Exit(1)
}

func TestKernelWithoutIPv6(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "bare")
	cmd := h.Command(t.Context(), os.Args[0])
	cmd.Env = []string{withoutIPv6Env + "=" + lab.Rpcward(t).Path}
	p := h.StartCommand(cmd)
	p.WaitServing()
	if got := ownNetIDs(t, h); !slices.Equal(got, []string{"local", "tcp", "udp"}) {
		t.Errorf("own transports %v", got)
	}
	if !strings.Contains(p.Log(), "not served: udp6 on ::: address family not supported by protocol") {
		t.Errorf("the log does not say that IPv6 is missing:\n%s", p.Log())
	}
}

// A container's limit of 2^30 descriptors costs no time and no memory; old
// servers had a table with a place for each.
func TestHugeDescriptorLimit(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "prlimit")
	const huge = 1 << 30
	n := uint64(huge)
	h := lab.NewHost(t, "server")
	if _, err := h.Run(t.Context(), "prlimit", fmt.Sprintf("--nofile=%d:%d", huge, huge), "true"); err != nil {
		// Neither root nor the machine can be asked for more than this.
		var lim unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			t.Fatal(err)
		}
		n = lim.Max
		t.Logf("tested with %d, the machine's limit", n)
	}
	p := h.Start("prlimit", fmt.Sprintf("--nofile=%d:%d", n, n), lab.Rpcward(t).Path, "-f")
	p.WaitServing()
	if kib := rss(t, p); kib > 64<<10 {
		t.Errorf("VmRSS %d KiB, want less than 64 MiB", kib)
	}
}

// rss returns the memory that p has, in KiB.
func rss(t *testing.T, p *lab.Process) int {
	t.Helper()
	text := threads(t, p.PID())[0]["VmRSS"]
	kib, err := strconv.Atoi(strings.TrimSuffix(text, " kB"))
	if err != nil {
		t.Fatalf("VmRSS %q: %v", text, err)
	}
	return kib
}

// Without -f the command returns when calls are answered, and the daemon is
// found under its name. A failure is told before it returns.
func TestBackground(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	path := lab.Rpcward(t).Path
	h.MustRun(path)
	if _, err := ask(h, "udp", "127.0.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
		t.Errorf("no answer after the command has returned: %v", err)
	}
	pid := strings.TrimSpace(h.MustRun("pidof", "rpcbind"))
	if pid == "" || strings.Contains(pid, " ") {
		t.Errorf("pidof rpcbind: %q, want one process", pid)
	}
	stat := strings.Fields(h.MustRun("cat", "/proc/"+pid+"/stat"))
	if session, terminal := stat[5], stat[6]; session != pid || terminal != "0" {
		t.Errorf("session %s, terminal %s of process %s; want one of its own and none", session, terminal, pid)
	}
	for fd := range 3 {
		if to := strings.TrimSpace(h.MustRun("readlink", fmt.Sprintf("/proc/%s/fd/%d", pid, fd))); to != "/dev/null" {
			t.Errorf("descriptor %d is %s", fd, to)
		}
	}
	_, err := h.Run(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "already running") {
		t.Errorf("a second one: %v, want exit status 1 and the reason", err)
	}
	h.MustRun("kill", "-TERM", pid)
	lab.Eventually(t, "end of the daemon", func() error {
		// A process that only waits to be reaped has no program any more.
		if exe, err := h.Run(t.Context(), "readlink", "/proc/"+pid+"/exe"); err == nil {
			return fmt.Errorf("process %s runs %s", pid, exe)
		}
		return nil
	})
}

// setFilter installs a seccomp filter on this thread, and keeps it over exec.
func setFilter(filter []unix.SockFilter) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
