package guard

import (
	"fmt"
	"slices"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// Plan is what a firewall would be changed to, and what comes of that.
type Plan struct {
	Current, Desired *ruleset.State
	Services         []PlannedService // on all ports that are guarded before or after
	Findings         []hostsaccess.Diagnostic
	CutOff           []Client // who is using a port now, and would not get to it any more
	Tracked          bool     // clients that send datagrams are among CutOff too
}

// PlannedService is the same program, or programs, on ports with the same fate.
type PlannedService struct {
	Name          string
	Ports         []ruleset.Port
	Guarded       bool // now; if not, everybody gets to the ports
	Remains       bool // guarded, after the change
	Before, After *ruleset.Addresses
	Why           []string // which rules say so, for each program
}

// Changed reports whether anything changes for anybody.
func (s *PlannedService) Changed() bool {
	return s.Guarded != s.Remains || !s.Before.Equal(s.After)
}

// Changes reports whether the kernel would be changed.
func (p *Plan) Changes() bool { return !p.Current.Equal(p.Desired) }

// NewPlan works out a plan. A port that is guarded but not registered stays
// closed to other hosts as long as a socket is on it. The policy must not be
// used by others meanwhile.
func NewPlan(policy *ruleset.Policy, current *ruleset.State, registered []registry.Registration, o ruleset.Options) (*Plan, error) {
	if o.Own == 0 {
		o.Own = rpcbind.Port
	}
	list := make([]ruleset.Registration, 0, len(registered))
	for _, r := range registered {
		list = append(list, ruleset.Registration{Program: r.Program, NetID: r.NetID, At: r.IP})
	}
	p := &Plan{Current: current}
	p.Desired, p.Findings = policy.Desired(list, o)
	for _, port := range current.SortedPorts() {
		if _, stays := p.Desired.Ports[port]; !stays && inUse(port) {
			o.Tombstones = append(o.Tombstones, port)
		}
	}
	if len(o.Tombstones) > 0 {
		p.Desired, _ = policy.Desired(list, o)
	}
	p.services(policy, programs(list, o.Own))
	return p, p.cutOff()
}

// inUse reports whether a socket is on a port, or may be.
func inUse(port ruleset.Port) bool {
	list, err := held(sockdiag.Held).on(port)
	return len(list) > 0 || err != nil
}

// programs lists what is registered on each port.
func programs(list []ruleset.Registration, own uint16) map[ruleset.Port][]uint32 {
	on := map[ruleset.Port][]uint32{
		{Proto: ruleset.UDP, Port: own}: {rpcbind.Program},
		{Proto: ruleset.TCP, Port: own}: {rpcbind.Program},
	}
	for _, r := range list {
		if port, ok := r.Key(); ok && !slices.Contains(on[port], r.Program) {
			on[port] = append(on[port], r.Program)
		}
	}
	for _, programs := range on {
		slices.Sort(programs)
	}
	return on
}

func (p *Plan) services(policy *ruleset.Policy, on map[ruleset.Port][]uint32) {
	at := map[string]int{}
	for _, port := range allPorts(p.Current, p.Desired) {
		s := PlannedService{Ports: []ruleset.Port{port}, Name: p.Desired.Chains[p.Desired.Ports[port]].Services}
		s.Before, s.Guarded = p.Current.Allowed(port)
		s.After, s.Remains = p.Desired.Allowed(port)
		for _, program := range on[port] {
			if why := policy.Service(program, port.Port).Why; !slices.Contains(s.Why, why) {
				s.Why = append(s.Why, why)
			}
		}
		if len(on[port]) == 0 { // what was there, the name of its chain still tells
			s.Name, _, _ = strings.Cut(p.Current.Ports[port], "_")
			s.Why = []string{"it is not registered any more, and no socket is on it"}
			if s.Remains {
				s.Why = []string{"it is not registered any more, but a socket is still on it"}
			}
		}
		key := fmt.Sprintf("%q %v %v %v %v %q", s.Name, s.Guarded, s.Remains, s.Before.ID(), s.After.ID(), s.Why)
		if i, there := at[key]; there {
			p.Services[i].Ports = append(p.Services[i].Ports, port)
			continue
		}
		at[key] = len(p.Services)
		p.Services = append(p.Services, s)
	}
}

func allPorts(states ...*ruleset.State) (list []ruleset.Port) {
	for _, s := range states {
		list = append(list, s.SortedPorts()...)
	}
	slices.SortFunc(list, ruleset.Port.Compare)
	return slices.Compact(list)
}

// cutOff finds the clients that the plan shuts out.
func (p *Plan) cutOff() error {
	ports := map[ruleset.Port]string{}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			if s.Remains && s.Changed() {
				ports[port] = s.Name
			}
		}
	}
	if len(ports) == 0 {
		return nil
	}
	clients, tracked, err := Clients(ports)
	p.Tracked = tracked
	for _, c := range clients {
		before, guarded := p.Current.Allowed(c.Port)
		after, _ := p.Desired.Allowed(c.Port)
		if (!guarded || before.Contains(c.Addr)) && !after.Contains(c.Addr) {
			p.CutOff = append(p.CutOff, c)
		}
	}
	return err
}
