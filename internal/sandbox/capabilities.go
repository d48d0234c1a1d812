// Package sandbox gives up rights that a process has after its start.
package sandbox

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KeepCapabilities gives up, on all threads and for good, every capability but
// those named (capset(2), capabilities(7)), and keeps programs from being
// started with more rights than ours (PR_SET_NO_NEW_PRIVS). A program that is
// started has what is kept if root starts it. Those kept must be in force.
func KeepCapabilities(keep ...int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var kept [2]unix.CapUserData
	for _, c := range keep {
		kept[c/32].Effective |= 1 << (c % 32)
		kept[c/32].Permitted |= 1 << (c % 32)
	}
	_, _, err := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&kept[0])), 0)
	if err == 0 {
		_, _, err = syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	}
	// Go can't reach all threads of a program that is linked with C, which ours is
	// not when it is shipped. A root that was given up took its own with it.
	if err == unix.ENOTSUP && !exceeds(&kept) {
		return nil
	}
	if err != 0 {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// exceeds reports whether this thread has capabilities that are not in kept.
func exceeds(kept *[2]unix.CapUserData) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var now [2]unix.CapUserData
	if err := unix.Capget(&header, &now[0]); err != nil {
		return true
	}
	return now[0].Permitted&^kept[0].Permitted != 0 || now[1].Permitted&^kept[1].Permitted != 0
}

// HasCapability reports whether the process has a capability in force.
func HasCapability(number int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}
