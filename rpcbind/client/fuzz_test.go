package client_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
	"rpcward/xdr"
)

// FuzzReply has a server answer every call with the same result bytes: each
// decoder returns a value or an error, and no result is larger than its bytes
// allow.
func FuzzReply(f *testing.F) {
	l, err := net.Listen("unix", "@rpcward-fuzz-"+time.Now().Format("150405.000000"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	results := make(chan []byte, 1)
	go serveResults(l, results)
	c, err := client.Dial(f.Context(), "local", l.Addr().String())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })

	entry := rpcbind.AppendRPCB(rpcbind.AppendMore(nil, true), &rpcbind.RPCB[string]{Program: 100003, Version: 3, NetID: "tcp", Addr: "0.0.0.0.8.1", Owner: "superuser"})
	f.Add(rpcbind.AppendMore(entry, false))
	f.Add(rpcbind.AppendStat(rpcbind.AppendStat(rpcbind.AppendStat(nil, &rpcbind.Stat{}), &rpcbind.Stat{}), &rpcbind.Stat{Addrs: make([]rpcbind.AddrStat, 2)}))
	f.Add(xdr.AppendString(nil, "127.0.0.1.0.111"))
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for name, call := range decoders(c, len(data)) {
			results <- data
			if err := call(ctx); err != nil && !errors.Is(err, client.ErrResult) && !errors.Is(err, client.ErrNotRegistered) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// serveResults answers each call on the first connection with the next result.
func serveResults(l net.Listener, results <-chan []byte) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
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
		if _, err := conn.Write(record(success(call.XID), <-results)); err != nil {
			return
		}
	}
}

func decoders(c *client.Client, size int) map[string]func(context.Context) error {
	m := &rpcbind.RPCB[string]{}
	bounded := func(n, each int, err error) error {
		if n*each > size {
			return errors.New("more items than bytes")
		}
		return err
	}
	return map[string]func(context.Context) error{
		"DUMP2": func(ctx context.Context) error { l, err := c.DumpMappings(ctx); return bounded(len(l), 20, err) },
		"DUMP4": func(ctx context.Context) error { l, err := c.Dump(ctx, 4); return bounded(len(l), 24, err) },
		"LIST":  func(ctx context.Context) error { l, err := c.GetAddrList(ctx, m); return bounded(len(l), 24, err) },
		"STAT": func(ctx context.Context) error {
			s, err := c.GetStat(ctx)
			return bounded(len(s[0].Addrs)+len(s[1].Addrs)+len(s[2].Addrs), 20, err)
		},
		"PORT":  func(ctx context.Context) error { _, err := c.GetPort(ctx, rpcbind.Mapping{}); return err },
		"ADDR":  func(ctx context.Context) error { s, err := c.GetAddr(ctx, 4, m); return bounded(len(s), 1, err) },
		"U2T":   func(ctx context.Context) error { b, err := c.UAddr2TAddr(ctx, 3, ""); return bounded(len(b), 1, err) },
		"T2U":   func(ctx context.Context) error { s, err := c.TAddr2UAddr(ctx, 3, nil); return bounded(len(s), 1, err) },
		"CALL2": func(ctx context.Context) error { _, _, err := c.CallMapped(ctx, &rpcbind.RemoteCall{}); return err },
		"CALL4": func(ctx context.Context) error {
			s, b, err := c.Indirect(ctx, &rpcbind.RemoteCall{})
			return bounded(len(s)+len(b), 1, err)
		},
		"SET": func(ctx context.Context) error { _, err := c.Set(ctx, 4, m); return err },
	}
}

// FuzzMessage has a server send any bytes after the first call: the call ends
// with a value or an error in time, whatever they are.
func FuzzMessage(f *testing.F) {
	f.Add(record(success(1)))
	f.Add(record(oncrpc.AppendAuthError(nil, 1, oncrpc.AuthTooWeak)))
	f.Add([]byte{0x80, 0, 0, 0})
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 1})
	path, answers := answering(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "local", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		answers <- data
		// The id is random, so no input can be the reply.
		if err := c.Null(ctx, 4); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// answering is a server that takes one connection after the other, sends bytes
// from the channel after the first call, and hangs up. It has a unix socket, of
// which there are as many as a fuzzer wants.
func answering(f *testing.F) (path string, answers chan<- []byte) {
	path = filepath.Join(f.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	queue := make(chan []byte)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			data := <-queue
			oncrpc.ReadRecord(conn, nil, 9000)
			conn.Write(data)
			conn.Close()
		}
	}()
	return path, queue
}
