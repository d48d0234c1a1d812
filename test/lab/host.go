package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is one test host. Its methods may be called from several goroutines,
// those that can end the test only from the test's own.
type Host struct {
	Name string

	t      testing.TB
	holder *exec.Cmd // the host's first process
	work   string    // mount point of the host's scratch tmpfs, seen inside only
}

// NewHost makes a host with a loopback interface and nothing else. It ends
// with the test. name is its host name and the prefix of its logs.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	NeedRoot(t)
	NeedCommand(t, "ip", "mount")
	h := &Host{Name: name, t: t, work: t.TempDir()}
	if err := h.start(); err != nil {
		t.Fatalf("starting host %s: %v", name, err)
	}
	h.MustRun("mount", "-t", "proc", "proc", "/proc") // by a child: a thread of ours would get the outer one
	if err := h.Do(h.furnish); err != nil {
		t.Fatalf("furnishing host %s: %v", name, err)
	}
	h.MustRun("ip", "link", "set", "lo", "up")
	return h
}

// start makes the namespaces and the process that holds them.
//
// The process is a cat that reads from a pipe of ours: it ends when we end,
// however that happens, and takes the pid namespace with it. SIGCHLD stays
// ignored over exec, so that daemons which it inherits leave no zombies.
func (h *Host) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	h.holder = exec.Command("sh", "-c", `trap "" CHLD; exec cat >/dev/null`)
	h.holder.Stdin = r
	h.holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := h.holder.Start(); err != nil {
		w.Close()
		return err
	}
	h.t.Cleanup(func() { h.end(w) })
	// Our mounts must not spread to the outside, where mounts are often shared.
	return h.Do(func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") })
}

// end kills the host's first process and waits until the kernel has ended all
// others of its pid namespace, which it does before the first one can be reaped.
func (h *Host) end(pipe io.Closer) {
	pipe.Close()
	h.holder.Process.Kill()
	h.holder.Wait()
}

func (h *Host) pid() int { return h.holder.Process.Pid }

// furnish gives the host its private folders. It runs inside.
func (h *Host) furnish() error {
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := unix.Mount("tmpfs", h.work, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting scratch space: %w", err)
	}
	for _, dir := range []string{"/etc", "/var"} {
		if err := h.overlay(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run", "/var/lib/nfs", "/var/yp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mounting tmpfs on %s: %w", dir, err)
		}
	}
	if err := makeFolders(); err != nil {
		return err
	}
	return writeFirstFiles()
}

// overlay makes a private, writable copy of dir.
func (h *Host) overlay(dir string) error {
	upper, work := h.work+dir+".upper", h.work+dir+".work"
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, opts); err != nil {
		return fmt.Errorf("mounting overlay on %s: %w", dir, err)
	}
	return nil
}

// makeFolders makes what systemd-tmpfiles and the packages' scripts make on a
// host of its own. A missing user means a package that is not installed.
func makeFolders() error {
	for _, d := range []struct{ path, owner string }{
		{"/run/rpcbind", "_rpc"},
		{"/run/lock", "root"},
		{"/run/sendsigs.omit.d", "root"},
		{"/run/ganesha", "root"},
		{"/var/lib/nfs/ganesha", "root"},
		{"/var/lib/nfs/sm", "statd"},
		{"/var/lib/nfs/sm.bak", "statd"},
		{"/var/yp/binding", "root"},
	} {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return err
		}
		if err := chown(d.path, d.owner); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/var/lib/nfs/state", nil, 0o644); err != nil {
		return err
	}
	return chown("/var/lib/nfs/state", "statd")
}

func chown(path, owner string) error {
	u, err := user.Lookup(owner)
	if err != nil {
		return nil // no such package, so nobody who needs the folder
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("uid of %s: %w", owner, err)
	}
	return os.Chown(path, uid, 0)
}

// writeFirstFiles empties the policy, so that no test depends on the
// machine's, makes look-ups of unknown names fail at once instead of after the
// resolver's patience, and lets link-local addresses be used soon.
//
// The policy files exist from the start also because a watch on a file of the
// lower layer of an overlay does not see the copy that the first write makes.
func writeFirstFiles() error {
	for path, content := range map[string]string{
		"/etc/hosts.allow":                           "",
		"/etc/hosts.deny":                            "",
		"/etc/hosts":                                 "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/resolv.conf":                           "nameserver 127.0.0.1\n", // where nobody listens
		"/proc/sys/net/ipv6/conf/all/accept_dad":     "0",
		"/proc/sys/net/ipv6/conf/default/accept_dad": "0",
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile writes a file of h, with its folders; mode 0644. It replaces the
// file as editors do, by renaming a finished one, so that no reader sees half.
func (h *Host) WriteFile(path, content string) {
	h.t.Helper()
	err := h.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		tmp := path + ".new"
		if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	})
	if err != nil {
		h.t.Fatalf("%s: writing %s: %v", h.Name, path, err)
	}
}

// ReadFile reads a file of h.
func (h *Host) ReadFile(path string) (string, error) {
	var data []byte
	err := h.Do(func() (err error) {
		data, err = os.ReadFile(path)
		return err
	})
	return string(data), err
}

// Allow writes h's /etc/hosts.allow.
func (h *Host) Allow(lines ...string) {
	h.t.Helper()
	h.WriteFile("/etc/hosts.allow", strings.Join(lines, "\n")+"\n")
}

// Deny writes h's /etc/hosts.deny.
func (h *Host) Deny(lines ...string) {
	h.t.Helper()
	h.WriteFile("/etc/hosts.deny", strings.Join(lines, "\n")+"\n")
}
