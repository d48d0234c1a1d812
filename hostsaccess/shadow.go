package hostsaccess

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// shadow says why a rule never acts.
type shadow struct {
	by     *Rule // the first rule that decides for its clients; nil if it has none
	others bool  // that rule does not decide for all of them
	same   bool  // the rule is idle: of its clients, but for exceptions, others say the same
	every  bool  // for daemons that no rule names, too: others are exceptions
	role   Verdict
}

func (s shadow) diagnostic(file string, r *Rule) Diagnostic {
	d := Diagnostic{
		File: file, Pos: r.Pos, Severity: Info, Code: Shadowed, Rule: r,
		Message: "the rule never acts", Hint: "remove it",
	}
	nobody := "this line lets nobody in"
	if s.role == Deny {
		nobody = "this line refuses nobody"
	}
	if s.by == nil {
		d.Severity, d.Hint = Warning, "remove the EXCEPT, or except less"
		d.Consequence = "it excepts all whom it names: " + nobody
		return d
	}
	switch {
	case s.others:
		d.Consequence = s.by.String() + " and other rules decide for all its clients before"
	case s.same:
		d.Consequence = s.by.String() + " says the same of all its clients already"
	default:
		d.Consequence = s.by.String() + " says otherwise of all its clients before"
	}
	if !s.same {
		d.Severity, d.Hint = Warning, "remove it, or move it above "+s.by.String()
		d.Consequence += ": " + nobody
	}
	return d
}

// shadowBudget bounds how many pairs of a daemon's name and a rule with
// wildcards are looked at. Files that need more are made by programs.
const shadowBudget = 1 << 21

// shadows finds the rules of both files that never act, because earlier ones
// decide for all their clients, for each daemon that they name.
func shadows(allow, deny *File) map[*Rule]shadow {
	s := &shadower{byName: map[string][]int{}, shadowed: map[*Rule]shadow{}, acts: map[*Rule]bool{}}
	s.gather(allow, Allow)
	s.gather(deny, Deny)
	if len(s.byName)*len(s.wild) > shadowBudget {
		return nil
	}
	s.scan(anyOther, nil)
	s.named = true
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		s.scan(name, s.byName[name])
	}
	for r := range s.acts {
		delete(s.shadowed, r)
	}
	return s.shadowed
}

// anyOther is a daemon that no rule names: only wildcards match it.
const anyOther = "\x00"

// shadower goes through the rules for one daemon after the other.
type shadower struct {
	rules    []covering
	byName   map[string][]int // plain daemon lists, by each daemon that there is
	wild     []int            // daemon lists with ALL or EXCEPT
	named    bool             // the daemon under way is in byName
	shadowed map[*Rule]shadow
	acts     map[*Rule]bool // for some daemon
}

// covering is a rule whose clients prefixes can express.
type covering struct {
	rule *Rule
	says Verdict
	sure bool // no command decides whether it matches
}

// gather takes the rules whose daemons and clients are certain. One that is
// not shadows nothing, and is not said to be shadowed.
func (s *shadower) gather(f *File, role Verdict) {
	if f == nil {
		return
	}
	for _, r := range f.Rules {
		plain, ok := r.certainDaemons()
		if r.Broken || !ok || needsSide(&r.Clients) {
			continue
		}
		n := len(s.rules)
		sure := !slices.ContainsFunc(r.Options, func(o Option) bool { return o.Name == "aclexec" })
		s.rules = append(s.rules, covering{r, r.Verdict(role), sure})
		if !plain {
			s.wild = append(s.wild, n)
		}
		s.index(r, n, plain)
	}
}

// index notes the daemons that rule n names. Those of a rule with wildcards,
// which may stand behind its EXCEPT, are only noted as daemons that there are.
func (s *shadower) index(r *Rule, n int, plain bool) {
	for _, t := range r.Daemons.Terms {
		for _, d := range t.Patterns {
			if d.Kind != DaemonName {
				continue
			}
			name := strings.ToLower(d.Name)
			list := s.byName[name]
			if plain && (len(list) == 0 || list[len(list)-1] != n) {
				list = append(list, n)
			}
			s.byName[name] = list
		}
	}
}

// certainDaemons says whether the daemons of a rule are known by their names
// alone, and whether they are a plain list of names.
func (r *Rule) certainDaemons() (plain, ok bool) {
	plain = len(r.Daemons.Terms) == 1
	for _, t := range r.Daemons.Terms {
		for _, d := range t.Patterns {
			if d.At != nil && d.At.Kind != HostAll || d.Kind != DaemonName && d.Kind != DaemonAll && d.Kind != DaemonKnown {
				return false, false
			}
			plain = plain && d.Kind == DaemonName
		}
	}
	return plain, true
}

// scan finds out which rules act for a daemon.
func (s *shadower) scan(name string, rules []int) {
	names := []string{name}
	rules = slices.Clone(rules)
	for _, n := range s.wild {
		if eval(&s.rules[n].rule.Daemons, func(d *Daemon) truth { return d.match(names, 0) }) == yes {
			rules = append(rules, n)
		}
	}
	slices.Sort(rules)
	s.cover(rules)
}

// cover gives each cell to the first rule that surely decides for it. A rule
// all of whose cells are taken never acts.
func (s *shadower) cover(rules []int) {
	c := &compiler{}
	for _, n := range rules {
		c.rules = append(c.rules, candidate{rule: s.rules[n].rule})
	}
	c.cut()
	for _, i := range c.cells.empty() {
		c.painter.paint([]run{{i, i + 1}}, emptyCell)
	}
	for _, n := range rules {
		k := &s.rules[n]
		sure, possible := c.sets(&k.rule.Clients)
		switch {
		case len(possible) == 0:
			s.shadowed[k.rule] = shadow{role: k.says}
		case c.painter.anyBare(possible):
			s.acts[k.rule] = true
		default:
			s.shadow(k, c, possible)
		}
		if k.sure {
			c.painter.paint(sure, int32(n))
		}
	}
}

// shadow notes that k's cells are all taken. Who has the widest of them counts:
// where the rest is decided otherwise, that is an exception from what k says.
func (s *shadower) shadow(k *covering, c *compiler, runs []run) {
	all := c.filled(runs)
	widest := c.widest(&k.rule.Clients.Terms[0], all)
	if len(widest) == 0 {
		widest = all
	}
	found := shadow{same: true, every: !s.named, role: k.says, by: s.rules[c.painter.colours[widest[0]]].rule}
	for _, i := range widest {
		if by := s.rules[c.painter.colours[i]]; by.says != k.says && found.same {
			found.same, found.by = false, by.rule
		}
	}
	for _, i := range all {
		found.others = found.others || s.rules[c.painter.colours[i]].rule != found.by
	}
	if old, ok := s.shadowed[k.rule]; ok {
		others := old.others || found.others || old.by != found.by
		if old.every || !old.same {
			found = old
		}
		found.others = others
	}
	s.shadowed[k.rule] = found
}

// filled lists the cells of runs that have an address, in order.
func (c *compiler) filled(runs []run) (cells []int32) {
	for _, r := range runs {
		for i := r.lo; i < r.hi; i++ {
			if c.painter.colours[i] != emptyCell {
				cells = append(cells, i)
			}
		}
	}
	return cells
}

// widest returns those of the cells that hold what a pattern of the term has
// for itself, less all narrower prefixes.
func (c *compiler) widest(t *Term[Client], cells []int32) (own []int32) {
	for i := range t.Patterns {
		prefixes := []netip.Prefix{t.Patterns[i].Host.Prefix}
		if !prefixes[0].IsValid() { // ALL, or a name that any address may have
			prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
		for _, p := range prefixes {
			cell := c.cells.of(p).lo
			if _, found := slices.BinarySearch(cells, cell); found {
				own = append(own, cell)
			}
		}
	}
	return own
}

// emptyCell is the colour of cells without an address.
const emptyCell int32 = -1

// finest bounds how much smaller than a cell the pieces are that are added up
// to it, in bits: float64 adds up no more without rounding.
const finest = 52

// empty returns the cells without an address: those whose prefixes are all
// made up of narrower ones.
func (c *cells) empty() (list []int32) {
	for i := range c.prefixes {
		filled := 0.0
		for j := int32(i) + 1; j < c.ends[i]; j = c.ends[j] {
			if d := c.prefixes[j].Bits() - c.prefixes[i].Bits(); d <= finest {
				filled += math.Ldexp(1, -d)
			}
		}
		if filled == 1 {
			list = append(list, int32(i))
		}
	}
	return list
}

// anyBare says whether a cell of the runs has no colour yet.
func (p *painter) anyBare(runs []run) bool {
	return slices.ContainsFunc(runs, func(r run) bool { return p.bare(r.lo) < r.hi })
}
