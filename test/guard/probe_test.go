package guard

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/test/lab"
)

// aim is where a probe sends to: ports of UDP and TCP.
type aim struct{ udp, tcp uint16 }

// probe is the stranger who tries a service all the time: a few datagrams and
// an attempt to connect every fraction of a millisecond, over IPv4 and IPv6.
type probe struct {
	to   atomic.Pointer[aim]
	sent atomic.Int64
	stop atomic.Bool
	done chan struct{}
}

// startProbe starts a probe from a host against the server; it ends with the test.
func startProbe(t testing.TB, h *lab.Host, every time.Duration) *probe {
	t.Helper()
	p := &probe{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if err := h.Do(func() error { return p.run(every) }); err != nil {
			t.Errorf("the stranger: %v", err)
		}
	}()
	t.Cleanup(p.end)
	return p
}

// end ends it, and waits for that.
func (p *probe) end() {
	p.stop.Store(true)
	<-p.done
}

// lingering is how many attempts to connect are under way at once.
const lingering = 32

func (p *probe) run(every time.Duration) error {
	var udp [2]int
	families := [2]int{unix.AF_INET, unix.AF_INET6}
	for i, family := range families {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		udp[i] = fd
	}
	var attempts []int
	defer func() {
		for _, fd := range attempts {
			unix.Close(fd)
		}
	}()
	for i := 0; !p.stop.Load(); i++ {
		time.Sleep(every)
		a := p.to.Load()
		if a == nil {
			continue
		}
		// What it sends to is the server's address on its side, or the other.
		for f, addr := range [2]netip.Addr{[]netip.Addr{lab.ServerWAN, lab.ServerIP}[i%2], []netip.Addr{lab.ServerWAN6, lab.ServerIP6}[i%2]} {
			unix.Sendto(udp[f], []byte("let me in"), 0, sockaddr(addr, a.udp)) // fails when an ICMP error has come
			p.sent.Add(1)
			fd, err := unix.Socket(families[f], unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			unix.Connect(fd, sockaddr(addr, a.tcp)) // is under way, or refused
			if attempts = append(attempts, fd); len(attempts) > lingering {
				unix.SetsockoptLinger(attempts[0], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
				unix.Close(attempts[0])
				attempts = attempts[1:]
			}
		}
	}
	return nil
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}
