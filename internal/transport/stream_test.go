package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// channels are the ways in which a stream comes.
var channels = map[string]policy.Origin{
	"network":  {NetID: rpcbind.TCP, Source: netip.MustParseAddrPort("192.0.2.1:700"), Local: netip.MustParseAddrPort("192.0.2.2:111")},
	"loopback": {Channel: policy.Loopback, NetID: rpcbind.TCP, Source: netip.MustParseAddrPort("127.0.0.1:700"), Local: netip.MustParseAddrPort("127.0.0.1:111")},
	"unix":     {Channel: policy.Unix, NetID: rpcbind.Local},
}

// pipeStream serves a stream of the given origin at the other end of the pipe
// that it returns. Its clock is the test's.
func (s *testServer) pipeStream(t *testing.T, o policy.Origin, refused bool) (net.Conn, <-chan struct{}) {
	t.Helper()
	client, server := net.Pipe()
	c := &stream{server: s.Server, conn: server, worker: s.mapper.NewWorker(), origin: o, refused: refused}
	if !s.track(c) {
		t.Fatal("the server is stopping")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer s.untrack(c)
		defer server.Close()
		c.serve()
	}()
	t.Cleanup(func() { client.Close() })
	return client, ended
}

// lasts reports after how long a stream ends by itself; 0 means not at all
// within an hour.
func lasts(ended <-chan struct{}) time.Duration {
	begin := time.Now()
	select {
	case <-ended:
		return time.Since(begin)
	case <-time.After(time.Hour):
		return 0
	}
}

func exchangeNull(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write(null(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := replyXID(conn); err != nil {
		t.Fatal(err)
	}
}

// How long a connection may do nothing, at each point of its life.
func TestStreamDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name    string
		channel string
		refused bool
		do      func(*testing.T, net.Conn)
		want    time.Duration
	}{
		{"silent from the start", "network", false, nil, idleTimeout},
		{"silent from the start, refused", "network", true, nil, refusedTimeout},
		{"silent after a call", "network", false, exchangeNull, idleTimeout},
		{"half a header", "network", false, write(null(1)[:2]), stallTimeout},
		{"half a call", "network", false, write(null(1)[:20]), stallTimeout},
		{"half a call after a call", "network", false, func(t *testing.T, c net.Conn) {
			exchangeNull(t, c)
			c.Write(null(1)[:20])
		}, stallTimeout},
		{"half a call, refused", "network", true, write(null(1)[:20]), stallTimeout},
		{"takes no reply", "network", false, write(null(1)), stallTimeout},
		{"silent, loopback", "loopback", false, exchangeNull, 0},
		{"silent, unix", "unix", false, exchangeNull, 0},
		{"takes no reply, loopback", "loopback", false, write(null(1)), stallTimeout},
		{"takes no reply, unix", "unix", false, write(null(1)), stallTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
				conn, ended := s.pipeStream(t, channels[tt.channel], tt.refused)
				if tt.do != nil {
					tt.do(t, conn)
				}
				if got := lasts(ended); got != tt.want {
					t.Errorf("lasted %v, want %v", got, tt.want)
				}
				conn.Close()
				<-ended
			})
		})
	}
}

func write(b []byte) func(*testing.T, net.Conn) {
	return func(_ *testing.T, conn net.Conn) { conn.Write(b) }
}

// A client that sends a byte now and then gets no longer for its call.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
		conn, ended := s.pipeStream(t, channels["network"], false)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for _, b := range null(1) {
				conn.Write([]byte{b}) // fails when the server has hung up
				time.Sleep(time.Second)
			}
		}()
		if got := lasts(ended); got != stallTimeout {
			t.Errorf("lasted %v, want %v", got, stallTimeout)
		}
		<-sent
	})
}

// At the end, idle connections end at once; a call that has begun is answered
// if the rest of it comes in time, and waited for no longer than drainTime.
func TestStop(t *testing.T) {
	for channel, origin := range channels {
		for _, tt := range []struct {
			name string
			sent int           // bytes of a call before the end is asked for
			rest time.Duration // after which the others come; 0 is never
			want time.Duration // until the connection has ended
		}{
			{"idle", 0, 0, 0},
			{"answers what has begun", 10, 2 * time.Second, 2 * time.Second},
			{"waits no longer", 10, 0, drainTime},
		} {
			t.Run(channel+" "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
					conn, ended := s.pipeStream(t, origin, false)
					exchangeNull(t, conn)
					conn.Write(null(2)[:tt.sent])
					synctest.Wait()
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					begin := time.Now()
					go s.Serve(ctx, &Sockets{})
					if tt.rest > 0 {
						time.Sleep(tt.rest)
						conn.Write(null(2)[tt.sent:])
						if xid, err := replyXID(conn); xid != 2 || err != nil {
							t.Errorf("the call that had begun: %d, %v", xid, err)
						}
					}
					<-ended
					if got := time.Since(begin); got != tt.want {
						t.Errorf("ended after %v, want %v", got, tt.want)
					}
				})
			})
		}
	}
}

// fragments divides a record in fragments of n bytes.
func fragments(message []byte, n int) (b []byte) {
	for len(message) > 0 {
		size := min(n, len(message))
		head := uint32(size)
		if size == len(message) {
			head |= 1 << 31
		}
		b = append(binary.BigEndian.AppendUint32(b, head), message[:size]...)
		message = message[size:]
	}
	return b
}

// padded is a NULL call of n bytes in all.
func padded(xid uint32, n int) []byte {
	b := null(xid)[4:]
	return append(b, make([]byte, n-len(b))...)
}

// What may come on a stream, and how many calls of it are answered before the
// connection ends or waits for more.
func TestStreamBytes(t *testing.T) {
	socks, tcp, _, path := passed(t)
	s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
	s.start(t, socks)
	var pipelined []byte
	for xid := range uint32(100) {
		pipelined = append(pipelined, null(xid)...)
	}
	for _, tt := range []struct {
		name    string
		bytes   []byte
		chunk   int // bytes in one write; 0 is all
		answers uint32
		ends    bool // the server closes the connection
	}{
		{"a byte at a time", append(null(0), null(1)...), 1, 2, false},
		{"100 calls at once", pipelined, 0, 100, false},
		{"100 calls, cut at odd places", pipelined, 13, 100, false},
		{"fragments of 1 byte", fragments(null(0)[4:], 1), 0, 1, false},
		{"fragments of 7 bytes", fragments(null(0)[4:], 7), 5, 1, false},
		{"the longest record", fragments(padded(0, maxRecord), maxRecord), 0, 1, false},
		{"the longest record in fragments", fragments(padded(0, maxRecord), 1000), 0, 1, false},
		{"one byte too long", fragments(padded(0, maxRecord+4), maxRecord+4), 0, 0, true},
		{"too long in fragments", fragments(padded(0, maxRecord+4), 1000), 0, 0, true},
		{"good, then too long", append(null(0), 0xff, 0xff, 0xff, 0xff), 0, 1, true},
		{"empty fragment", []byte{0, 0, 0, 0}, 0, 0, true},
		{"empty last fragment", []byte{0x80, 0, 0, 0}, 0, 0, true},
		{"a reply", append([]byte{0x80, 0, 0, 24}, oncrpc.AppendAccepted(nil, 1, 0)...), 0, 0, true},
		{"RPC version 3", append([]byte{0x80, 0, 0, 12}, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3), 0, 0, true},
		{"a web browser", []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), 0, 0, true},
		{"the longest length", []byte{0x7f, 0xff, 0xff, 0xff, 1, 2, 3}, 0, 0, true},
	} {
		for network, address := range map[string]string{"tcp": tcp, "unix": path} {
			t.Run(tt.name+" over "+network, func(t *testing.T) {
				conn, err := net.Dial(network, address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				go writeChunks(conn, tt.bytes, tt.chunk)
				for xid := range tt.answers {
					if got, err := replyXID(conn); got != xid || err != nil {
						t.Fatalf("answer %d: id %d, %v", xid, got, err)
					}
				}
				if err := ending(conn); (err == nil) != tt.ends {
					t.Errorf("then %v, want the end: %v", err, tt.ends)
				}
			})
		}
	}
}

func writeChunks(w io.Writer, b []byte, chunk int) {
	if chunk == 0 {
		chunk = len(b)
	}
	for len(b) > 0 {
		n := min(chunk, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
}

// ending returns nil if the server closes the connection, and otherwise what
// happens instead within a moment.
func ending(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := conn.Read(make([]byte, 1))
	switch {
	case n > 0:
		return fmt.Errorf("more bytes")
	case err == io.EOF || errors.Is(err, syscall.ECONNRESET):
		return nil
	}
	return err
}

// A client that has said all it has to say gets its answers.
func TestHalfOpen(t *testing.T) {
	socks, tcp, _, _ := passed(t)
	s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
	s.start(t, socks)
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(append(null(0), null(1)...))
	conn.(*net.TCPConn).CloseWrite()
	for want := range uint32(2) {
		if xid, err := replyXID(conn); xid != want || err != nil {
			t.Errorf("answer %d: id %d, %v", want, xid, err)
		}
	}
	if err := ending(conn); err != nil {
		t.Errorf("then %v, want the end", err)
	}
}

// versions are n registrations of the port mapper's own program.
func versions(n uint32) []registry.Registration {
	var own []registry.Registration
	for v := range n {
		own = append(own, registry.Registration{
			Key: registry.Key{Program: rpcbind.Program, Version: v, NetID: rpcbind.TCP}, Addr: "0.0.0.0.0.111", Owner: "superuser"})
	}
	return own
}

// dumpCall is a record with a call of DUMP.
func dumpCall(xid uint32) []byte {
	c := oncrpc.Call{XID: xid, Program: rpcbind.Program, Version: rpcbind.Version4, Procedure: uint32(rpcbind.ProcDump)}
	return oncrpc.EndRecord(oncrpc.AppendCall(oncrpc.BeginRecord(nil), &c), 0)
}

// countListed returns how many registrations the answer to DUMP lists, which
// must be whole.
func countListed(t *testing.T, msg []byte) int {
	t.Helper()
	reply, err := oncrpc.ParseReply(msg)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	r := xdr.NewReader(reply.Results)
	for ; r.Bool(); n++ {
		rpcbind.ReadRPCB(&r)
	}
	if r.Err() != nil || len(r.Rest()) > 0 {
		t.Errorf("list of %d: %v, %d bytes behind", n, r.Err(), len(r.Rest()))
	}
	return n
}

// readFragment reads one fragment.
func readFragment(r io.Reader) (data []byte, last bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(head[:])
	data = make([]byte, n&(1<<31-1))
	_, err = io.ReadFull(r, data)
	return data, n>>31 == 1, err
}

// A long list is cut as rpcbind does, and is what was registered at the call,
// whatever is registered while it is read. Lists on both sides of each cut.
func TestLongReply(t *testing.T) {
	socks, tcp, _, _ := passed(t)
	s := newTestServer(t, "portmap: ALL", versions(20000), portmapper.Options{})
	s.start(t, socks)
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for xid := range uint32(3) {
		conn.Write(append(dumpCall(xid), null(100+xid)...)) // and one that waits behind it
		conn.SetReadDeadline(time.Now().Add(patience))
		want := s.registry.Snapshot().Len()
		var msg []byte
		for last := false; !last; {
			var data []byte
			if data, last, err = readFragment(conn); err != nil {
				t.Fatal(err)
			}
			if !last && len(data) != maxFragment || len(data) > maxFragment || len(data) == 0 {
				t.Fatalf("a fragment of %d bytes, last: %v", len(data), last)
			}
			if msg == nil {
				s.registry.Set(registry.Registration{Key: registry.Key{Program: 1 + xid, NetID: rpcbind.TCP}, Addr: "0.0.0.0.8.1", Owner: "superuser"})
				s.registry.Unset(xid, 0, nil, "superuser")
			}
			msg = append(msg, data...)
		}
		if n := countListed(t, msg); n != want {
			t.Errorf("%d registrations, want %d", n, want)
		}
		if got, err := replyXID(conn); got != 100+xid || err != nil {
			t.Errorf("the call behind it: %d, %v", got, err)
		}
	}
}

// Replies of all lengths around the cuts are whole.
func TestReplyLengths(t *testing.T) {
	socks, _, _, path := passed(t)
	s := newTestServer(t, "portmap: ALL", nil, portmapper.Options{})
	s.start(t, socks)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for n := range uint32(400) { // 22,000 bytes, two cuts
		if ok, err := s.registry.Set(registry.Registration{Key: registry.Key{Program: 7, Version: n, NetID: rpcbind.UDP}, Addr: "0.0.0.0.8.1", Owner: "1000"}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		conn.Write(dumpCall(n))
		conn.SetReadDeadline(time.Now().Add(patience))
		msg, err := oncrpc.ReadRecord(conn, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if got := countListed(t, msg); got != int(n)+1 {
			t.Fatalf("%d registrations, want %d", got, n+1)
		}
	}
}

// Who asks for a long list and does not read it, holds no list in memory.
func TestSlowReaders(t *testing.T) {
	const readers, most = 100, 32 << 10 // bytes for each
	socks, _, _, path := passed(t)
	s := newTestServer(t, "portmap: ALL", versions(50000), portmapper.Options{}) // 2.6 MB
	s.start(t, socks)
	before := heap()
	for range readers {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(dumpCall(1))
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := readFragment(conn); err != nil { // it is at work
			t.Fatal(err)
		}
	}
	if n := heap() - before; n > readers*most {
		t.Errorf("%d bytes for each reader", n/readers)
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Who reads a long list, but slowly, has the whole of it to the end of replyTimeout.
func TestSlowReader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pause time.Duration // before each fragment
		whole bool
		want  time.Duration // until the connection has ended
	}{
		{"in time", stallTimeout / 2, true, 0},
		{"stalls", stallTimeout + time.Second, false, stallTimeout},
		{"takes too long", stallTimeout - time.Second, false, replyTimeout},
	} {
		for channel, origin := range channels {
			t.Run(tt.name+", "+channel, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newTestServer(t, "portmap: ALL", versions(6000), portmapper.Options{}) // 35 fragments
					conn, ended := s.pipeStream(t, origin, false)
					begin := time.Now()
					conn.Write(dumpCall(1))
					last := false
					for !last {
						time.Sleep(tt.pause)
						var err error
						if _, last, err = readFragment(conn); err != nil {
							break
						}
					}
					if last != tt.whole {
						t.Errorf("the whole list: %v, want %v", last, tt.whole)
					}
					conn.Close()
					<-ended
					if took := time.Since(begin); !tt.whole && (took < tt.want || took > tt.want+2*tt.pause) {
						t.Errorf("ended after %v, want %v", took, tt.want)
					}
				})
			})
		}
	}
}

// BenchmarkDump reads the whole list over TCP.
func BenchmarkDump(b *testing.B) {
	for _, n := range []uint32{10, 1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			socks, tcp, _, _ := passed(b)
			s := newTestServer(b, "portmap: ALL", versions(n), portmapper.Options{})
			s.start(b, socks)
			conn, err := net.Dial("tcp", tcp)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r, call := bufio.NewReaderSize(conn, 64<<10), dumpCall(1)
			var msg []byte
			for b.Loop() {
				if _, err := conn.Write(call); err != nil {
					b.Fatal(err)
				}
				if msg, err = oncrpc.ReadRecord(r, msg[:0], 64<<20); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(msg)))
		})
	}
}

// What the kernel does not tell is no reason to take a connection for this
// host's own.
func TestUnknownSourceIsNotLocal(t *testing.T) {
	var l streamSocket
	if o := l.originIP(-1, netip.AddrPort{}, netip.AddrPort{}, 1024); o.Channel != policy.Network || o.Privileged {
		t.Errorf("a connection from nowhere is %v, privileged %v", o.Channel, o.Privileged)
	}
}
