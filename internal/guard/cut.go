package guard

import (
	"context"
	"net"
	"net/netip"

	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
)

// cut ends the connections of clients whom the firewall has just closed a port
// to. Their packets are dropped already; without this the service would keep
// the connections until it gives up.
func (g *Guard) cut(ctx context.Context, batches []ruleset.Batch) {
	for port := range changed(g.state, batches) {
		allowed, guarded := g.state.Allowed(port)
		if !guarded || port.Proto != ruleset.TCP {
			continue
		}
		flows, err := sockdiag.Flows(port.Port)
		if err != nil {
			g.Log.WarnContext(ctx, "connections of clients that are allowed no more can't be ended", "err", err)
			return
		}
		for _, f := range flows {
			if allowed.Contains(f.Remote.Addr()) || ownAddress(f.Remote.Addr()) {
				continue
			}
			err := sockdiag.Destroy(f)
			g.Log.InfoContext(ctx, "ended a connection that is not allowed", "from", f.Remote, "port", port.Port, "err", err)
		}
	}
}

// changed returns the ports that the steps may have closed to somebody.
func changed(s *ruleset.State, batches []ruleset.Batch) map[ruleset.Port]bool {
	ports, chains, sets := map[ruleset.Port]bool{}, map[string]bool{}, map[string]bool{}
	all := false
	for _, b := range batches {
		for _, step := range b {
			switch step.Op {
			case ruleset.SetPort:
				ports[step.Port] = true
			case ruleset.EditChain:
				chains[step.Name] = true
			case ruleset.EditSet:
				sets[step.Name] = true
			case ruleset.AddBase:
				all = true
			}
		}
	}
	for port, name := range s.Ports {
		if all || chains[name] || sets[s.Chains[name].Set] {
			ports[port] = true
		}
	}
	return ports
}

// ownAddress reports whether addr is this host's: what it sends itself is not
// the firewall's business.
func ownAddress(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // ends nothing that it is not sure about
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == addr.WithZone("") {
				return true
			}
		}
	}
	return false
}
