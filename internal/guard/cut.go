package guard

import "rpcward/internal/ruleset"

// noteClosed has the connections ended to the TCP ports that the steps may have
// closed to somebody.
func (g *Guard) noteClosed(batches []ruleset.Batch) {
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
	for port, name := range g.state.Ports {
		if port.Proto != ruleset.TCP || !all && !ports[port] && !chains[name] && !sets[g.state.Chains[name].Set] {
			continue
		}
		if g.todo.cut == nil {
			g.todo.cut = map[ruleset.Port]*ruleset.Addresses{}
		}
		g.todo.cut[port], _ = g.state.Allowed(port)
	}
}
