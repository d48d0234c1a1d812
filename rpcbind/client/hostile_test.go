package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
	"rpcward/xdr"
)

// streamServer answers the first call on each connection with what answer
// writes; the connection is closed when that returns.
func streamServer(t *testing.T, answer func(conn net.Conn, call oncrpc.Call)) *client.Client {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
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
			go func() {
				defer conn.Close()
				msg, err := oncrpc.ReadRecord(conn, nil, 1<<16)
				if err != nil {
					return
				}
				call, err := oncrpc.ParseCall(msg)
				if err == nil {
					answer(conn, call)
				}
			}()
		}
	}()
	return dialTest(t, "tcp", l.Addr().String())
}

// datagramServer answers each call with the datagrams that answer returns.
func datagramServer(t *testing.T, answer func(call oncrpc.Call) [][]byte) *client.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			call, err := oncrpc.ParseCall(buf[:n])
			if err != nil {
				continue
			}
			for _, b := range answer(call) {
				conn.WriteTo(b, from)
			}
		}
	}()
	return dialTest(t, "udp", conn.LocalAddr().String())
}

func dialTest(t *testing.T, network, address string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func record(parts ...[]byte) []byte {
	b := oncrpc.BeginRecord(nil)
	for _, p := range parts {
		b = append(b, p...)
	}
	return oncrpc.EndRecord(b, 0)
}

func success(xid uint32) []byte { return oncrpc.AppendAccepted(nil, xid, oncrpc.Success) }

func TestHostileStream(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, 0x7fffffff) // a fragment of 2 GiB
	tests := []struct {
		name   string
		answer func(conn net.Conn, call oncrpc.Call)
		want   error
	}{
		{"closes", func(net.Conn, oncrpc.Call) {}, io.EOF},
		{"closes inside a record", func(c net.Conn, call oncrpc.Call) {
			c.Write(record(success(call.XID))[:9])
		}, io.ErrUnexpectedEOF},
		{"claims a huge record", func(c net.Conn, call oncrpc.Call) {
			c.Write(huge)
			io.Copy(io.Discard, c)
		}, oncrpc.ErrRecordTooLong},
		{"empty fragments", func(c net.Conn, call oncrpc.Call) {
			for {
				if _, err := c.Write(make([]byte, 4)); err != nil {
					return
				}
			}
		}, oncrpc.ErrEmptyFragment},
		{"more than is allowed in many fragments", func(c net.Conn, call oncrpc.Call) {
			fragment := append(binary.BigEndian.AppendUint32(nil, 1<<20), make([]byte, 1<<20)...)
			for {
				if _, err := c.Write(fragment); err != nil {
					return
				}
			}
		}, oncrpc.ErrRecordTooLong},
		{"not a reply", func(c net.Conn, call oncrpc.Call) {
			c.Write(record([]byte("HTTP/1.1 400 Bad Request")))
		}, oncrpc.ErrHeader},
		{"a call", func(c net.Conn, call oncrpc.Call) {
			c.Write(record(oncrpc.AppendCall(nil, &call)))
		}, oncrpc.ErrHeader},
		{"list without an end", func(c net.Conn, call oncrpc.Call) {
			c.Write(record(success(call.XID), rpcbind.AppendMore(nil, true)))
			io.Copy(io.Discard, c)
		}, client.ErrResult},
		{"string longer than the message", func(c net.Conn, call oncrpc.Call) {
			b := rpcbind.AppendMore(nil, true)
			b = xdr.AppendUint32(b, 1)
			b = xdr.AppendUint32(b, 1)
			b = xdr.AppendUint32(b, 0xffffffff)
			c.Write(record(success(call.XID), b))
			io.Copy(io.Discard, c)
		}, client.ErrResult},
		{"other ids for ever", func(c net.Conn, call oncrpc.Call) {
			for {
				if _, err := c.Write(record(success(call.XID + 1))); err != nil {
					return
				}
			}
		}, context.DeadlineExceeded},
		{"says nothing", func(c net.Conn, call oncrpc.Call) { io.Copy(io.Discard, c) }, context.DeadlineExceeded},
		{"one byte now and then", func(c net.Conn, call oncrpc.Call) {
			for _, b := range record(success(call.XID), make([]byte, 1<<16)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := streamServer(t, tt.answer)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			list, err := c.Dump(ctx, rpcbind.Version3)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%d registrations, error %v, want %v", len(list), err, tt.want)
			}
			if errors.Is(err, client.ErrResult) {
				return // the stream is still good
			}
			if err := c.Null(t.Context(), 3); !errors.Is(err, tt.want) {
				t.Errorf("next call: %v, want %v again", err, tt.want)
			}
		})
	}
}

// A stream in fragments, behind a reply to an older call, is put together.
func TestFragmentedReply(t *testing.T) {
	want := rpcbind.RPCB[string]{Program: 100003, Version: 3, NetID: "tcp", Addr: "0.0.0.0.8.1", Owner: "superuser"}
	c := streamServer(t, func(conn net.Conn, call oncrpc.Call) {
		conn.Write(record(success(call.XID - 1)))
		b := success(call.XID)
		for range 1000 {
			b = rpcbind.AppendRPCB(rpcbind.AppendMore(b, true), &want)
		}
		b = rpcbind.AppendMore(b, false)
		for len(b) > 0 {
			n := min(7, len(b))
			head := uint32(n)
			if n == len(b) {
				head |= 1 << 31
			}
			conn.Write(append(binary.BigEndian.AppendUint32(nil, head), b[:n]...))
			b = b[n:]
		}
		io.Copy(io.Discard, conn)
	})
	list, err := c.Dump(t.Context(), rpcbind.Version4)
	if err != nil || len(list) != 1000 || list[999] != want {
		t.Errorf("%d registrations, %v", len(list), err)
	}
}

// The largest reply that is read costs a bounded amount of memory.
func TestLargestReplyMemory(t *testing.T) {
	c := streamServer(t, func(conn net.Conn, call oncrpc.Call) {
		item := rpcbind.AppendRPCB(rpcbind.AppendMore(nil, true), &rpcbind.RPCB[string]{})
		b := success(call.XID)
		for len(b)+len(item)+4 <= client.MaxReply {
			b = append(b, item...)
		}
		conn.Write(record(b, rpcbind.AppendMore(nil, false)))
		io.Copy(io.Discard, conn)
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	list, err := c.Dump(t.Context(), rpcbind.Version3)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err != nil || len(list) < client.MaxReply/32 {
		t.Fatalf("%d registrations, %v", len(list), err)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8*client.MaxReply {
		t.Errorf("%d registrations hold %d MiB", len(list), grown>>20)
	}
	runtime.KeepAlive(list)
}

func TestHostileDatagrams(t *testing.T) {
	port := func(xid, n uint32) []byte { return xdr.AppendUint32(success(xid), n) }
	tests := []struct {
		name   string
		answer func(call oncrpc.Call) [][]byte
		want   error
	}{
		{"noise before the reply", func(c oncrpc.Call) [][]byte {
			return [][]byte{{}, []byte("noise"), port(c.XID+1, 666), port(c.XID, 111)[:10], oncrpc.AppendCall(nil, &c), port(c.XID, 111)}
		}, nil},
		{"result cut off", func(c oncrpc.Call) [][]byte { return [][]byte{success(c.XID)} }, client.ErrResult},
		{"no such port", func(c oncrpc.Call) [][]byte { return [][]byte{port(c.XID, 70000)} }, client.ErrResult},
		{"port zero", func(c oncrpc.Call) [][]byte { return [][]byte{port(c.XID, 0)} }, client.ErrNotRegistered},
		{"other ids only", func(c oncrpc.Call) [][]byte { return [][]byte{port(c.XID+1, 666)} }, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := datagramServer(t, tt.answer)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			got, err := c.GetPort(ctx, rpcbind.Mapping{Program: 100000, Version: 2, Prot: rpcbind.ProtUDP})
			if !errors.Is(err, tt.want) || err == nil && got != 111 {
				t.Errorf("port %d, error %v, want %v", got, err, tt.want)
			}
		})
	}
}

// A reply from another address is not an answer, even with the right id.
func TestDatagramFromElsewhere(t *testing.T) {
	other, err := net.ListenPacket("udp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1<<10)
		n, from, err := server.ReadFrom(buf)
		if err != nil {
			return
		}
		call, _ := oncrpc.ParseCall(buf[:n])
		other.WriteTo(xdr.AppendUint32(success(call.XID), 666), from)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := dialTest(t, "udp", server.LocalAddr().String())
	if got, err := c.GetPort(ctx, rpcbind.Mapping{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("port %d, %v", got, err)
	}
}

// A lost datagram is sent again, with the same id.
func TestRetransmission(t *testing.T) {
	var calls atomic.Int32
	var first atomic.Uint32
	c := datagramServer(t, func(call oncrpc.Call) [][]byte {
		if calls.Add(1) == 1 {
			first.Store(call.XID)
			return nil
		}
		if call.XID != first.Load() {
			t.Errorf("sent again with id %x, first %x", call.XID, first.Load())
		}
		return [][]byte{success(call.XID)}
	})
	if err := c.Null(soon(t), 2); err != nil || calls.Load() != 2 {
		t.Errorf("%d calls, %v", calls.Load(), err)
	}
}

func TestNobodyThere(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := conn.LocalAddr().String()
	conn.Close()
	if err := dialTest(t, "udp", address).Null(soon(t), 2); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp: %v", err)
	}
	if _, err := client.Dial(soon(t), "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v", err)
	}
	if _, err := client.Dial(soon(t), "local", t.TempDir()+"/sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("local: %v", err)
	}
}

// Cancelling ends the call that waits, and no later one.
func TestCancel(t *testing.T) {
	var calls atomic.Int32
	c := datagramServer(t, func(call oncrpc.Call) [][]byte {
		if calls.Add(1) == 1 {
			return nil
		}
		return [][]byte{success(call.XID)}
	})
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := c.Null(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if err := c.Null(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("call with a context that is done: %v", err)
	}
	if err := c.Null(soon(t), 2); err != nil {
		t.Errorf("next call: %v", err)
	}
	c.Close()
}

// versions answers as a port mapper that has only some versions.
func versions(have ...uint32) func(oncrpc.Call) [][]byte {
	return func(call oncrpc.Call) [][]byte {
		for _, v := range have {
			switch {
			case v != call.Version:
			case v == rpcbind.Version2:
				return [][]byte{xdr.AppendUint32(success(call.XID), 2049)}
			default:
				return [][]byte{xdr.AppendString(success(call.XID), "127.0.0.1.8."+string(rune('0'+v)))}
			}
		}
		return [][]byte{oncrpc.AppendProgMismatch(nil, call.XID, have[0], have[len(have)-1])}
	}
}

func TestLookupFallsBack(t *testing.T) {
	tests := []struct {
		name   string
		answer func(oncrpc.Call) [][]byte
		want   string
		err    string
	}{
		{"version 4", versions(2, 3, 4), "127.0.0.1.8.4", ""},
		{"version 3", versions(2, 3), "127.0.0.1.8.3", ""},
		{"version 2", versions(2), "127.0.0.1.8.1", ""},
		{"arguments not understood", func(c oncrpc.Call) [][]byte {
			if c.Version == rpcbind.Version4 {
				return [][]byte{oncrpc.AppendAccepted(nil, c.XID, oncrpc.GarbageArgs)}
			}
			return versions(3)(c)
		}, "127.0.0.1.8.3", ""},
		{"no port mapper", func(c oncrpc.Call) [][]byte {
			return [][]byte{oncrpc.AppendAccepted(nil, c.XID, oncrpc.ProgUnavail)}
		}, "", "RPC: Program unavailable"},
		{"a denial is final", func(c oncrpc.Call) [][]byte {
			if c.Version != rpcbind.Version4 {
				t.Error("asked again after a denial")
			}
			return [][]byte{oncrpc.AppendAuthError(nil, c.XID, oncrpc.AuthTooWeak)}
		}, "", "Client credential too weak"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := datagramServer(t, tt.answer).Lookup(soon(t), 100003, 3)
			switch {
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("%q, error %v, want %s", got, err, tt.err)
			case tt.err == "" && (err != nil || got != tt.want):
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestDialAddresses(t *testing.T) {
	for _, tt := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:0"},
		{"tcp", "127.0.0.1:70000"},
		{"tcp", "127.0.0.1:sunrpc"},
		{"tcp", "::1"},
		{"udp6", "127.0.0.1"},
		{"udp", "host.invalid"},
		{"sctp", "127.0.0.1"},
		{"", "127.0.0.1"},
	} {
		if c, err := client.Dial(soon(t), tt.network, tt.address); err == nil {
			t.Errorf("Dial(%q, %q): %v", tt.network, tt.address, c.UAddr())
		}
	}
}
