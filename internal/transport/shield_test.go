package transport

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
