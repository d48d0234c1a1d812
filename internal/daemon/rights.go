package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"rpcward/internal/sandbox"
)

// account is the user that the daemon works as once its sockets are bound.
type account struct {
	name     string
	uid, gid int
	stuck    error // why root stays though nobody asked for it
}

// fallbackUsers are tried when no user is named: rpcbind's own on Debian and on
// Fedora, and one that every host has.
var fallbackUsers = []string{"_rpc", "rpc", "daemon", "nobody"}

// overflowID is the number of nobody and nogroup, for hosts that have no
// /etc/passwd, such as containers.
const overflowID = 65534

// serviceAccount finds the user to work as. Without root's rights it is the
// caller, whatever is asked for; and it is root where root can't become anybody
// else, as in many containers, unless a user was asked for.
func serviceAccount(name string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	if name != "" {
		a, err := lookUpUser(name)
		if err == nil && a.uid != 0 {
			err = a.reachable()
		}
		return a, err
	}
	for _, n := range fallbackUsers {
		if a, err := lookUpUser(n); err == nil && a.reachable() == nil {
			return a, nil
		}
	}
	nobody := account{name: "nobody", uid: overflowID, gid: overflowID}
	if err := nobody.reachable(); err != nil {
		return account{name: "root", stuck: err}, nil
	}
	return nobody, nil
}

// reachable returns an error that says why root can't become a, capabilities(7)
// and user_namespaces(7).
func (a account) reachable() error {
	switch {
	case !sandbox.HasCapability(unix.CAP_SETUID):
		return fmt.Errorf("changing to user %s: this process lacks CAP_SETUID", a.name)
	case !sandbox.HasCapability(unix.CAP_SETGID):
		return fmt.Errorf("changing to user %s: this process lacks CAP_SETGID", a.name)
	case !mapped("/proc/self/uid_map", a.uid), !mapped("/proc/self/gid_map", a.gid):
		return fmt.Errorf("changing to user %s: this user namespace has no such user or group", a.name)
	case groupsStay():
		return fmt.Errorf("changing to user %s: this user namespace does not let groups be given up", a.name)
	}
	return nil
}

// mapped reports whether an id exists in our user namespace. Where that can't
// be read, trying will tell.
func mapped(file string, id int) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, length int64
		if _, err := fmt.Sscan(line, &inside, &outside, &length); err == nil && inside <= int64(id) && int64(id) < inside+length {
			return true
		}
	}
	return false
}

func groupsStay() bool {
	data, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(data)) == "deny"
}

func lookUpUser(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("user %q: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return account{name: name, uid: uid, gid: gid}, errors.Join(err1, err2)
}

// assume gives up, for good, root and every capability: also an ordinary user
// may have been given one to bind the port. It does nothing if root was asked
// for. A root that stays without being asked for keeps the files that are
// root's, and no other power.
func (a account) assume() error {
	if a.uid == 0 && a.stuck == nil {
		return nil
	}
	if a.uid != 0 && os.Geteuid() == 0 {
		if err := a.become(); err != nil {
			return err
		}
	}
	return sandbox.KeepCapabilities()
}

// become changes to the account's user and group, and leaves all other groups.
func (a account) become() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("giving up groups: %w", err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("changing to group %d: %w", a.gid, err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("changing to user %s: %w", a.name, err)
	}
	if syscall.Setuid(0) == nil {
		return errors.New("giving up root did not work")
	}
	return nil
}
