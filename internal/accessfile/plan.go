package accessfile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/rpcbind"
)

// Service is a daemon by its name in the files, and by the other names that
// mean the same.
type Service struct {
	Name       string
	aliases    []string
	portMapper bool
}

// ParseService reads the name of a daemon, or ALL.
func ParseService(name string) (Service, error) {
	if slices.Contains(policy.Names, strings.ToLower(name)) {
		return Service{Name: name, aliases: policy.Names, portMapper: true}, nil
	}
	f := hostsaccess.Parse("", []byte(name+" : ALL\n"))
	const advice = "write the name of the program, such as portmap, mountd or sshd, or ALL"
	if f.Rules == nil || f.Rules[0].Broken || len(f.Rules[0].Daemons.Terms) != 1 || len(f.Rules[0].Daemons.Terms[0].Patterns) != 1 {
		return Service{}, hint(advice, "%q is not the name of a daemon", name)
	}
	d := f.Rules[0].Daemons.Terms[0].Patterns[0]
	if d.At != nil || d.Kind != hostsaccess.DaemonName && d.Kind != hostsaccess.DaemonAll || strings.HasPrefix(name, "/") {
		return Service{}, hint(advice, "%q is not the name of one daemon", name)
	}
	if policy.IsLookalike(name) {
		return Service{}, hint("the port mapper is called portmap", "nothing asks these files for %q", name)
	}
	return Service{Name: name, aliases: []string{name}}, nil
}

// PortMapper says whether the service is the port mapper.
func (s Service) PortMapper() bool { return s.portMapper }

// Options are what the files are compiled for the service with.
func (s Service) Options() hostsaccess.Options {
	o := hostsaccess.Options{Names: s.aliases}
	if s.portMapper {
		o.Port = rpcbind.Port
	}
	return o
}

// Effect is what a plan does for one target.
type Effect struct {
	Target     Target
	Already    bool                   // the files said so before
	Before     hostsaccess.Decision   // about the target as a whole, or the part that it changes for
	Partly     bool                   // Before is about a part
	After      hostsaccess.Decision   // the same by the new files
	Exceptions []hostsaccess.Decision // by narrower rules, which say otherwise
}

// Plan is an edit of the two files that nobody has carried out yet.
type Plan struct {
	Service      Service
	Replacements []Replacement // those that change something
	Effects      []Effect      // in the order of the targets
}

// planner holds the files as edited so far.
type planner struct {
	service Service
	allow   *hostsaccess.File
	deny    *hostsaccess.File
	matcher *hostsaccess.Matcher
}

// Plan plans to let targets in, or to refuse them. It does as little as makes
// the files say so: it takes the targets out of rules that say otherwise, if
// these are about the service alone, adds them to such rules that say the same,
// and only else writes new lines.
func (p Pair) Plan(s Service, verdict hostsaccess.Verdict, targets []Target) (*Plan, error) {
	for _, f := range []*File{p.Allow, p.Deny} {
		if f.State != Readable && f.State != Missing {
			return nil, fmt.Errorf("reading %s: %w", f.Name, f.Fault)
		}
	}
	w := &planner{service: s, allow: p.Allow.File, deny: p.Deny.File}
	if err := w.compile(); err != nil {
		return nil, err
	}
	before := w.matcher
	plan := &Plan{Service: s}
	for _, t := range targets {
		if t.all && verdict == hostsaccess.Deny {
			t = everyOther
		}
		already := w.says(verdict, t)
		if already && verdict == hostsaccess.Deny && s.portMapper && t.onLoopback() {
			return nil, hint("its own services register and ask over this address", "the port mapper answers this host whatever the files say: %s", t.Text)
		}
		if err := w.target(verdict, t); err != nil {
			return nil, err
		}
		plan.Effects = append(plan.Effects, Effect{Target: t, Already: already})
	}
	if err := lockedOut(before, w.matcher, targets); err != nil {
		return nil, err
	}
	for i := range plan.Effects {
		plan.Effects[i].compare(before, w.matcher)
	}
	for i, f := range []*File{p.Allow, p.Deny} {
		if edited := []*hostsaccess.File{w.allow, w.deny}[i]; edited.Source != f.File.Source {
			plan.Replacements = append(plan.Replacements, Replacement{Path: f.Name, Old: f.File.Source, New: edited.Source})
		}
	}
	return plan, nil
}

// compare fills in what was decided before and is now.
func (e *Effect) compare(before, after *hostsaccess.Matcher) {
	networks := e.Target.Networks
	e.Before, e.After = before.Within(networks[0])[0], after.Within(networks[0])[0]
	for _, n := range networks {
		for _, d := range before.Within(n) {
			if e.Before.Verdict == e.After.Verdict && d.Verdict != e.After.Verdict && !e.Already {
				e.Before, e.Partly = d, true
			}
		}
		for _, d := range after.Within(n)[1:] {
			if d.Verdict != e.After.Verdict {
				e.Exceptions = append(e.Exceptions, d)
			}
		}
	}
}

// lockedOut says whether this host was let in before and is refused now.
func lockedOut(before, after *hostsaccess.Matcher, targets []Target) error {
	own := slices.Clone(loopback)
	for _, t := range targets {
		if t.onLoopback() {
			own = append(own, t.Networks[0].Addr())
		}
	}
	for _, a := range own {
		was, is := before.Decide(a, netip.Addr{}), after.Decide(a, netip.Addr{})
		if was.Verdict != hostsaccess.Deny && is.Verdict == hostsaccess.Deny {
			return hint("to refuse all other hosts write ALL, which spares this one",
				"this would lock out this host itself: %v would be refused by %v", a, is.Rule)
		}
	}
	return nil
}

// compile works out what the files, as edited so far, say.
func (w *planner) compile() error {
	m, _ := hostsaccess.Compile(w.allow, w.deny, w.service.Options())
	for r := range m.Broken() {
		for _, d := range slices.Concat(w.allow.Diagnostics, w.deny.Diagnostics) {
			if d.Rule == r && d.Severity == hostsaccess.Error {
				return hint("`rpcward check` shows all mistakes, `rpcward check --fix` mends those that have one right answer", "%s: %s", d.Place(), d.Message)
			}
		}
		return hint("`rpcward check` shows what", "%v has a mistake", r)
	}
	w.matcher = m
	return nil
}

// edit applies edits to a file.
func (w *planner) edit(f **hostsaccess.File, edits ...hostsaccess.Edit) error {
	if len(edits) == 0 {
		return nil
	}
	*f = hostsaccess.Parse((*f).Name, []byte((*f).Rewrite(edits...)))
	return w.compile()
}

// mostRounds bounds how often rules that still say otherwise are overruled.
const mostRounds = 8

// target makes the files say verdict about one target.
func (w *planner) target(verdict hostsaccess.Verdict, t Target) error {
	if w.says(verdict, t) {
		return nil
	}
	for i, f := range []**hostsaccess.File{&w.allow, &w.deny} {
		for _, n := range t.Networks {
			if err := w.edit(f, w.takeOut(*f, hostsaccess.Allow+hostsaccess.Verdict(i), verdict, t, n)...); err != nil {
				return err
			}
		}
	}
	for range mostRounds {
		if w.says(verdict, t) {
			return nil
		}
		if err := w.overrule(verdict, t); err != nil {
			return err
		}
	}
	return fmt.Errorf("the rules about %s are too entangled to edit", w.service.Name)
}

// says says whether the files say verdict about a target: to let it in they
// must do so as a whole, to refuse it they must refuse everybody of it.
func (w *planner) says(verdict hostsaccess.Verdict, t Target) bool {
	for _, n := range t.Networks {
		within := w.matcher.Within(n)
		if verdict == hostsaccess.Allow {
			within = within[:1]
		}
		if slices.ContainsFunc(within, func(d hostsaccess.Decision) bool { return d.Verdict != verdict }) {
			return false
		}
	}
	return true
}

// opener returns the first rule that lets somebody of a target in.
func (w *planner) opener(t Target) (first *hostsaccess.Rule) {
	for _, n := range t.Networks {
		for _, d := range w.matcher.Within(n) {
			if d.Verdict == hostsaccess.Allow && (first == nil || w.above(d.Rule, first)) {
				first = d.Rule
			}
		}
	}
	return first
}

// above says whether rule a is looked at before rule b.
func (w *planner) above(a, b *hostsaccess.Rule) bool {
	if a.File != b.File {
		return a.File == w.allow.Name
	}
	return a.Offset < b.Offset
}

// takeOut takes a network out of those rules of hosts.allow (file is Allow) or
// hosts.deny that are about the service alone and say otherwise. To refuse it, what lies within it is taken out too.
func (w *planner) takeOut(f *hostsaccess.File, file, verdict hostsaccess.Verdict, t Target, n netip.Prefix) (edits []hostsaccess.Edit) {
	for _, r := range f.Rules {
		if r.Verdict(file) == verdict || !w.alone(r) || len(r.Clients.Terms) != 1 {
			continue
		}
		var out []int
		for i, c := range r.Clients.Terms[0].Patterns {
			p := c.Host.Prefix
			same := p == n || c.Host.Kind == hostsaccess.HostAll && t.all || p.IsValid() && verdict == hostsaccess.Deny && n.Overlaps(p) && n.Bits() <= p.Bits()
			if same && c.User == nil && c.Host.Zone == "" {
				out = append(out, i)
			}
		}
		if len(out) > 0 {
			edits = append(edits, f.RemoveClients(r, out)...)
		}
	}
	return edits
}

// Rules returns the rules of a file that are about the service, or may be.
func (s Service) Rules(f *File) (list []*hostsaccess.Rule) {
	for _, r := range f.Rules {
		if r.Concerns(s.Options()) {
			list = append(list, r)
		}
	}
	return list
}

// alone says whether a rule is about the service and no other.
func (w *planner) alone(r *hostsaccess.Rule) bool {
	if r.Broken || len(r.Daemons.Terms) != 1 {
		return false
	}
	for _, d := range r.Daemons.Terms[0].Patterns {
		if d.At != nil || !slices.ContainsFunc(w.service.aliases, func(a string) bool { return strings.EqualFold(a, d.Name) }) {
			return false
		}
	}
	return true
}

// overrule adds the target where it takes effect.
func (w *planner) overrule(verdict hostsaccess.Verdict, t Target) error {
	if verdict == hostsaccess.Deny {
		if r := w.opener(t); r != nil {
			return w.insert(r, verdict, t.Text)
		}
		return w.add(&w.deny, t.Text)
	}
	saved := w.allow
	if err := w.add(&w.allow, t.Text); err != nil || w.says(verdict, t) {
		return err
	}
	w.allow = saved // where a rule above refuses
	if err := w.compile(); err != nil {
		return err
	}
	for _, n := range t.Networks {
		if d := w.matcher.Within(n)[0]; d.Verdict == hostsaccess.Deny {
			return w.insert(d.Rule, verdict, t.Text)
		}
	}
	return nil
}

// insert writes a line above a rule that would decide otherwise.
func (w *planner) insert(above *hostsaccess.Rule, verdict hostsaccess.Verdict, text string) error {
	f, option := &w.allow, ""
	if above.File == w.deny.Name {
		f = &w.deny
	} else if verdict == hostsaccess.Deny {
		option = " : deny"
	}
	return w.edit(f, (*f).InsertLine(above, w.service.Name+" : "+text+option))
}

// longestLine is how long, in bytes, a line may get by adding to it.
const longestLine = 200

// add adds a client to the last line that has only such clients, or writes a
// new last line.
func (w *planner) add(f **hostsaccess.File, text string) error {
	for _, r := range slices.Backward((*f).Rules) {
		if w.alone(r) && r.Daemons.Terms[0].Patterns[0].Text == w.service.Name && len(r.Options) == 0 &&
			len(r.Clients.Terms) == 1 && r.End-r.Offset < longestLine && !strings.HasPrefix(text, "ALL") {
			return w.edit(f, (*f).AddClient(r, text))
		}
	}
	return w.edit(f, (*f).AppendLine(w.service.Name+" : "+text))
}
