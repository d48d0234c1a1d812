package ruleset

import (
	"fmt"
	"net/netip"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/rpcbind"
)

// PolicyOptions say how the two files are read.
type PolicyOptions struct {
	// Default is what becomes of clients that no rule matches.
	Default policy.Default
	// Names returns what a program is called in daemon lists, the usual name
	// first; internal/rpcnames.Names. It is not asked about the port mapper.
	Names func(program uint32) []string
}

// Service is what the two files say about one program.
type Service struct {
	Program  uint32
	Name     string
	Allowed  *Addresses
	Why      string // where that comes from, for people
	Findings []hostsaccess.Diagnostic
}

// Policy knows the allowed clients of each program. It compiles a program's
// rules when it is first asked about it (with 10,000 rules some 50 ms) and keeps
// the answer, so it must not be used by several goroutines at once.
//
// What is not known closes. A rule with a mistake, or one that looks at a name
// or at more than the client's address (hostsaccess.Options.AddressOnly),
// refuses all whom it may refuse and allows only whom it surely allows. The
// findings say so.
type Policy struct {
	allow, deny *hostsaccess.File
	options     PolicyOptions
	ports       map[uint16]bool // those that daemon lists name
	services    map[serviceKey]*Service
	// What Desired worked out before, as it is asked for each registration.
	sets   map[string]*Addresses // by ID
	shared map[[2]*Addresses]*Addresses
	chains map[Chain]string
}

// serviceKey is what a compiled service depends on.
type serviceKey struct {
	program uint32
	port    uint16 // 0 for all ports that no rule names
}

// NewPolicy makes a policy of the two files; a nil file has no rules. Like
// policy.New, it refuses a pair with a mistake in a rule about the port mapper
// or about all services, with a *policy.RuleError: the caller keeps the last
// good policy. The diagnostics are those of policy.New.
func NewPolicy(allow, deny *hostsaccess.File, o PolicyOptions) (*Policy, []hostsaccess.Diagnostic, error) {
	_, found, err := policy.New(allow, deny, policy.Options{Default: o.Default})
	if err != nil {
		return nil, found, err
	}
	p := &Policy{allow: allow, deny: deny, options: o, services: map[serviceKey]*Service{}, ports: map[uint16]bool{},
		sets: map[string]*Addresses{}, shared: map[[2]*Addresses]*Addresses{}, chains: map[Chain]string{}}
	for _, f := range []*hostsaccess.File{allow, deny} {
		p.addPorts(f)
	}
	return p, found, nil
}

// BuiltIn is the policy as long as no pair of files could be read: nobody but
// this host.
func BuiltIn(names func(program uint32) []string) *Policy {
	p, _, _ := NewPolicy(nil, nil, PolicyOptions{Names: names}) // without rules there are no errors
	return p
}

// addPorts notes the ports that the file's rules name, for only at these does
// it matter on which port a service is.
func (p *Policy) addPorts(f *hostsaccess.File) {
	if f == nil {
		return
	}
	for _, r := range f.Rules {
		for _, t := range r.Daemons.Terms {
			for _, d := range t.Patterns {
				if d.Kind == hostsaccess.DaemonPort {
					p.ports[d.Port] = true
				}
			}
		}
	}
}

// Service returns what the files say about a program that is registered on a port.
func (p *Policy) Service(program uint32, port uint16) *Service {
	k := serviceKey{program: program}
	if p.ports[port] || program == rpcbind.Program {
		k.port = port
	}
	s := p.services[k]
	if s == nil {
		s = p.compile(program, port)
		p.services[k] = s
	}
	return s
}

// compile works out a service. A service that no rule names follows the port
// mapper's rules. A rule for ALL names each service, as hosts_access(5) has it.
func (p *Policy) compile(program uint32, port uint16) *Service {
	names := p.names(program)
	s := &Service{Program: program, Name: names[0]}
	m, found := hostsaccess.Compile(p.allow, p.deny, hostsaccess.Options{Names: names, Port: port, AddressOnly: true})
	s.Findings = found
	if !m.Named() && program != rpcbind.Program {
		own := p.Service(rpcbind.Program, rpcbind.Port)
		s.Allowed = own.Allowed
		s.Why = "no rule names " + s.Name + ": as the port mapper, " + own.Why
		return s
	}
	sets := m.Addresses()
	lists := [][]netip.Prefix{sets.IPv4[hostsaccess.Allow], sets.IPv6[hostsaccess.Allow]}
	if p.options.Default == policy.Allow {
		lists = append(lists, sets.IPv4[hostsaccess.NoRule], sets.IPv6[hostsaccess.NoRule])
	}
	s.Allowed = p.once(NewAddresses(lists...))
	s.Why = p.why(m)
	return s
}

// once returns the one set that is kept for all services that have it.
func (p *Policy) once(a *Addresses) *Addresses {
	if kept := p.sets[a.ID()]; kept != nil {
		return kept
	}
	p.sets[a.ID()] = a
	return a
}

// intersect is Addresses.Intersect.
func (p *Policy) intersect(a, b *Addresses) *Addresses {
	k := [2]*Addresses{a, b}
	both := p.shared[k]
	if both == nil {
		both = p.once(a.Intersect(b))
		p.shared[k] = both
	}
	return both
}

// chain is chainName.
func (p *Policy) chain(c Chain) string {
	name, ok := p.chains[c]
	if !ok {
		name = chainName(c)
		p.chains[c] = name
	}
	return name
}

func (p *Policy) names(program uint32) []string {
	if program == rpcbind.Program {
		return policy.Names
	}
	var names []string
	if p.options.Names != nil {
		names = p.options.Names(program)
	}
	if len(names) == 0 {
		names = []string{fmt.Sprint(program)}
	}
	return names
}

// mostOpeners is how many rules a reason names.
const mostOpeners = 3

// why names the rules that open a service.
func (p *Policy) why(m *hostsaccess.Matcher) string {
	var rules []string
	for r := range m.Openers() {
		if len(rules) == mostOpeners {
			rules = append(rules, "and more")
			break
		}
		rules = append(rules, r.String())
	}
	switch {
	case p.options.Default == policy.Allow:
		return "all that no rule refuses (by default)"
	case len(rules) > 0:
		return "by " + strings.Join(rules, ", ")
	case !m.Named():
		return "no rule names it"
	}
	return "no rule allows anybody"
}
