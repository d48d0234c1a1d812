package cli

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// hostileMapper is a port mapper on TCP port 111 of a new host. result appends
// what it answers to a call; nil stands for PROG_MISMATCH with all versions.
func hostileMapper(t *testing.T, result func(b []byte, call *oncrpc.Call) []byte) *lab.Host {
	t.Helper()
	h := lab.NewHost(t, "hostile")
	l, err := h.Listen("tcp4", "127.0.0.1:111")
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
			go serveHostile(conn, result)
		}
	}()
	return h
}

func serveHostile(conn net.Conn, result func([]byte, *oncrpc.Call) []byte) {
	defer conn.Close()
	for {
		msg, err := oncrpc.ReadRecord(conn, nil, 1<<16)
		if err != nil {
			return
		}
		call, err := oncrpc.ParseCall(msg)
		if err != nil {
			return
		}
		b := oncrpc.BeginRecord(nil)
		if r := result(oncrpc.AppendAccepted(b, call.XID, oncrpc.Success), &call); r != nil {
			b = r
		} else {
			b = oncrpc.AppendProgMismatch(b, call.XID, 0, 1<<32-1)
		}
		if _, err := conn.Write(oncrpc.EndRecord(b, 0)); err != nil {
			return
		}
	}
}

// evil is what a server might send to deceive or break a terminal.
var evil = []string{
	"\x1b[2J\x1b[1;1H", "\x1b]0;title\a", "a\nb", "a\r\nroot", "tab\there", "two words", "\u009b31m", "\u202etxt", "\x00", "\x7f", "\xff\xfe",
	strings.Repeat("x", 9000), strings.Repeat("\x1b", 9000),
}

func evilAnswer(b []byte, call *oncrpc.Call) []byte {
	for _, s := range evil {
		switch rpcbind.Proc(call.Procedure) {
		case rpcbind.ProcDump:
			b = rpcbind.AppendRPCB(rpcbind.AppendMore(b, true), &rpcbind.RPCB[string]{Program: 1, Version: 1, NetID: s, Addr: s, Owner: s})
		case rpcbind.ProcGetAddrList:
			b = rpcbind.AppendMore(b, true)
			b = xdr.AppendString(xdr.AppendString(b, s), s)
			b = xdr.AppendUint32(b, 0xdeadbeef)
			b = xdr.AppendString(xdr.AppendString(b, s), s)
		}
	}
	if rpcbind.Proc(call.Procedure) == rpcbind.ProcGetStat {
		for range rpcbind.NumStats {
			s := rpcbind.Stat{Sets: 1<<32 - 1}
			for i := range s.Calls {
				s.Calls[i] = 1<<32 - 1
			}
			for _, e := range evil {
				s.Addrs = append(s.Addrs, rpcbind.AddrStat{Success: 1<<32 - 1, NetID: e})
				s.Remote = append(s.Remote, rpcbind.RemoteStat{Program: 100003, Success: 1<<32 - 1, NetID: e})
			}
			b = rpcbind.AppendStat(b, &s)
		}
		return b
	}
	return rpcbind.AppendMore(b, false)
}

// Whatever a server sends, a terminal sees printable ASCII in as many lines as
// there are items, none of them endless.
func TestRPCInfoEvilStrings(t *testing.T) {
	h := hostileMapper(t, evilAnswer)
	program := lab.Rpcward(t).Toolbox()
	tests := []struct {
		args  []string
		lines int // 0 for not counted
	}{
		{[]string{"127.0.0.1"}, 1 + len(evil)},
		{[]string{"-s", "127.0.0.1"}, 2},
		{[]string{"-l", "127.0.0.1", "1", "1"}, 1 + len(evil)},
		{[]string{"-m", "127.0.0.1"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.args[0], func(t *testing.T) {
			o := runAs(t, h, program, "rpcinfo", tt.args...)
			if o.Code != 0 || o.Stdout == "" {
				t.Fatalf("%+v", o)
			}
			text := strings.ReplaceAll(o.Stdout, "\t", " ") // stands in rpcinfo's own headings
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			if tt.lines != 0 && len(lines) != tt.lines {
				t.Errorf("%d lines, want %d:\n%s", len(lines), tt.lines, text)
			}
			for _, line := range lines {
				if len(line) > 2500 {
					t.Errorf("line of %d bytes", len(line))
				}
				if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
					t.Errorf("%q", line)
				}
			}
			testEvilJSON(t, h, program, tt.args)
		})
	}
}

func testEvilJSON(t *testing.T, h *lab.Host, program string, args []string) {
	o := runAs(t, h, program, "rpcinfo", append([]string{"--json"}, args...)...)
	if strings.ContainsFunc(o.Stdout, func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f }) {
		t.Errorf("JSON with unprintable characters: %.300q", o.Stdout)
	}
	if !json.Valid([]byte(o.Stdout)) || o.Code != 0 {
		t.Errorf("not JSON: %.300q, code %d", o.Stdout, o.Code)
	}
}

// A server that has all versions is not pinged four thousand million times.
func TestRPCInfoAllVersions(t *testing.T) {
	h := hostileMapper(t, func(b []byte, call *oncrpc.Call) []byte {
		if call.Version == 0 {
			return nil
		}
		return b
	})
	o := runAs(t, h, lab.Rpcward(t).Toolbox(), "rpcinfo", "-a", "127.0.0.1.0.111", "-T", "tcp", "77")
	if n := strings.Count(o.Stdout, "ready and waiting\n"); n != maxVersions-1 || o.Code != 1 {
		t.Errorf("%d versions answered, code %d", n, o.Code)
	}
	if !strings.Contains(o.Stderr, "claims versions 0 to 4294967295: only the first 256 were called") {
		t.Errorf("stderr %q", o.Stderr)
	}
}

// Neither an endless reply nor one of the largest size takes much memory.
func TestRPCInfoMemory(t *testing.T) {
	const limit = 400 << 10 // KiB of resident memory, as getrusage(2) tells
	program := lab.Rpcward(t).Toolbox()
	item := rpcbind.AppendRPCB(rpcbind.AppendMore(nil, true), &rpcbind.RPCB[string]{})
	tests := []struct {
		name   string
		size   int
		stderr string
	}{
		{"largest", 15 << 20, ""},
		{"larger", 17 << 20, "rpcinfo: can't contact rpcbind: : RPC: Can't decode result\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := hostileMapper(t, func(b []byte, call *oncrpc.Call) []byte {
				for n := uint32(0); len(b) < tt.size; n++ {
					b = append(b, item...)
					// Each is another program, and so a line.
					copy(b[len(b)-len(item)+4:], xdr.AppendUint32(nil, n))
				}
				return rpcbind.AppendMore(b, false)
			})
			for _, form := range []string{"127.0.0.1", "-s 127.0.0.1"} {
				cmd := h.Command(t.Context(), program, strings.Fields(form)...)
				cmd.Args[0] = "rpcinfo"
				var stderr strings.Builder
				cmd.Stdout, cmd.Stderr = io.Discard, &stderr
				if err := h.Do(cmd.Start); err != nil {
					t.Fatal(err)
				}
				err := cmd.Wait()
				if (err == nil) != (tt.stderr == "") || stderr.String() != tt.stderr {
					t.Errorf("%s: %v, %s", form, err, stderr.String())
				}
				if rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; rss > limit {
					t.Errorf("%s: %d MiB", form, rss>>10)
				}
			}
		})
	}
}

// --timeout bounds the wait for a server that says nothing.
func TestRPCInfoTimeout(t *testing.T) {
	h := lab.NewHost(t, "silent")
	conn, err := h.ListenPacket("udp4", "127.0.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	o := runAs(t, h, lab.Rpcward(t).Toolbox(), "rpcinfo", "--timeout", "0.3s", "-u", "127.0.0.1", "100000")
	if d := cmp.Diff(outcome{"", "127.0.0.1: RPC: Timed out\n", 1}, o); d != "" {
		t.Error(d)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
