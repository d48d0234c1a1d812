package immunity

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// liar is a port mapper on h that answers every call over TCP with results.
func liar(t *testing.T, h *lab.Host, results func(version, proc uint32) []byte) {
	t.Helper()
	l, err := h.Listen("tcp", "10.98.0.2:111")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn, results)
		}
	}()
}

func answer(conn net.Conn, results func(version, proc uint32) []byte) {
	defer conn.Close()
	for {
		msg, err := oncrpc.ReadRecord(conn, nil, 1<<16)
		if err != nil {
			return
		}
		c, err := oncrpc.ParseCall(msg)
		if err != nil {
			return
		}
		b := oncrpc.AppendAccepted(oncrpc.BeginRecord(nil), c.XID, oncrpc.Success)
		b = append(b, results(c.Version, c.Procedure)...)
		if _, err := conn.Write(oncrpc.EndRecord(b, 0)); err != nil {
			return
		}
	}
}

// rpcinfo prints what a server says of itself without being overrun by it, and
// without passing on what would control the terminal: CVE-2026-16277 (-l) and
// CVE-2026-16461 (-s).
func TestRpcinfoOfHostileServer(t *testing.T) {
	t.Parallel()
	n := lab.NewNet(t)
	program := filepath.Join(t.TempDir(), "rpcinfo")
	if err := os.Symlink(lab.Rpcward(t).Toolbox(), program); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("A", 8999)
	const escape = "\x1b]0;owned\x07\x1b[2J\r\n100000 evil"
	var asked atomic.Int32
	liar(t, n.Stranger, func(version, proc uint32) (b []byte) {
		asked.Add(1)
		for i := range uint32(3000) {
			text := long
			if i%2 == 0 {
				text = escape
			}
			b = rpcbind.AppendMore(b, true)
			switch {
			case rpcbind.Proc(proc) == rpcbind.ProcGetAddrList:
				b = xdr.AppendString(xdr.AppendString(b, text), text)
				b = xdr.AppendString(xdr.AppendString(xdr.AppendUint32(b, 1<<31+i), text), text)
			case version == rpcbind.Version2:
				b = rpcbind.AppendMapping(b, rpcbind.Mapping{Program: 100000 + i, Version: 1 << 31, Prot: i, Port: 1<<32 - 1})
			default:
				b = rpcbind.AppendRPCB(b, &rpcbind.RPCB[string]{Program: 100000, Version: i, NetID: text, Addr: text, Owner: text})
			}
		}
		return rpcbind.AppendMore(b, false)
	})
	for _, args := range [][]string{
		{"-l", "10.98.0.2", "100000", "4"}, {"-s", "10.98.0.2"}, {"-p", "10.98.0.2"}, {"10.98.0.2"}, {"-m", "10.98.0.2"},
	} {
		asked.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := n.Server.Run(ctx, program, args...)
		cancel()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() != 1 || err != nil && exit == nil {
			t.Errorf("rpcinfo %v: %.200v", args, err)
		}
		if asked.Load() == 0 {
			t.Errorf("rpcinfo %v has not asked", args)
		}
		if i := strings.IndexFunc(out, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' || c == 0x7f }); i >= 0 {
			t.Errorf("rpcinfo %v prints %q", args, out[i:min(i+40, len(out))])
		}
	}
}
