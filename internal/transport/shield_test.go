package transport

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// flood sends calls from h until the test ends, as fast as one goroutine can.
func flood(t *testing.T, h *lab.Host, to string) {
	t.Helper()
	conn, err := h.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	c := getTime
	c.Program = rpcbind.Program
	msg := oncrpc.AppendCall(nil, &c)
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ended.Load() {
			conn.Write(msg) // refused by ICMP at worst
		}
	}()
	t.Cleanup(func() { ended.Store(true); <-done; conn.Close() })
}

// answered reports, as an error, whether h gets an answer over UDP.
func answered(t *testing.T, h *lab.Host, to string) error {
	t.Helper()
	conn, err := h.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = call(conn, getTime)
	return err
}

// In a flood of refused calls the kernel drops them, and nobody else's, and a
// changed policy is in force there too. When the flood is over it ends.
func TestShield(t *testing.T) {
	for _, tt := range []struct{ name, to, inside, own string }{
		{"IPv4", "10.98.0.1:111", "10.99.0.1:111", "10.98.0.1:111"},
		{"IPv6", "[fd98::1]:111", "[fd99::1]:111", "[fd98::1]:111"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := lab.NewNet(t)
			// One call in 64 passes, and another host must not be one of them.
			s := prepareOn(t, n.Server, "portmap: 10.99.0.0/24 [fd99::]/64", Config{}, portmapper.Options{})
			var dropped atomic.Uint64
			s.Dropped = func(n uint64) { dropped.Add(n) }
			s.start(t, s.socks)
			t.Run("flood", func(t *testing.T) {
				flood(t, n.Stranger, tt.to)
				lab.Eventually(t, "drops in the kernel", func() error {
					if dropped.Load() == 0 {
						return errors.New("nothing was dropped there")
					}
					return nil
				})
				if err := answered(t, n.Inside, tt.inside); err != nil {
					t.Errorf("an allowed client: %v", err)
				}
				if err := answered(t, n.Server, tt.own); err != nil {
					t.Errorf("this host, by its own address: %v", err)
				}
				s.policy.Store(rules(t, "portmap: 10.99.0.0/24 10.98.0.0/24 [fd98::]/63"))
				lab.Eventually(t, "an answer to a host that is allowed now", func() error {
					return answered(t, n.Stranger, tt.to)
				})
			})
			s.policy.Store(rules(t, "portmap: 10.99.0.0/24"))
			lab.Eventually(t, "the end of the shield", func() error {
				before := len(s.seen.all())
				conn, err := n.Stranger.Dial("udp", tt.to)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for range 20 {
					conn.Write(null(1)[4:])
				}
				time.Sleep(patience / 50)
				if seen := len(s.seen.all()) - before; seen < 20 {
					return fmt.Errorf("%d of 20 refused calls were seen", seen)
				}
				return nil
			})
		})
	}
}

// A changed policy takes the place of the one before where the kernel has room
// for one filter of that length only.
func TestShieldWithoutRoomForTwo(t *testing.T) {
	h := lab.NewHost(t, "server")
	const room = "/proc/sys/net/core/optmem_max"
	lab.NeedFeature(t, "optmem_max of a network namespace", func() error {
		_, err := h.Run(t.Context(), "sh", "-c", "echo 20480 >"+room)
		return err
	})
	var allow strings.Builder
	for i := range 250 {
		fmt.Fprintf(&allow, "portmap: 10.%d.%d.0/24 [2001:db8:%x::]/48\n", i, i*7%256, 2*i+1)
	}
	s := prepareOn(t, h, allow.String(), Config{}, portmapper.Options{})
	defer s.socks.Close()
	sh := newShield(s.Server, s.socks)
	for range 3 {
		if !sh.attach(s.policy.Load()) {
			t.Fatal("the filter could not be attached")
		}
	}
}

// In a flood of connections those that the policy refuses are reset, and others
// served.
func TestSift(t *testing.T) {
	for _, tt := range []struct{ name, to, inside, own string }{
		{"IPv4", "10.98.0.1:111", "10.99.0.1:111", "10.98.0.1:111"},
		{"IPv6", "[fd98::1]:111", "[fd99::1]:111", "[fd98::1]:111"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := lab.NewNet(t)
			s := serveOn(t, n.Server, "portmap: 10.99.0.0/24 [fd99::]/64", Config{}, portmapper.Options{})
			deadline := time.Now().Add(patience)
			for reset := 0; reset < 100; {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections were reset", reset)
				}
				reset += burst(t, n.Stranger, tt.to)
				abandon(n.Inside, tt.inside)
			}
			for _, from := range []struct {
				h  *lab.Host
				to string
			}{{n.Inside, tt.inside}, {n.Server, tt.own}, {n.Server, "127.0.0.1:111"}} {
				conn, err := from.h.Dial("tcp", from.to)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := call(conn, getTime); err != nil {
					t.Errorf("%s to %s: %v", from.h.Name, from.to, err)
				}
			}
			lab.Eventually(t, "an answer to a stranger after the flood", func() error {
				conn, err := n.Stranger.Dial("tcp", tt.to)
				if err != nil {
					return err
				}
				defer conn.Close()
				reply, err := call(conn, getTime)
				if err == nil && reply.Auth != oncrpc.AuthTooWeak {
					t.Errorf("a stranger gets %+v", reply)
				}
				return err
			})
			if s.counts.siftTold.Load() == 0 {
				t.Error("the log was not told")
			}
		})
	}
}

// Connections that are sifted are seen from the same address as others, with
// the interface of a link-local one: rules may name it.
func TestSiftKeepsScope(t *testing.T) {
	n := lab.NewNet(t)
	n.Server.MustRun("ip", "addr", "add", "fe80::99/64", "dev", "lan", "nodad")
	s := serveOn(t, n.Server, "portmap: [fe80::]/64", Config{}, portmapper.Options{})
	for s.counts.siftTold.Load() == 0 {
		burst(t, n.Stranger, "[fd98::1]:111")
		for range 20 {
			conn, err := n.Inside.Dial("tcp", "[fe80::99%eth0]:111")
			if err != nil {
				t.Fatal(err)
			}
			_, err = call(conn, getTime)
			conn.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, o := range s.seen.all() {
		if o.Source.Addr().IsLinkLocalUnicast() && o.Source.Addr().Zone() == "" {
			t.Fatalf("a call from %v has no scope", o.Source)
		}
	}
}

// abandon opens connections and resets them before they can be looked at.
func abandon(h *lab.Host, to string) {
	h.Do(func() error {
		for range 50 {
			if conn, err := net.Dial("tcp", to); err == nil {
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		}
		return nil
	})
}

// burst opens 200 connections at once, and returns how many of them were reset.
func burst(t *testing.T, h *lab.Host, to string) (reset int) {
	t.Helper()
	var open []net.Conn
	begin := time.Now()
	h.Do(func() error {
		for range 200 {
			if conn, err := net.Dial("tcp", to); err == nil {
				open = append(open, conn)
			} else {
				reset++ // before it could be used
			}
		}
		return nil
	})
	t.Logf("200 connections in %v, %d failed", time.Since(begin), reset)
	for _, conn := range open {
		conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, unix.ECONNRESET) {
			reset++
		}
		conn.Close()
	}
	return reset
}

// Rules that no set of prefixes can hold leave the decision to the policy.
func TestNoShieldForSuchRules(t *testing.T) {
	n := lab.NewNet(t)
	s := prepareOn(t, n.Server, "portmap@10.98.0.1: 10.98.", Config{}, portmapper.Options{})
	s.start(t, s.socks)
	flood(t, n.Inside, "10.99.0.1:111")
	for range 20 {
		if err := answered(t, n.Stranger, "10.98.0.1:111"); err != nil {
			t.Fatalf("a client that such a rule allows: %v", err)
		}
	}
}
