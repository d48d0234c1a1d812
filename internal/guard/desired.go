package guard

import (
	"context"

	"rpcward/internal/ruleset"
)

// desired works out the state that the firewall should be in.
func (g *Guard) desired(ctx context.Context) *ruleset.State {
	var list []ruleset.Registration
	var closed []ruleset.Port
	if g.known {
		list = g.claims.sift(ctx, g.Log, g.registered)
		g.bury(list)
		closed = g.graves.ports()
	} else {
		closed = changed(g.state)
	}
	desired, findings := g.policy.Desired(list, ruleset.Options{Mark: g.Mark, Own: g.Own, Tombstones: closed})
	for _, f := range findings {
		if text := f.String(); !g.findings[text] {
			g.findings[text] = true
			g.Log.WarnContext(ctx, "rule for a guarded service", "finding", text, "consequence", f.Consequence)
		}
	}
	if !g.known {
		keep(g.state, desired)
	}
	return desired
}

// keep adds the ports of an earlier state to desired, as they are, for which
// programs are there is not known yet.
func keep(earlier, desired *ruleset.State) {
	for port, name := range earlier.Ports {
		if _, there := desired.Ports[port]; there {
			continue
		}
		chain := earlier.Chains[name]
		desired.Sets[chain.Set] = earlier.Sets[chain.Set]
		desired.Chains[name] = chain
		desired.Ports[port] = name
	}
}

// changed returns the ports of a state that do not do what their names say.
func changed(s *ruleset.State) []ruleset.Port {
	var list []ruleset.Port
	for port, name := range s.Ports {
		id := s.Chains[name].Set
		if set := s.Sets[id]; set == nil || set.ID() != id {
			list = append(list, port)
		}
	}
	return list
}
