package sockdiag

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"rpcward/rpcbind"
)

// maxHolders bounds how many processes are named: a server and the service
// manager that made its socket, but not each of its workers.
const maxHolders = 3

// Holder says in words who holds a port of n's protocol, in either family:
// "rpcbind (process 812)", or several of those joined by "and"; for processes
// that can't be looked into "a process of user 0". It is not ok if nobody does.
func Holder(n rpcbind.NetID, port uint16) (who string, ok bool) {
	for _, family := range protocol(n) {
		list, err := Sockets(family, port)
		if err != nil || len(list) == 0 {
			continue
		}
		if who := processes(list); len(who) > 0 {
			return strings.Join(who, " and "), true
		}
		return fmt.Sprintf("a process of user %d", list[0].UID), true
	}
	return "", false
}

// protocol lists the transports that may hold a port which n wants, n first.
func protocol(n rpcbind.NetID) []rpcbind.NetID {
	switch n {
	case rpcbind.TCP6:
		return []rpcbind.NetID{rpcbind.TCP6, rpcbind.TCP}
	case rpcbind.UDP6:
		return []rpcbind.NetID{rpcbind.UDP6, rpcbind.UDP}
	}
	return families(n)
}

// processes names those that have one of the sockets open.
func processes(list []Socket) []string {
	wanted := map[string]bool{}
	for _, s := range list {
		wanted[fmt.Sprintf("socket:[%d]", s.Inode)] = true
	}
	var names []string
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, dir := range dirs {
		if len(names) < maxHolders && holds(dir, wanted) {
			names = append(names, fmt.Sprintf("%s (process %s)", name(dir), filepath.Base(dir)))
		}
	}
	return names
}

// holds reports whether a process has one of the wanted files open. It may end
// or be somebody else's, and then has none.
func holds(dir string, wanted map[string]bool) bool {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && wanted[target] {
			return true
		}
	}
	return false
}

// name returns the name of a process, which may have chosen any bytes for it.
func name(dir string) string {
	comm, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.TrimSuffix(string(comm), "\n"))
}
