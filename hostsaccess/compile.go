package hostsaccess

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Options says for which service to compile.
type Options struct {
	// Names are what the service is called in daemon lists, in any case. They
	// are aliases: a pattern that matches one of them matches the service, and
	// one in an EXCEPT excepts it.
	Names []string
	// Port is what port patterns in daemon lists are compared with; 0 when
	// not known, then they may match.
	Port uint16
	// AddressOnly compiles for those who see a client's address and nothing
	// else, such as a packet filter. A rule that depends on more (its scope,
	// the address of this host that was called) or has a mask with holes then
	// counts as one that may match: what it may refuse is refused, what it may
	// allow is not. So Addresses has no rules beside its sets, and they never
	// allow a client that Decide would not.
	AddressOnly bool
}

// Compile makes a Matcher for one service. A nil file has no rules. The
// diagnostics are about those rules that name the service, on top of those
// that Parse reported.
func Compile(allow, deny *File, o Options) (*Matcher, []Diagnostic) {
	c := &compiler{options: o, matcher: &Matcher{}}
	c.add(allow, Allow)
	c.add(deny, Deny)
	c.cut()
	c.paintAll()
	c.fill()
	return c.matcher, c.diagnostics()
}

// compiler holds what is known on the way from rules to a Matcher.
type compiler struct {
	options Options
	matcher *Matcher
	rules   []candidate
	cells   *cells
	painter *painter
	found   [3]findings // by file: none, allow, deny
}

// candidate is a rule that names the service, or may.
type candidate struct {
	rule    *Rule
	command *Option // set when the rule would have to run one
	file    Verdict // Allow from hosts.allow, Deny from hosts.deny
	verdict Verdict // what it says when it acts
	daemons truth   // whether the daemon list names the service
	side    bool    // depends on more than the cell of the client
	beyond  bool    // would, but for AddressOnly
}

// gate is a daemon pattern of which only the address part is still open.
type gate struct {
	name truth
	at   *Host // nil for any address
}

func (c *compiler) add(f *File, file Verdict) {
	if f == nil {
		return
	}
	for _, r := range f.Rules {
		k := candidate{rule: r, file: file, verdict: r.Verdict(file), command: r.runs()}
		if !c.named(&k) {
			continue
		}
		if k.command != nil {
			k.verdict = Deny
		}
		k.side = k.side || !r.Broken && needsSide(&r.Clients)
		if k.side && c.options.AddressOnly {
			k.side, k.beyond = false, true
		}
		c.rules = append(c.rules, k)
		c.check(&k)
		if r.Broken {
			c.matcher.broken = append(c.matcher.broken, r)
		}
	}
}

// named works out the daemon list as far as it goes without a call, and says
// whether the rule concerns the service at all.
func (c *compiler) named(k *candidate) bool {
	mentioned, addressed := false, false
	k.daemons = eval(&k.rule.Daemons, func(d *Daemon) truth {
		g := c.gate(d)
		mentioned = mentioned || g.name != no
		addressed = addressed || g.at != nil && g.at.Kind.Numeric()
		return g.open(netip.Addr{})
	})
	if k.rule.Broken {
		// The place of an EXCEPT is no more to be trusted than the rest.
		k.daemons = maybe
		return mentioned
	}
	k.side = addressed && k.daemons == maybe
	return k.daemons != no
}

// gates is the daemon list with all worked out that needs no call.
func (c *compiler) gates(l *List[Daemon]) List[gate] {
	gates := List[gate]{Terms: make([]Term[gate], len(l.Terms))}
	for i, t := range l.Terms {
		for j := range t.Patterns {
			gates.Terms[i].Patterns = append(gates.Terms[i].Patterns, c.gate(&t.Patterns[j]))
		}
	}
	return gates
}

func (c *compiler) gate(d *Daemon) gate {
	g := gate{name: d.match(c.options.Names, c.options.Port)}
	if d.At != nil && d.At.Kind != HostAll {
		g.at = d.At
	}
	return g
}

// open says whether the pattern names the service for a call to local.
func (g *gate) open(local netip.Addr) truth {
	if g.at == nil {
		return g.name
	}
	if !local.IsValid() {
		return g.name.and(maybe)
	}
	return g.name.and(g.at.match(local))
}

// needsSide reports a client list that prefixes cannot express.
func needsSide(l *List[Client]) bool {
	for _, t := range l.Terms {
		for i := range t.Patterns {
			if !t.Patterns[i].Host.onlyPrefix() {
				return true
			}
		}
	}
	return false
}

// onlyPrefix says whether the pattern is about no more than its prefix, if it
// is numeric at all.
func (h *Host) onlyPrefix() bool { return h.Kind != HostMask && h.Zone == "" }

// bound returns the smallest prefix that holds all addresses that the pattern
// matches; the zero Prefix if there is none.
func (h *Host) bound() netip.Prefix {
	if h.Kind != HostMask {
		return h.Prefix
	}
	ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(h.Mask[:]))
	return netip.PrefixFrom(netip.AddrFrom4(h.Addr), ones).Masked()
}

// cut makes the cells out of all prefixes of the rules.
func (c *compiler) cut() {
	prefixes := make([]netip.Prefix, 0, len(c.rules))
	for _, k := range c.rules {
		for _, t := range k.rule.Clients.Terms {
			for i := range t.Patterns {
				if p := t.Patterns[i].Host.bound(); p.IsValid() && !k.side {
					prefixes = append(prefixes, p)
				}
			}
		}
	}
	c.cells = newCells(prefixes)
	c.painter = newPainter(len(c.cells.prefixes))
}

// sets works out a client list for all cells at once: those that it surely
// matches and those that it may match. The first are among the second.
func (c *compiler) sets(l *List[Client]) (sure, possible []run) {
	for i := len(l.Terms) - 1; i >= 0; i-- {
		s, m := c.term(&l.Terms[i])
		sure, possible = minus(s, possible), minus(m, sure)
	}
	return sure, possible
}

func (c *compiler) term(t *Term[Client]) (sure, possible []run) {
	for i := range t.Patterns {
		p := &t.Patterns[i]
		r, kind := c.cells.all(), p.Host.Kind
		if kind.Numeric() && kind != HostAll {
			r = c.cells.of(p.Host.bound())
		}
		possible = append(possible, r)
		if p.Numeric() && p.Host.onlyPrefix() {
			sure = append(sure, r)
		}
	}
	return normal(sure), normal(possible)
}

// paintAll gives each cell the first rule that decides for it.
func (c *compiler) paintAll() {
	m := c.matcher
	m.outcomes = []outcome{{rank: noRank}} // colour 0: no rule decides
	m.named = len(c.rules) > 0
	for rank := range c.rules {
		k := &c.rules[rank]
		if k.side {
			c.addSide(k, int32(rank))
			continue
		}
		acts := c.paint(k, int32(rank))
		if acts && k.verdict == Allow {
			m.openers = append(m.openers, k.rule)
		}
		if !acts && !k.rule.Broken {
			c.neverActs(k)
		}
	}
}

// paint colours what the rule decides and says whether that is anything.
func (c *compiler) paint(k *candidate, rank int32) bool {
	possible := []run{c.cells.all()}
	var sure []run
	if !k.rule.Broken {
		sure, possible = c.sets(&k.rule.Clients)
	}
	if k.daemons != yes {
		sure = nil
	}
	acts := len(sure) > 0 && c.painter.paint(sure, c.outcome(k, rank, yes))
	if k.verdict == Deny && !slices.Equal(sure, possible) {
		acts = c.painter.paint(possible, c.outcome(k, rank, maybe)) || acts
	}
	return acts
}

// outcome adds the decision by a rule that matches for sure, or maybe.
func (c *compiler) outcome(k *candidate, rank int32, t truth) int32 {
	m := c.matcher
	m.outcomes = append(m.outcomes, outcome{rule: k.rule, why: why(k, t), rank: rank, verdict: k.verdict})
	return int32(len(m.outcomes) - 1)
}

func (c *compiler) addSide(k *candidate, rank int32) {
	m := c.matcher
	m.side = append(m.side, sideRule{
		gates: c.gates(&k.rule.Daemons), clients: &k.rule.Clients,
		sure: c.outcome(k, rank, yes), maybe: c.outcome(k, rank, maybe),
	})
	if k.verdict == Allow {
		m.openers = append(m.openers, k.rule)
	}
}

// fill moves the colours into the look-up table. A cell of the same colour as
// the one around it needs no entry.
func (c *compiler) fill() {
	m := c.matcher
	m.none = Decision{Why: whyUnnamed}
	if m.named {
		m.none.Why = whyNoMatch
	}
	m.outcomes[0].why = m.none.Why
	var open []int32
	for i, p := range c.cells.prefixes {
		for len(open) > 0 && c.cells.ends[open[len(open)-1]] <= int32(i) {
			open = open[:len(open)-1]
		}
		colour := c.painter.colours[i]
		if len(open) == 0 || c.painter.colours[open[len(open)-1]] != colour {
			m.table.Insert(p, colour)
		}
		open = append(open, int32(i))
	}
}

// report adds a finding about a rule that names the service.
func (c *compiler) report(k *candidate, s Severity, code Code, at Pos, message, consequence, hint string) {
	c.found[k.file].add(Diagnostic{
		File: k.rule.File, Pos: at, Severity: s, Code: code,
		Message: message, Consequence: consequence, Hint: hint, Rule: k.rule,
	})
}

// check reports what the rule holds that is never done for this service.
func (c *compiler) check(k *candidate) {
	if k.beyond {
		consequence := "it counts as matching no client, so that doubt never opens"
		if k.verdict == Deny {
			consequence = "it counts as matching every client that it may match, so that doubt never opens"
		}
		c.report(k, Warning, BeyondAddress, k.rule.Pos, "the rule depends on more than the client's address", consequence,
			"write whole networks, without scope, for daemons without @address")
	}
	if o := k.command; o != nil {
		c.report(k, Warning, RunsCommand, o.Pos, "option "+o.Name+" is never carried out by this service",
			"the rule refuses the clients it matches", "remove the option, or limit the rule to the daemons that need it")
	}
	for i, t := range k.rule.Clients.Terms {
		for j := range t.Patterns {
			c.checkClient(k, &t.Patterns[j], i)
		}
	}
	for i, t := range k.rule.Daemons.Terms {
		for j := range t.Patterns {
			d := &t.Patterns[j]
			if d.At != nil && d.At.Kind != HostInvalid && !d.At.Kind.Numeric() && d.match(c.options.Names, c.options.Port) != no {
				c.checkName(k, d.At, i)
			}
		}
	}
}

func (c *compiler) checkClient(k *candidate, p *Client, depth int) {
	if !p.anyUser() {
		c.report(k, Warning, UserPattern, p.start(), "user "+quote(p.User.Text)+": nobody is asked who the user is", doubt(k, depth), "write the host alone")
		return
	}
	if h := &p.Host; h.Kind != HostInvalid && !h.Kind.Numeric() {
		c.checkName(k, h, depth)
	}
}

func (c *compiler) checkName(k *candidate, h *Host, depth int) {
	hint := "write addresses: 192.0.2.1, 192.0.2.0/24, [2001:db8::]/32"
	if h.Text == "*" {
		hint = "write ALL"
	}
	what := h.Kind.String()
	if !strings.HasSuffix(what, strings.ToUpper(h.Text)) {
		what += " " + quote(h.Text)
	}
	c.report(k, Warning, NamePattern, h.Pos, what+": names are never looked up for this service", doubt(k, depth), hint)
}

// doubt says what comes of a pattern that may match, below depth EXCEPTs.
func doubt(k *candidate, depth int) string {
	refuses, excepts := k.verdict == Deny, depth%2 == 1
	if refuses != excepts {
		return "it counts as matching every client, so that doubt never opens"
	}
	return "it counts as matching no client, so that doubt never opens"
}

// neverActs reports a rule that got no cell, unless doubt kept it from one:
// that was reported for the pattern.
func (c *compiler) neverActs(k *candidate) {
	if k.daemons != yes || k.beyond {
		return
	}
	for _, t := range k.rule.Clients.Terms {
		for i := range t.Patterns {
			if !t.Patterns[i].Numeric() {
				return
			}
		}
	}
	c.report(k, Warning, NeverActs, k.rule.Pos, "the rule never acts", "earlier rules decide for all its clients, or it excepts them all", "remove it, or move it up")
}

// manySide is how many rules outside the table go without a word.
const manySide = 64

func (c *compiler) diagnostics() []Diagnostic {
	var all []Diagnostic
	for i := range c.found {
		if f := &c.found[i]; len(f.list) > 0 {
			all = append(all, f.all(f.list[0].File)...)
		}
	}
	if n := len(c.matcher.side); n > manySide {
		all = append(all, Diagnostic{
			File: c.matcher.outcomes[c.matcher.side[0].sure].rule.File, Severity: Warning, Code: SlowRules,
			Message:     fmt.Sprintf("%d rules with daemon@address, masks with holes or scoped addresses", n),
			Consequence: "each is tried in turn for every call", Hint: "write networks without scope",
		})
	}
	return slices.Clip(all)
}
