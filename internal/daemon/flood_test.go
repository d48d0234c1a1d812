package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// fewDescriptors starts rpcward with the fewest descriptors that a host gives.
func fewDescriptors(t *testing.T, h *lab.Host) *lab.Process {
	t.Helper()
	lab.NeedCommand(t, "prlimit")
	p := h.Start("prlimit", "--nofile=64:64", lab.Rpcward(t).Path, "-f")
	p.WaitServing()
	return p
}

// openMany opens connections and leaves them so. The far end may close them at
// once: that is no error.
func openMany(t *testing.T, h *lab.Host, network, address string, n int) (all []net.Conn) {
	t.Helper()
	for range n {
		conn, err := h.Dial(network, address)
		if err != nil {
			t.Logf("connection %d of %d: %v", len(all), n, err)
			return all
		}
		t.Cleanup(func() { conn.Close() })
		all = append(all, conn)
	}
	return all
}

// However many connections others hold open, this host's services get through,
// datagrams are answered, and connections are taken again when those end.
func TestConnectionFloods(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		network string
		address string
		from    func(*lab.Net) *lab.Host
	}{
		{"strangers", "tcp", "10.98.0.1:111", func(n *lab.Net) *lab.Host { return n.Stranger }},
		{"an allowed client", "tcp", "10.99.0.1:111", func(n *lab.Net) *lab.Host { return n.Inside }},
		{"loopback", "tcp", "127.0.0.1:111", func(n *lab.Net) *lab.Host { return n.Server }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := lab.NewNet(t)
			lab.Rpcward(t).OpenTo(n.Server, "10.99.0.0/24")
			p := fewDescriptors(t, n.Server)
			flood := openMany(t, tt.from(n), tt.network, tt.address, 300)
			if err := set(connect(t, n.Server, "unix", lab.Sock), 400000); err != nil {
				t.Errorf("SET over the unix socket: %v", err)
			}
			if _, err := ask(n.Inside, "udp", "10.99.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
				t.Errorf("a datagram: %v", err)
			}
			if tt.name != "an allowed client" {
				if _, err := ask(n.Inside, "tcp", "10.99.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
					t.Errorf("an allowed client over TCP: %v", err)
				}
			}
			if busy := busyFor(t, p, time.Second); busy > 500*time.Millisecond {
				t.Errorf("took %v of a processor in a second with nothing to do", busy)
			}
			for _, conn := range flood {
				conn.Close()
			}
			lab.Eventually(t, "an answer over TCP after the flood", func() error {
				_, err := ask(n.Inside, "tcp", "10.99.0.1:111", rpcbind.ProcGetTime, nil)
				return err
			})
		})
	}
}

// Root of this host may take the last descriptor: nobody spins then, datagrams
// are answered, and connections are taken again when there are descriptors.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	p := fewDescriptors(t, h)
	flood := openMany(t, h, "unix", lab.Sock, 100)
	waitLog(t, p, "too many open files")
	if _, err := ask(h, "udp", "127.0.0.1:111", rpcbind.ProcGetTime, nil); err != nil {
		t.Errorf("a datagram: %v", err)
	}
	if busy := busyFor(t, p, time.Second); busy > 300*time.Millisecond {
		t.Errorf("took %v of a processor in a second with nothing to do", busy)
	}
	for _, conn := range flood {
		conn.Close()
	}
	if err := set(connect(t, h, "unix", lab.Sock), 400000); err != nil {
		t.Errorf("SET after that: %v", err)
	}
}

// One user of this host can't take all connections of the unix socket.
func TestUserFlood(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	fewDescriptors(t, h)
	const user, other = 1000, 1001
	held := 0
	for range 200 {
		conn, err := dialAs(h, user, lab.Sock)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := askOver(conn, rpcbind.ProcNull, nil, patience); err == nil {
			held++
		}
	}
	if held == 0 || held > 8 {
		t.Errorf("one user holds %d connections of 64 descriptors", held)
	}
	for name, uid := range map[string]int{"another user": other, "root": 0} {
		conn, err := dialAs(h, uid, lab.Sock)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := set(conn, 400000+uint32(uid)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dialAs connects to a unix socket as a user.
func dialAs(h *lab.Host, uid int, path string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		// This thread only, which ends with this function.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
		conn, err = net.Dial("unix", path)
		return err
	})
	return conn, err
}

// busyFor returns how much processor time p takes in the time to come.
func busyFor(t *testing.T, p *lab.Process, d time.Duration) time.Duration {
	t.Helper()
	before, err := processorTime(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	after, err := processorTime(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	return after - before
}

// processorTime is utime and stime of a process, proc(5).
func processorTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of Linux's architectures that we build for
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
