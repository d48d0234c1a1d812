package transport

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

// pair is a socket that is read in batches, and one that is connected to it.
func pair(t testing.TB) (*datagramSocket, *net.UDPConn) {
	t.Helper()
	fd, err := bindDatagram(rpcbind.UDP, "", netip.MustParseAddrPort("127.0.0.1:0"), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*unix.SockaddrInet4).Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &datagramSocket{fd: fd, netid: rpcbind.UDP}, client
}

// echo answers what waits at d with the same bytes, and returns how much that was.
func echo(t testing.TB, b *batch, d *datagramSocket) int {
	n, errno := b.receive(d.fd)
	if errno != 0 {
		t.Fatalf("receiving: %v", errno)
	}
	for i := range n {
		msg, ok := b.call(i)
		if ok {
			b.reply(i, append(b.replies[len(b.replies):], msg...), readPacketInfo(b.control(i)).local, 0, false)
		}
		if b.full() {
			b.send(d.fd)
		}
		b.renew(i)
	}
	if lost := b.send(d.fd); lost > 0 {
		t.Errorf("%d replies were not sent", lost)
	}
	return n
}

// What comes in goes out, in order, also with one datagram a system call, and
// when the replies do not fit in one batch.
func TestBatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		single bool
		count  int
		size   int
	}{
		{"one", false, 1, 40},
		{"a full batch", false, batchSize, 40},
		{"more than a batch", false, 3*batchSize + 1, 40},
		{"the longest calls", false, 10, maxCall},
		{"empty datagrams", false, 3, 0},
		{"one by one", true, 5, 40},
		{"one by one, the longest", true, 10, maxCall},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, client := pair(t)
			b := newBatch()
			b.single = tt.single
			for i := range tt.count {
				if _, err := client.Write(bytes.Repeat([]byte{byte(i)}, tt.size)); err != nil {
					t.Fatal(err)
				}
			}
			for got := 0; got < tt.count; {
				got += echo(t, b, d)
			}
			if _, errno := b.receive(d.fd); errno != unix.EAGAIN {
				t.Errorf("after the last one: %v, want EAGAIN", errno)
			}
			buf := make([]byte, 2*maxCall)
			client.SetReadDeadline(time.Now().Add(patience))
			for i := range tt.count {
				n, err := client.Read(buf)
				if err != nil {
					t.Fatalf("reply %d: %v", i, err)
				}
				if want := bytes.Repeat([]byte{byte(i)}, tt.size); !bytes.Equal(buf[:n], want) {
					t.Fatalf("reply %d has %d bytes of %d, want %d of %d", i, n, buf[0], tt.size, byte(i))
				}
			}
		})
	}
}

// A datagram that is too long for a call is told from one that fits.
func TestBatchTooLong(t *testing.T) {
	d, client := pair(t)
	b := newBatch()
	for _, size := range []int{maxCall + 1, maxCall} {
		if _, err := client.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	n, errno := b.receive(d.fd)
	if n != 2 || errno != 0 {
		t.Fatalf("received %d, %v; want 2", n, errno)
	}
	if _, ok := b.call(0); ok {
		t.Errorf("%d bytes count as a call", maxCall+1)
	}
	if msg, ok := b.call(1); !ok || len(msg) != maxCall {
		t.Errorf("%d bytes are not the call: %d, %v", maxCall, len(msg), ok)
	}
}

// A reply that the kernel refuses does not hold up those behind it.
func TestBatchSendsPastErrors(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single %v", single), func(t *testing.T) {
			d, client := pair(t)
			b := newBatch()
			b.single = single
			for i := range 3 {
				client.Write([]byte{byte(i)})
			}
			queued := 0
			for queued < 3 {
				n, errno := b.receive(d.fd)
				if errno != 0 {
					t.Fatal(errno)
				}
				for i := range n {
					msg, _ := b.call(i)
					local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
					if msg[0] == 1 {
						local = netip.MustParseAddr("192.0.2.1") // not ours to send from
					}
					b.reply(i, append(b.replies[len(b.replies):], msg...), local, 0, false)
					b.renew(i)
				}
				queued += n
				if single {
					b.send(d.fd)
				}
			}
			b.send(d.fd)
			client.SetReadDeadline(time.Now().Add(patience))
			buf := make([]byte, 10)
			for _, want := range []byte{0, 2} {
				if n, err := client.Read(buf); err != nil || n != 1 || buf[0] != want {
					t.Errorf("got %v, %v; want %d", buf[:n], err, want)
				}
			}
		})
	}
}

func TestBatchDoesNotAllocate(t *testing.T) {
	d, client := pair(t)
	b := newBatch()
	msg := make([]byte, 56)
	allocs := testing.AllocsPerRun(100, func() {
		for range 8 {
			client.Write(msg)
		}
		echo(t, b, d)
		for range 8 {
			client.Read(msg)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a batch of 8", allocs)
	}
}
