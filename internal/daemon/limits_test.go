package daemon_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// forger sends datagrams to one port with any source address.
type forger struct {
	fd int
	to netip.AddrPort
}

func newForger(t *testing.T, h *lab.Host, to string) *forger {
	t.Helper()
	f := &forger{to: netip.MustParseAddrPort(to)}
	err := h.Do(func() (err error) {
		f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

// send sends payload as if from source, ip(7) and raw(7): the kernel fills in
// the length and the checksum of the header.
func (f *forger) send(source netip.Addr, payload []byte) error {
	src, dst := source.As4(), f.to.Addr().As4()
	b := []byte{
		0x45, 0, 0, 0, // version 4, 5 words
		0, 0, 0, 0, // not a fragment
		64, unix.IPPROTO_UDP, 0, 0,
	}
	b = append(append(b, src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, f.to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(b, 0, 0) // no checksum
	return unix.Sendto(f.fd, append(b, payload...), 0, &unix.SockaddrInet4{Addr: dst})
}

// resident is how much memory a process has, in kB: VmRSS in proc(5).
func resident(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// nullCall is procedure 0 of version 2.
var nullCall = oncrpc.AppendCall(nil, &oncrpc.Call{XID: 1, Program: rpcbind.Program, Version: 2})

// Refused calls from 100,000 forged networks, and one that calls more often:
// clients are answered in between, the log has a few lines that tell of all
// calls and name that one, and memory stays as it was.
func TestForgedFlood(t *testing.T) {
	t.Parallel()
	const networks, burst = 100_000, 100
	n := lab.NewNet(t)
	n.Server.MustRun("sh", "-c", "for i in all wan; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done")
	lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
	p := serve(t, n.Server)
	client := connect(t, n.Inside, "udp", "10.99.0.1:111")
	stranger := connect(t, n.Stranger, "udp", "10.98.0.1:111")
	f := newForger(t, n.Stranger, "10.98.0.1:111")
	before, begin, sent := resident(t, p.PID()), time.Now(), 0
	for i := range networks {
		if err := f.send(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 7}), nullCall); err != nil {
			t.Fatal(err)
		}
		sent++
		if i%burst != 0 {
			continue
		}
		for range 5 {
			stranger.Write(nullCall)
			sent++
		}
		// Clients use the same socket, so that it is empty when this one is answered.
		if _, err := askOver(client, rpcbind.ProcNull, nil, patience); err != nil {
			t.Fatalf("a client after %d datagrams: %v", sent, err)
		}
	}
	time.Sleep(50 * time.Millisecond) // until the last one is read
	if grown := resident(t, p.PID()) - before; grown > 6<<10 {
		t.Errorf("memory grew by %d kB from %d kB", grown, before)
	}
	seconds := int(time.Since(begin)/time.Second) + 2
	endLog(t, p,
		"requests from unauthorized hosts in 10.98.0.0/24 in the last ",
		" s, last from 10.98.0.2 to null()\n",
		" other networks in the last ")
	lines, more := told(t, p.Log())
	all := strings.Count(p.Log(), "\n")
	if most := 10*seconds + 25*(seconds/10+1); lines == 0 || all > most {
		t.Errorf("%d lines in all, want at most %d in %d seconds, %d of them about single calls", all, most, seconds, lines)
	}
	if lines+more != sent {
		t.Errorf("%d lines and %d more, of %d calls", lines, more, sent)
	}
}

// asked sends calls in datagrams and returns how many answers come, until none
// has come for a while.
func asked(t *testing.T, h *lab.Host, to string, calls int) (answered int) {
	t.Helper()
	conn := connect(t, h, "udp", to)
	for range calls {
		if _, err := conn.Write(nullCall); err != nil {
			t.Fatal(err)
		}
	}
	for b := make([]byte, 1<<10); answered < calls; answered++ {
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(b); os.IsTimeout(err) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return answered
}

// Each network that is let in gets its rate over UDP, and is made to wait for it
// over TCP; this host gets any.
func TestRates(t *testing.T) {
	t.Parallel()
	const rate, listed, calls = 5, 15, 40
	n := lab.NewNet(t)
	lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
	p := serve(t, n.Server, "--default", "allow", "--rate", strconv.Itoa(rate), "--rate-listed", strconv.Itoa(listed))
	for _, tt := range []struct {
		name string
		from *lab.Host
		to   string
		rate int
	}{
		{"unlisted", n.Stranger, "10.98.0.1:111", rate},
		{"unlisted over IPv6", n.Stranger, "[fd98::1]:111", rate},
		{"listed", n.Inside, "10.99.0.1:111", listed},
		{"this host", n.Server, "127.0.0.1:111", calls},
		{"this host, by its address", n.Server, "10.98.0.1:111", calls},
	} {
		begin := time.Now()
		got := asked(t, tt.from, tt.to, calls)
		if most := tt.rate * (2 + int(time.Since(begin)/time.Second)); got < tt.rate || got > most {
			t.Errorf("%s: %d answers of %d, want %d to %d", tt.name, got, calls, tt.rate, most)
		}
	}
	conn := connect(t, n.Stranger, "tcp", "10.98.0.1:111")
	begin := time.Now()
	const more = 8
	for i := range more {
		if _, err := askOver(conn, rpcbind.ProcNull, nil, patience); err != nil {
			t.Errorf("call %d over TCP: %v", i, err)
		}
	}
	// At most a second's worth was saved, and the rest comes at its rate.
	if took := time.Since(begin); took < (more-rate-1)*time.Second/rate {
		t.Errorf("%d calls over TCP were answered in %v", more, took)
	}
	endLog(t, p,
		"rpcward: warning: connect from 10.98.0.2 to null(): held back by the rate limit\n",
		" more answers held back by the rate limit in 10.98.0.0/24 in the last ",
		" more answers held back by the rate limit in fd98::/56 in the last ",
		" more answers held back by the rate limit in 10.99.0.0/24 in the last ")
}

// With --rate-log-only all are answered, and the log says what would not be.
func TestRateLogOnly(t *testing.T) {
	t.Parallel()
	const calls = 30
	n := lab.NewNet(t)
	p := serve(t, n.Server, "--default", "allow", "--rate", "5", "--rate-log-only")
	if got := asked(t, n.Stranger, "10.98.0.1:111", calls); got != calls {
		t.Errorf("%d answers of %d", got, calls)
	}
	endLog(t, p,
		"rpcward: warning: connect from 10.98.0.2 to null(): answered over the rate limit\n",
		" more answers over the rate limit in 10.98.0.0/24 in the last ")
}

// A flood of forged datagrams in the name of a network that is let in by default
// gets that network its rate of answers and no more, and a client there gets its
// own over TCP.
func TestForgedFloodOfAnswers(t *testing.T) {
	t.Parallel()
	const rate = 10
	n := lab.NewNet(t)
	p := serve(t, n.Server, "--default", "allow", "--rate", strconv.Itoa(rate))
	victim, err := n.Stranger.ListenPacket("udp", "10.98.0.2:40000")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	f := newForger(t, n.Stranger, "10.98.0.1:111")
	stop := make(chan struct{})
	ended := make(chan int)
	begin := time.Now()
	go func() {
		sent := 0
		for {
			select {
			case <-stop:
				ended <- sent
				return
			case <-time.After(100 * time.Microsecond):
				if f.send(lab.StrangerIP, nullCall) == nil {
					sent++
				}
			}
		}
	}()
	conn := connect(t, n.Stranger, "tcp", "10.98.0.1:111")
	for i := range 2 * rate {
		if _, err := askOver(conn, rpcbind.ProcNull, nil, patience); err != nil {
			t.Errorf("call %d over TCP in the flood: %v", i, err)
		}
	}
	close(stop)
	sent := <-ended
	answers, b := 0, make([]byte, 1<<10)
	victim.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		if _, _, err := victim.ReadFrom(b); err != nil {
			break
		}
		answers++
	}
	if most := rate * (2 + int(time.Since(begin)/time.Second)); answers > most || sent < 10*most {
		t.Errorf("%d answers to %d forged calls, want at most %d", answers, sent, most)
	}
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}
