package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
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
// rules when it is first asked about it (with 10,000 patterns up to 200 ms) and
// keeps the answer, also for other programs that the same rules name. So it must
// not be used by several goroutines at once.
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
	lists       []*hostsaccess.Rule // one for each daemon list that the files have, without clients
	compiled    map[string]*Service // by signature
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
	p := &Policy{allow: allow, deny: deny, options: o, services: map[serviceKey]*Service{}, compiled: map[string]*Service{}, ports: map[uint16]bool{},
		sets: map[string]*Addresses{}, shared: map[[2]*Addresses]*Addresses{}, chains: map[Chain]string{}}
	for _, f := range []*hostsaccess.File{allow, deny} {
		p.addPorts(f)
		p.addLists(f)
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

// mostLists is how many different daemon lists are compared to find out whether
// two programs are subject to the same rules. Files with more are rare.
const mostLists = 200

// addLists notes the daemon lists of the file's rules.
func (p *Policy) addLists(f *hostsaccess.File) {
	if f == nil {
		return
	}
	seen := map[string]bool{}
	for _, r := range f.Rules {
		text := daemons(r)
		if !seen[text] && len(p.lists) <= mostLists {
			seen[text] = true
			p.lists = append(p.lists, &hostsaccess.Rule{Token: r.Token, File: r.File, Daemons: r.Daemons, Broken: r.Broken})
		}
	}
}

// daemons is what a rule's daemon list says, as a key.
func daemons(r *hostsaccess.Rule) string {
	var b strings.Builder
	fmt.Fprint(&b, r.Broken)
	for _, t := range r.Daemons.Terms {
		b.WriteString(" EXCEPT")
		for _, d := range t.Patterns {
			b.WriteString(" " + d.Text)
		}
	}
	return b.String()
}

// signature tells programs apart that are subject to different rules. Where a
// list has an EXCEPT or an address of this host, it takes no risk.
func (p *Policy) signature(program uint32, o hostsaccess.Options) string {
	own := fmt.Sprint(program, " ", o.Port)
	if len(p.lists) > mostLists {
		return own
	}
	var b strings.Builder
	for _, r := range p.lists {
		m, _ := hostsaccess.Compile(&hostsaccess.File{Rules: []*hostsaccess.Rule{r}}, nil, o)
		switch {
		case !m.Named():
			b.WriteByte('-')
		case len(r.Daemons.Terms) > 1 || slices.ContainsFunc(r.Daemons.Terms[0].Patterns, func(d hostsaccess.Daemon) bool { return d.At != nil }):
			return own
		default:
			b.WriteByte('+')
		}
	}
	return b.String()
}

// compile works out a service. A service that no rule names follows the port
// mapper's rules. A rule for ALL names each service, as hosts_access(5) has it.
func (p *Policy) compile(program uint32, port uint16) *Service {
	names := p.names(program)
	o := hostsaccess.Options{Names: names, Port: port, AddressOnly: true}
	signature := p.signature(program, o)
	kept := p.compiled[signature]
	if kept == nil {
		kept = p.compileRules(o)
		p.compiled[signature] = kept
	}
	s := &Service{Program: program, Name: names[0], Allowed: kept.Allowed, Why: kept.Why, Findings: kept.Findings}
	if kept.Allowed == nil && program != rpcbind.Program {
		own := p.Service(rpcbind.Program, rpcbind.Port)
		s.Allowed = own.Allowed
		s.Why = "no rule names " + s.Name + ": as the port mapper, " + own.Why
	} else if kept.Allowed == nil {
		s.Allowed = p.once(p.unnamed())
	}
	return s
}

// unnamed is who is allowed where no rule says anything.
func (p *Policy) unnamed() *Addresses {
	if p.options.Default == policy.Allow {
		return NewAddresses([]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	}
	return Nobody
}

// compileRules works out what the rules say about a service. Allowed is nil if
// none names it.
func (p *Policy) compileRules(o hostsaccess.Options) *Service {
	m, found := hostsaccess.Compile(p.allow, p.deny, o)
	s := &Service{Findings: found, Why: p.why(m)}
	if !m.Named() {
		return s
	}
	sets := m.Addresses()
	lists := [][]netip.Prefix{sets.IPv4[hostsaccess.Allow], sets.IPv6[hostsaccess.Allow]}
	if p.options.Default == policy.Allow {
		lists = append(lists, sets.IPv4[hostsaccess.NoRule], sets.IPv6[hostsaccess.NoRule])
	}
	s.Allowed = p.once(NewAddresses(lists...))
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
