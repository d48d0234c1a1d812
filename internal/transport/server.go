package transport

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/portmapper"
)

// Server carries calls between sockets and a Mapper.
type Server struct {
	mapper    *portmapper.Mapper
	log       *slog.Logger
	caps      *connectionCaps
	forwarder *forwarder
	counts    counts
	reserved  uint16 // ports of this host below it are root's to bind

	// Dropped is told how many datagrams of refused sources the kernel dropped
	// for us in a flood. Set it before Serve; it may be nil.
	Dropped func(n uint64)

	shield *shield

	stopping atomic.Bool
	mu       sync.Mutex // guards streams, and its closing against stopping
	streams  map[*stream]struct{}
	running  sync.WaitGroup // of stream connections
}

// counts are what the server met that has no answer.
type counts struct {
	readErrors, writeErrors, capped atomic.Uint64
}

// NewServer returns a server for m.
func NewServer(m *portmapper.Mapper, log *slog.Logger) *Server {
	return &Server{
		mapper: m, log: log, caps: newConnectionCaps(),
		forwarder: newForwarder(), streams: map[*stream]struct{}{}, reserved: reservedPorts(),
	}
}

// reservedPorts returns the first port that not only root may bind: 1024
// (IPPORT_RESERVED), or what ip_unprivileged_port_start says if that is lower,
// as it is in many containers. ip(7).
func reservedPorts() uint16 {
	const usual = 1024
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual // so it was in kernels without the setting
	}
	start, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(min(start, usual))
}

// drainTime is how long calls in progress may take at the end.
const drainTime = 5 * time.Second

// Serve answers on all sockets of s until ctx is done. Then it takes no new
// calls, waits for those in progress, at most drainTime, and closes everything.
func (s *Server) Serve(ctx context.Context, socks *Sockets) {
	var loops sync.WaitGroup
	s.shield = newShield(s, socks)
	loops.Go(func() { s.shield.run(ctx) })
	workers := s.workers(socks)
	for _, w := range workers {
		loops.Go(w.serve)
	}
	for _, l := range socks.streams {
		loops.Go(func() { l.accept(s) })
	}
	<-ctx.Done()
	s.stop(socks, workers)
	loops.Wait()
	s.drain()
	s.forwarder.close()
	for _, w := range workers {
		w.close()
	}
	for _, d := range socks.datagrams {
		d.close()
	}
	for _, path := range socks.paths {
		os.Remove(path)
	}
	s.log.Debug("transport ended", "read_errors", s.counts.readErrors.Load(),
		"write_errors", s.counts.writeErrors.Load(), "capped", s.counts.capped.Load())
}

// workers makes a worker for each share of the datagram sockets.
func (s *Server) workers(socks *Sockets) (list []*datagramWorker) {
	shares := map[int][]*datagramSocket{}
	for _, d := range socks.datagrams {
		shares[d.worker] = append(shares[d.worker], d)
	}
	for _, share := range shares {
		w, err := newDatagramWorker(s, share)
		if err != nil {
			s.log.Error("datagrams are not answered", "err", err)
			continue
		}
		list = append(list, w)
	}
	return list
}

// stop ends the taking of new calls. Connections that wait for one end now,
// those in a call when it is answered.
func (s *Server) stop(socks *Sockets, workers []*datagramWorker) {
	for _, l := range socks.streams {
		l.listener.Close()
	}
	for _, w := range workers {
		w.stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping.Store(true)
	for c := range s.streams {
		if !c.busy.Load() {
			c.conn.SetReadDeadline(time.Now())
		}
	}
}

// drain waits for the connections to end, and ends those that take too long.
func (s *Server) drain() {
	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-time.After(drainTime):
	}
	s.mu.Lock()
	for c := range s.streams {
		c.conn.Close()
	}
	s.mu.Unlock()
	<-ended
}

// track notes an open connection, unless the server is stopping.
func (s *Server) track(c *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() {
		return false
	}
	s.streams[c] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) untrack(c *stream) {
	s.mu.Lock()
	delete(s.streams, c)
	s.mu.Unlock()
	s.running.Done()
}

// forward passes on a call for another program, whose answer leaves from d,
// the socket that the call came to.
func (s *Server) forward(f *portmapper.Forwarding, d *datagramSocket, to unix.Sockaddr) {
	local, ifindex := f.Origin.Local.Addr(), d.ifindex
	s.forwarder.submit(f, func(reply []byte) {
		if d.send(reply, to, local, ifindex) != nil {
			s.counts.writeErrors.Add(1)
		}
	})
}

// JoinMulticast makes the IPv6 sockets hear calls to the port mappers' group,
// ff02::202 (RPCB_MULTICAST_ADDR, IANA's IPv6 multicast registry), on each interface.
func (s *Sockets) JoinMulticast(ifindexes []int) {
	group := netip.MustParseAddr("ff02::202").As16()
	for _, d := range s.datagrams {
		if !d.netid.Is6() || !d.listed.Addr().IsUnspecified() || d.worker > 0 {
			continue
		}
		for _, i := range ifindexes {
			// Interfaces without multicast refuse; they get no broadcasts either.
			unix.SetsockoptIPv6Mreq(d.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: group, Interface: uint32(i)})
		}
	}
}
