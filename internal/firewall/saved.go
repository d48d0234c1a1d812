package firewall

import (
	"bufio"
	"bytes"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"rpcward/internal/ruleset"
)

// saved is what iptables-save says about our part of a filter table.
type saved struct {
	rules map[string][]savedRule // of our chains, which may have none
	jumps int                    // from INPUT to our base
	first bool                   // such a jump is INPUT's first rule
}

// savedRule is a rule of one of our chains, without "-A CHAIN ".
type savedRule struct {
	text string
	seen Count
}

// ours yields the names of our chains.
func (s *saved) ours() iter.Seq[string] { return maps.Keys(s.rules) }

const ourChains = "RPCWARD-"

// save reads the filter table.
func (t *IPTables) save(f *table) (*saved, error) {
	out, err := t.run(f, "save", nil, "-c", "-t", "filter")
	if err != nil {
		return nil, err
	}
	return parseSaved(out)
}

func parseSaved(text []byte) (*saved, error) {
	s := &saved{rules: map[string][]savedRule{}}
	input := 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		line := lines.Text()
		if chain, ok := strings.CutPrefix(line, ":"+ourChains); ok {
			name, _, _ := strings.Cut(chain, " ")
			s.rules[ourChains+name] = nil
			continue
		}
		var seen Count
		if strings.HasPrefix(line, "[") {
			if n, _ := fmt.Sscanf(line, "[%d:%d]", &seen.Packets, &seen.Bytes); n != 2 {
				return nil, fmt.Errorf("counters in %q", line)
			}
			_, line, _ = strings.Cut(line, " ")
		}
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		chain, rule, _ := strings.Cut(rest, " ")
		switch {
		case strings.HasPrefix(chain, ourChains):
			s.rules[chain] = append(s.rules[chain], savedRule{rule, seen})
		case chain == "INPUT":
			if rule == "-j "+ruleset.IPTablesInput {
				s.jumps++
				s.first = s.first || input == 0
			}
			input++
		}
	}
	return s, lines.Err()
}

// Read is Firewall.Read.
func (t *IPTables) Read() (*ruleset.State, error) {
	t.Forget()
	s := (&ruleset.State{}).Clone()
	var sets map[string]map[bool][]netip.Prefix
	if t.sets != nil {
		var err error
		if sets, s.Strays, err = t.sets.read(); err != nil {
			return nil, err
		}
	}
	var readings []*familyReading
	for _, f := range t.families {
		table, err := t.save(f)
		if err != nil {
			return nil, err
		}
		f.jumps = table.jumps
		readings = append(readings, readFamily(table, t.rendering(f)))
	}
	t.merge(s, readings, sets)
	t.state = s
	return s, nil
}

// familyReading is what one of the two tables holds.
type familyReading struct {
	base   ruleset.Base
	ports  map[ruleset.Port]string
	chains map[string]familyChain
	strays []string
}

// familyChain is a service's chain in one of the tables.
type familyChain struct {
	known bool
	set   string // with ipsets: its key
	list  []netip.Prefix
	mark  ruleset.Mark
}

func readFamily(t *saved, o ruleset.IPTablesOptions) *familyReading {
	r := &familyReading{ports: map[ruleset.Port]string{}, chains: map[string]familyChain{}}
	good := r.readBase(t, o)
	switch rules := t.rules[ruleset.IPTablesInput]; {
	case t.jumps == 0 && rules == nil:
		r.base = ruleset.NoBase
	case good && t.jumps == 1 && t.first:
		r.base = ruleset.GoodBase
	default:
		r.base = ruleset.WrongBase
	}
	used := map[string]bool{}
	for chain, rules := range t.rules {
		if name, ok := ruleset.ParseIPTablesChain(chain); ok {
			c := readService(t, rules, o)
			r.chains[name] = c
			used[ruleset.IPTablesMark(c.mark)] = true
		}
	}
	for chain := range t.rules {
		if _, isMark := ruleset.ParseIPTablesMark(chain); isMark && !used[chain] {
			r.strays = append(r.strays, "chain "+chain)
		}
	}
	slices.Sort(r.strays)
	return r
}

// readBase reads the ports and reports whether the chain is as it should be.
func (r *familyReading) readBase(t *saved, o ruleset.IPTablesOptions) bool {
	var b bytes.Buffer
	(&ruleset.State{}).IPTablesBase(&b, o)
	var head []string
	for line := range strings.Lines(b.String()) {
		if rule, ok := strings.CutPrefix(line, "-A "+ruleset.IPTablesInput+" "); ok {
			head = append(head, strings.TrimSpace(rule))
		}
	}
	good := true
	for i, rule := range t.rules[ruleset.IPTablesInput] {
		if i < len(head) {
			good = good && rule.text == head[i]
			continue
		}
		port, chain, ok := parsePortRule(rule.text)
		_, twice := r.ports[port]
		if name, ours := ruleset.ParseIPTablesChain(chain); ok && ours && !twice {
			r.ports[port] = name
		} else {
			good = false
		}
	}
	return good && len(t.rules[ruleset.IPTablesInput]) >= len(head)
}

// parsePortRule reads "-p tcp -m tcp --dport 111 -j CHAIN".
func parsePortRule(rule string) (p ruleset.Port, chain string, ok bool) {
	for _, p.Proto = range []ruleset.Proto{ruleset.TCP, ruleset.UDP, ruleset.SCTP} {
		if n, _ := fmt.Sscanf(rule, fmt.Sprintf("-p %v -m %[1]v --dport %%d -j %%s", p.Proto), &p.Port, &chain); n == 2 {
			return p, chain, true
		}
	}
	return p, "", false
}

// readService recognises the chain of a service.
func readService(t *saved, rules []savedRule, o ruleset.IPTablesOptions) familyChain {
	n := len(rules)
	if n == 0 || rules[n-1].text != "-j DROP" {
		return familyChain{}
	}
	c := familyChain{known: true, list: []netip.Prefix{}}
	allow := ""
	for i, r := range rules[:n-1] {
		match, target, goes := strings.Cut(r.text, "-g ")
		if !goes {
			match, target, _ = strings.Cut(r.text, "-j ")
		}
		if i == 0 {
			allow = target
		}
		if target != allow || goes != (target != "RETURN") || !c.readMatch(strings.TrimSpace(match), o) {
			return familyChain{}
		}
	}
	if m, ok := ruleset.ParseIPTablesMark(allow); ok {
		c.mark = m
		if mark := t.rules[allow]; len(mark) != 1 || mark[0].text != "-j MARK --set-xmark "+m.String() {
			return familyChain{}
		}
	} else if allow != "RETURN" && allow != "" || o.Sets && c.set == "" {
		return familyChain{}
	}
	return c
}

// readMatch reads the condition of a rule that allows.
func (c *familyChain) readMatch(match string, o ruleset.IPTablesOptions) bool {
	if o.Sets {
		name, ok := strings.CutPrefix(match, "-m set --match-set ")
		name, end := strings.CutSuffix(name, " src")
		id, ours := ruleset.ParseIPSet(name, o.IPv6)
		first := c.set == ""
		c.set = id
		return ok && end && ours && first
	}
	if match == "" {
		world := netip.IPv4Unspecified()
		if o.IPv6 {
			world = netip.IPv6Unspecified()
		}
		c.list = append(c.list, netip.PrefixFrom(world, 0))
		return true
	}
	text, ok := strings.CutPrefix(match, "-s ")
	p, err := netip.ParsePrefix(text)
	c.list = append(c.list, p)
	return ok && err == nil
}

// merge makes one state of the two tables. What they don't agree on is not
// known, or makes the base wrong.
func (t *IPTables) merge(s *ruleset.State, families []*familyReading, sets map[string]map[bool][]netip.Prefix) {
	s.Base = families[0].base
	s.Ports = families[0].ports
	for _, f := range families {
		if f.base != s.Base || !maps.Equal(f.ports, s.Ports) {
			s.Base = ruleset.WrongBase
			common := maps.Clone(s.Ports)
			maps.DeleteFunc(common, func(p ruleset.Port, chain string) bool { return f.ports[p] != chain })
			s.Ports = common
		}
		for name := range f.chains {
			if _, done := s.Chains[name]; !done {
				s.Chains[name] = t.mergeChain(s, families, name)
			}
		}
		for _, stray := range f.strays {
			if !slices.Contains(s.Strays, stray) {
				s.Strays = append(s.Strays, stray)
			}
		}
	}
	for id, byFamily := range sets {
		s.Sets[id] = nil
		if len(byFamily) == len(t.families) {
			s.Sets[id] = ruleset.NewAddresses(byFamily[false], byFamily[true])
		}
	}
}

func (t *IPTables) mergeChain(s *ruleset.State, families []*familyReading, name string) ruleset.Chain {
	first := families[0].chains[name]
	var list []netip.Prefix
	for _, f := range families {
		c := f.chains[name]
		if !c.known || c.set != first.set {
			return ruleset.Chain{Set: ruleset.Unknown}
		}
		if c.mark != first.mark && len(c.list) > 0 && len(first.list) > 0 || t.sets != nil && c.mark != first.mark {
			return ruleset.Chain{Set: ruleset.Unknown}
		}
		if c.mark != (ruleset.Mark{}) {
			first.mark = c.mark // a chain that allows nobody shows no mark
		}
		list = append(list, c.list...)
	}
	if t.sets != nil {
		return ruleset.Chain{Set: first.set, Mark: first.mark}
	}
	a := ruleset.NewAddresses(list)
	s.Sets[a.ID()] = a
	return ruleset.Chain{Set: a.ID(), Mark: first.mark}
}
