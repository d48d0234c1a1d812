package peers

import (
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// Procedures that change the registry. RFC 1833, Section 2.2.1.
const (
	procSet   = 1
	procUnset = 2
	procDump  = 4
)

// dialAs connects to h's port mapper over its unix socket as a user. The
// kernel notes the caller when it connects; the thread that changes its user
// here ends with the call.
func dialAs(h *lab.Host, uid int) (conn net.Conn, err error) {
	err = h.Do(func() error {
		if uid != 0 {
			// Not unix.Setresuid, which changes the user of all threads.
			u := uintptr(uid)
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); errno != 0 {
				return errno
			}
		}
		conn, err = net.Dial("unix", lab.Sock)
		return err
	})
	return conn, err
}

// change makes a SET or UNSET of version 3 and returns its result.
func change(conn net.Conn, proc uint32, m *rpcbind.RPCB[string]) (bool, error) {
	reply, err := lab.Call(conn, oncrpc.Call{
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

// dump returns what h's port mapper lists over its unix socket.
func dump(t *testing.T, h *lab.Host) []rpcbind.RPCB[string] {
	t.Helper()
	conn, err := dialAs(h, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := lab.Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 3, Procedure: procDump}, 10*time.Second)
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
