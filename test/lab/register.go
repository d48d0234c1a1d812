package lab

import (
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Procedures that change the registry. RFC 1833, Section 2.2.1.
const (
	ProcSet   = 1
	ProcUnset = 2
	ProcDump  = 4
)

// DoAs is Do as a user: the thread that changes its user ends with the call.
func (h *Host) DoAs(uid int, f func() error) error {
	return h.Do(func() error {
		if uid != 0 {
			// Not unix.Setresuid, which changes the user of all threads.
			u := uintptr(uid)
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); errno != 0 {
				return errno
			}
		}
		return f()
	})
}

// DialAs connects to h's port mapper over its unix socket as a user: the
// kernel notes the caller when it connects.
func DialAs(h *Host, uid int) (conn net.Conn, err error) {
	err = h.DoAs(uid, func() error {
		conn, err = net.Dial("unix", Sock)
		return err
	})
	return conn, err
}

// Change makes a SET or UNSET of version 3 and returns its result.
func Change(conn net.Conn, proc uint32, m *rpcbind.RPCB[string]) (bool, error) {
	reply, err := Call(conn, oncrpc.Call{
		Program: rpcbind.Program, Version: 3, Procedure: proc, Args: rpcbind.AppendRPCB(nil, m),
	}, 10*time.Second)
	if err != nil {
		return false, err
	}
	r := xdr.NewReader(reply.Results)
	done := r.Bool()
	if reply.Stat != oncrpc.MsgAccepted || reply.Accept != oncrpc.Success || r.Err() != nil {
		return false, fmt.Errorf("reply %+v, %w", reply, r.Err())
	}
	return done, nil
}

// Dump returns what h's port mapper lists over its unix socket.
func Dump(t testing.TB, h *Host) []rpcbind.RPCB[string] {
	t.Helper()
	conn, err := DialAs(h, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 3, Procedure: ProcDump}, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r := xdr.NewReader(reply.Results)
	list := rpcbind.ReadRPCBs(&r)
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return list
}
