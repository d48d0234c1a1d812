package guard

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// chore is work with the sockets of this host. The kernel goes through all of
// them each time, which can take longer than a registration may wait.
type chore struct {
	cut   map[ruleset.Port]*ruleset.Addresses // ports, and whose connections stay
	looks map[ruleset.Port]bool               // ports whose sockets are to be listed
}

func (c *chore) empty() bool { return len(c.cut) == 0 && len(c.looks) == 0 }

func (c *chore) look(ports ...ruleset.Port) {
	if c.looks == nil {
		c.looks = map[ruleset.Port]bool{}
	}
	for _, p := range ports {
		c.looks[p] = true
	}
}

// sighting is the sockets that were seen on some ports. A port that could not
// be looked at is not in it.
type sighting map[ruleset.Port][]sockdiag.Socket

// hand does chores, one at a time, beside the loop.
type hand struct {
	log    *slog.Logger
	held   held
	chores chan chore
	seen   chan sighting
}

func (h *hand) run(ctx context.Context) {
	for {
		select {
		case c := <-h.chores:
			h.cut(ctx, c.cut)
			h.look(ctx, c.looks)
		case <-ctx.Done():
			return
		}
	}
}

// look lists the sockets on ports.
func (h *hand) look(ctx context.Context, ports map[ruleset.Port]bool) {
	s := sighting{}
	for p := range ports {
		if list, err := h.held.on(p); err == nil {
			s[p] = list
		}
	}
	select {
	case h.seen <- s:
	case <-ctx.Done():
	}
}

// held returns the sockets on a port, such as sockdiag.Held.
type held func(n rpcbind.NetID, port uint16) ([]sockdiag.Socket, error)

// on returns the sockets on a port that some process has. A connection that no
// process has accepted yet, or that all have closed, is nobody's.
func (h held) on(port ruleset.Port) ([]sockdiag.Socket, error) {
	n := rpcbind.UDP
	switch port.Proto {
	case ruleset.TCP:
		n = rpcbind.TCP
	case ruleset.SCTP:
		n = rpcbind.SCTP
	}
	list, err := h(n, port.Port)
	return slices.DeleteFunc(list, func(s sockdiag.Socket) bool { return s.Inode == 0 }), err
}

// cut ends the connections of clients whom the firewall has just closed a port
// to. Their packets are dropped already; without this the service would keep
// the connections until it gives up.
func (h *hand) cut(ctx context.Context, ports map[ruleset.Port]*ruleset.Addresses) {
	if len(ports) == 0 {
		return
	}
	own, err := ownAddresses()
	var flows []sockdiag.Flow
	if err == nil {
		flows, err = sockdiag.Flows(0)
	}
	for _, f := range flows {
		allowed, closed := ports[ruleset.Port{Proto: ruleset.TCP, Port: f.Local.Port()}]
		if from := f.Remote.Addr().WithZone(""); !closed || allowed.Contains(from) || from.IsLoopback() || own[from] {
			continue
		}
		if err = sockdiag.Destroy(f); err != nil {
			break
		}
		h.log.InfoContext(ctx, "ended a connection that is not allowed", "from", f.Remote, "port", f.Local.Port())
	}
	if err != nil {
		h.log.WarnContext(ctx, "connections of clients that are allowed no more can't be ended", "err", err)
	}
}

// ownAddresses returns this host's: what it sends itself is not the firewall's
// business.
func ownAddresses() (map[netip.Addr]bool, error) {
	list, err := net.InterfaceAddrs()
	own := map[netip.Addr]bool{}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own[addr.Unmap()] = true
			}
		}
	}
	return own, err
}
