package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// pair is the two port mappers, in step.
type pair struct {
	t           *testing.T
	setup       Setup
	stock, ours *twin
	stats       statistics
	seen        map[string]int // how often each difference was met
}

func newPair(t *testing.T, setup Setup) *pair {
	return &pair{
		t: t, setup: setup, seen: map[string]int{},
		stock: newTwin(t, lab.Stock(t), setup), ours: newTwin(t, lab.Rpcward(t), setup),
	}
}

// play sends s to both and returns what can't be explained, or "".
func (p *pair) play(s *Step) string {
	p.stock.send(s)
	p.ours.send(s)
	c := NewCase(p.setup, *s, p.stock, p.ours, p.stock.receive(s), p.ours.receive(s))
	if c.Forwards() {
		p.stock.receiveLater(s, &c.Stock)
		p.ours.receiveLater(s, &c.Ours)
	}
	so, oo := c.Stock, c.Ours
	ok := p.explain(c)
	if !ok {
		return fmt.Sprintf("%v\n\trpcbind: %v\n\trpcward: %v\n\texplained so far: %v, then\n\trpcbind: %v\n\trpcward: %v",
			s, &so, &oo, c.Names, &c.Stock, &c.Ours)
	}
	quiet := c.Quiet()
	// rpcbind counts strangers, calls that never end, and what it reads out of
	// its buffer.
	if len(c.Names)+len(quiet) > 0 || c.Route.From == Stranger || c.Step.Framing == Open || c.buffered() {
		p.stats.loosen(c)
	}
	why := ""
	if len(c.Names)+len(quiet) > 0 && c.Changes() {
		why = p.resync(c, quiet)
	}
	for _, name := range c.Names {
		p.seen[name]++
	}
	if why != "" {
		return fmt.Sprintf("%v\n\tboth: %v\n\texplained: %v\n%s", s, &oo, c.Names, why)
	}
	return ""
}

// explain is Case.Explain, and knows what GETSTAT has said before.
func (p *pair) explain(c *Case) bool {
	if c.Explain() {
		return true
	}
	s, sok := success(&c.Stock)
	o, ook := success(&c.Ours)
	if !c.is(4, rpcbind.ProcGetStat) || !sok || !ook {
		return false
	}
	if len(c.Names) > 0 {
		p.stats.loosen(c)
	}
	wrong, bounded := p.stats.compare(s, o)
	if bounded {
		c.Names = append(c.Names, "getstat-bounded")
	}
	c.Names = append(c.Names, wrong...)
	return len(wrong) == 0
}

// resync makes the two agree again on what is registered after an explained
// difference, or a quiet one, which may be about the call's program and version
// only. It returns what else it finds.
func (p *pair) resync(c *Case, quiet []string) string {
	diff := p.disagreement()
	if len(diff) == 0 {
		return ""
	}
	c.Names = append(c.Names, quiet...)
	a := c.change()
	if len(diff) > 1 || diff[0] != [2]uint32{a.Program, a.Version} {
		return fmt.Sprintf("\tthey disagree on %v\n%s", diff, p.lists())
	}
	p.stock.unset(a.Program, a.Version)
	p.ours.unset(a.Program, a.Version)
	if len(p.disagreement()) > 0 {
		// Root has removed rpcbind's own registrations, or rpcbind's version 2
		// lists what nobody can remove any more.
		p.restart()
	}
	return ""
}

// restart makes both forget everything.
func (p *pair) restart() {
	p.stock.restart()
	p.ours.restart()
	p.stats = statistics{}
}

func (p *pair) lists() string {
	return fmt.Sprintf("\trpcbind: %v %v\n\trpcward: %v %v", p.stock.List(), p.stock.list2(), p.ours.List(), p.ours.list2())
}

// disagreement returns the programs and versions whose registrations differ.
// If only their order does, it returns that of the first that is elsewhere.
func (p *pair) disagreement() [][2]uint32 {
	stock, ours := p.entries(p.stock), p.entries(p.ours)
	if slices.Equal(stock, ours) {
		return nil
	}
	found := map[[2]uint32]bool{}
	for _, both := range [][2][]entry{{stock, ours}, {ours, stock}} {
		for _, e := range both[0] {
			if !slices.Contains(both[1], e) {
				found[e.key()] = true
			}
		}
	}
	if len(found) == 0 {
		for i := range min(len(stock), len(ours)) {
			if stock[i] != ours[i] {
				return [][2]uint32{stock[i].key()}
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// entry is a line of DUMP, of version 4 or 2.
type entry struct {
	rpcb rpcbind.RPCB[string]
	pmap rpcbind.Mapping
}

func (e entry) key() [2]uint32 {
	return [2]uint32{e.rpcb.Program + e.pmap.Program, e.rpcb.Version + e.pmap.Version}
}

func (p *pair) entries(w *twin) []entry {
	var list []entry
	for _, r := range w.List() {
		list = append(list, entry{rpcb: r})
	}
	for _, m := range w.list2() {
		list = append(list, entry{pmap: m})
	}
	return list
}

// run plays n random steps and reports at most most unexplained differences.
func (p *pair) run(g *Generator, n, most int) {
	var history []Step
	failures := 0
	for i := range n {
		s := g.Next()
		history = append(history, s)
		why := p.play(&s)
		if why == "" && i%2000 == 1999 {
			if diff := p.disagreement(); len(diff) > 0 {
				why = fmt.Sprintf("after %d steps they disagree on %v\n%s", i, diff, p.lists())
			}
		}
		if why == "" {
			continue
		}
		failures++
		p.t.Errorf("step %d: unexplained difference\n%s\n%s", i, why, p.shrink(history))
		if failures == most {
			p.t.Fatalf("%d unexplained differences, giving up", failures)
		}
		p.restart()
		history = history[:0]
	}
}

// maxTries bounds the sequences that shrink tries.
const maxTries = 150

// shrink finds a short sequence of steps that ends in an unexplained
// difference, as the last of history did.
func (p *pair) shrink(history []Step) string {
	last := history[len(history)-1]
	var before []Step
	for _, s := range history[:len(history)-1] {
		c := NewCase(p.setup, s, nil, nil, Outcome{}, Outcome{})
		if c.Changes() {
			before = append(before, s)
		}
	}
	tries := 0
	fails := func(list []Step) bool {
		tries++
		return tries <= maxTries && p.fails(append(slices.Clone(list), last))
	}
	if !fails(before) {
		return "(it does not come again with the changes before it)"
	}
	for size := len(before); size > 0; size /= 2 {
		for at := 0; at+size <= len(before); {
			if shorter := slices.Delete(slices.Clone(before), at, at+size); fails(shorter) {
				before = shorter
			} else {
				at += size
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "comes again with:\n")
	for _, s := range append(before, last) {
		fmt.Fprintf(&b, "  %v\n", &s)
	}
	return b.String()
}

// fails plays a sequence from the start and reports whether one of its steps
// makes an unexplained difference.
func (p *pair) fails(list []Step) bool {
	p.restart()
	for i := range list {
		if p.play(&list[i]) != "" {
			return true
		}
	}
	return false
}
