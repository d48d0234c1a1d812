package lab

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaces are those that a thread can enter and that its children inherit.
// The pid namespace is entered by the children only.
var namespaces = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC},
	{"pid", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS}, // last: the others are opened through the outer /proc
}

// Do runs f on an operating system thread that lives in h's namespaces, and
// waits for it. Sockets made by f belong to h, for good: they may be used
// anywhere afterwards. Files that f opens are h's, processes that f starts run
// in h. f must not hand work to other goroutines (they run outside) and must
// not call t.Fatal.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go onOwnThread(func() {
		if err := h.enter(); err != nil {
			done <- fmt.Errorf("entering host %s: %w", h.Name, err)
			return
		}
		done <- f()
	})
	return <-done
}

// NetNS opens h's network namespace, for sockets and libraries that take one by
// its descriptor. It is closed with the test.
func (h *Host) NetNS() int {
	h.t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		h.t.Fatalf("opening the network namespace of %s: %v", h.Name, err)
	}
	h.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// onOwnThread runs f on a thread that ends with it, which is what the runtime
// does with a locked thread that is never unlocked: one that has seen a host's
// namespaces must not run other goroutines. The main thread can't end, so it
// is held while a second goroutine gets another one.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(f)
	}()
	<-done
}

// enter moves the calling thread into h's namespaces.
func (h *Host) enter() error {
	// A mount namespace can't be entered by a thread that shares its root and
	// working directory with others, setns(2).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fds := make([]int, len(namespaces))
	for i, ns := range namespaces {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", h.pid(), ns.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening %s namespace: %w", ns.name, err)
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	for i, ns := range namespaces {
		if err := unix.Setns(fds[i], ns.flag); err != nil {
			return fmt.Errorf("joining %s namespace: %w", ns.name, err)
		}
	}
	return nil
}
