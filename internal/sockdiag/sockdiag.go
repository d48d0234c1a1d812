// Package sockdiag asks the kernel which sockets are bound to a port, and finds
// the process that holds one: sock_diag(7), proc(5).
package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

// Numbers of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sizeofRequest    = 56 // struct inet_diag_req_v2
	sizeofMessage    = 72 // struct inet_diag_msg

	// TCP states as bits: sockets that are bound for others to come.
	stateListen = 1 << 10 // TCP_LISTEN
	stateClose  = 1 << 7  // TCP_CLOSE, which an unconnected UDP socket is in
)

// Socket is a socket that waits for others, as the kernel describes it.
type Socket struct {
	Local netip.AddrPort
	UID   uint32 // of the user who made it
	Inode uint32
}

// Sockets lists the sockets of transport n that wait on port: listening ones
// of TCP, unconnected ones of UDP.
func Sockets(n rpcbind.NetID, port uint16) ([]Socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for sockets: %w", err)
	}
	defer conn.Close()
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   request(n),
	})
	if err != nil {
		return nil, fmt.Errorf("asking for sockets: %w", err)
	}
	var list []Socket
	for _, m := range messages {
		if s, ok := parse(m.Data); ok && s.Local.Port() == port {
			list = append(list, s)
		}
	}
	return list, nil
}

func request(n rpcbind.NetID) []byte {
	b := make([]byte, sizeofRequest)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	states := uint32(stateListen)
	if n.Is6() {
		b[0] = unix.AF_INET6
	}
	if n.Datagram() {
		b[1], states = unix.IPPROTO_UDP, stateClose
	}
	binary.NativeEndian.PutUint32(b[4:], states)
	return b
}

func parse(b []byte) (Socket, bool) {
	if len(b) < sizeofMessage {
		return Socket{}, false
	}
	s := Socket{UID: binary.NativeEndian.Uint32(b[64:]), Inode: binary.NativeEndian.Uint32(b[68:])}
	port := binary.BigEndian.Uint16(b[4:])
	switch b[0] {
	case unix.AF_INET:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), port)
	case unix.AF_INET6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	default:
		return Socket{}, false
	}
	return s, true
}

// Bound reports whether a socket of transport n waits on at's port, and on its
// address or on all; for a wildcard address any socket on the port will do.
// IPv4 ports may be held by IPv6 sockets of both families.
func Bound(n rpcbind.NetID, at netip.AddrPort) (bool, error) {
	for _, family := range families(n) {
		list, err := Sockets(family, at.Port())
		if err != nil {
			return false, err
		}
		for _, s := range list {
			local := s.Local.Addr().Unmap()
			if local.IsUnspecified() || at.Addr().IsUnspecified() || local == at.Addr().Unmap().WithZone("") {
				return true, nil
			}
		}
	}
	return false, nil
}

// families lists the transports whose sockets may serve n.
func families(n rpcbind.NetID) []rpcbind.NetID {
	switch n {
	case rpcbind.TCP:
		return []rpcbind.NetID{rpcbind.TCP, rpcbind.TCP6}
	case rpcbind.UDP:
		return []rpcbind.NetID{rpcbind.UDP, rpcbind.UDP6}
	}
	return []rpcbind.NetID{n}
}

// Holder says in words who holds a port: "rpcbind (process 812)". Processes of
// others can be seen by root only.
func Holder(n rpcbind.NetID, port uint16) (string, bool) {
	for _, family := range families(n) {
		list, err := Sockets(family, port)
		if err != nil || len(list) == 0 {
			continue
		}
		if pid, name := process(list[0].Inode); pid != 0 {
			return fmt.Sprintf("%s (process %d)", name, pid), true
		}
		return fmt.Sprintf("a process of user %d", list[0].UID), true
	}
	return "", false
}

// process finds a process that has the socket open.
func process(inode uint32) (pid int, name string) {
	want := fmt.Sprintf("socket:[%d]", inode)
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != want {
			continue
		}
		parts := strings.Split(link, "/")
		pid, _ := strconv.Atoi(parts[2])
		comm, _ := os.ReadFile("/proc/" + parts[2] + "/comm")
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
}
