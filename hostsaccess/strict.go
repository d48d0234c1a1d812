package hostsaccess

import (
	"slices"
	"strings"
)

// strictTables are the two files as they are meant.
type strictTables struct {
	files       [2]*File
	rules       []*Rule // of both files
	refuses     []bool  // by rank: whether the rule refuses clients that it may match
	denies      int32   // the rank of the first rule of hosts.deny
	options     map[*Rule][]compatOption
	patterns    map[string]patternList
	unread      [2]bool // what the file says is not known
	diagnostics []Diagnostic
}

// patternList is what a pattern file says.
type patternList struct {
	hosts []Host
	sure  bool // the file could be read
}

// readStrict parses the two files and the pattern files that they name.
func (t *Tables) readStrict(allow, deny *Source) {
	s := &t.strict
	s.options, s.patterns = map[*Rule][]compatOption{}, map[string]patternList{}
	for i, source := range []*Source{allow, deny} {
		s.unread[i] = source.State == TableDirectory || source.State == TableUnreadable
		if source.State != TableReadable {
			source.Data = nil
		}
		f := Parse(source.Name, source.Data)
		s.files[i], f.Lines = f, nil // nobody will edit this copy
		s.diagnostics = append(s.diagnostics, f.Diagnostics...)
		s.denies = int32(len(s.rules)) // at last, the number of those in hosts.allow
		for _, r := range f.Rules {
			t.readStrictRule(r)
			s.rules = append(s.rules, r)
			s.refuses = append(s.refuses, r.Verdict(Allow+Verdict(i)) == Deny || decidesByCommand(r) || faulty(s.options[r]))
		}
	}
	t.flattenStrict()
}

func (t *Tables) readStrictRule(r *Rule) {
	if len(r.Options) > 0 {
		options := make([]compatOption, len(r.Options))
		for i, o := range r.Options {
			options[i] = compatOptionOf(strings.ReplaceAll(o.Text, `\:`, ":"), i == len(r.Options)-1)
		}
		t.strict.options[r] = options
	}
	for h := range r.hosts {
		t.readStrictFile(h)
	}
}

// hosts yields the host patterns of the rule, those of daemon@host too.
func (r *Rule) hosts(yield func(*Host) bool) {
	for _, term := range r.Daemons.Terms {
		for i := range term.Patterns {
			if at := term.Patterns[i].At; at != nil && !yield(at) {
				return
			}
		}
	}
	for _, term := range r.Clients.Terms {
		for i := range term.Patterns {
			if !yield(&term.Patterns[i].Host) {
				return
			}
		}
	}
}

// readStrictFile reads a pattern file and those that it names, each once.
func (t *Tables) readStrictFile(h *Host) {
	name := h.Text
	if _, done := t.strict.patterns[name]; done || h.Kind != HostFile {
		return
	}
	t.strict.patterns[name] = patternList{}
	if t.environment.ReadFile == nil {
		return
	}
	data, err := t.environment.ReadFile(name)
	if err != nil {
		return
	}
	p := &parser{file: &File{Name: name, Source: string(data)}, quiet: true}
	list := patternList{sure: true}
	for word := range strings.FieldsSeq(p.file.Source) {
		list.hosts = append(list.hosts, p.host(Token{Text: word}))
	}
	t.strict.patterns[name] = list
	for i := range list.hosts {
		t.readStrictFile(&list.hosts[i])
	}
}

// flattenStrict replaces what pattern files include by the patterns themselves.
func (t *Tables) flattenStrict() {
	flat := map[string][]Host{}
	for name := range t.strict.patterns {
		flat[name] = t.flatHosts(name, map[string]bool{})
	}
	for name, hosts := range flat {
		t.strict.patterns[name] = patternList{hosts: hosts, sure: true}
	}
}

// flatHosts returns the patterns of a file. Seen are the files that were visited
// on the way, with true those that are still open. What can't be read, and what
// includes itself, may match: that is a pattern with a mistake.
func (t *Tables) flatHosts(name string, seen map[string]bool) (all []Host) {
	open, done := seen[name]
	list := t.strict.patterns[name]
	switch {
	case open, !done && !list.sure:
		return []Host{{Kind: HostInvalid}}
	case done:
		return nil // its patterns are there already
	}
	seen[name] = true
	for _, h := range list.hosts {
		if h.Kind == HostFile {
			all = append(all, t.flatHosts(h.Text, seen)...)
			continue
		}
		all = append(all, h)
	}
	seen[name] = false
	return all
}

// decideStrict tries the rules in order.
func (t *Tables) decideStrict(r *Request) Decision {
	var d decider
	d.begin(t, r)
	decision := d.decideStrict()
	if r.History != nil {
		r.History.Decisions++
	}
	return decision
}

// decideStrict looks for the first rule that acts.
func (d *decider) decideStrict() Decision {
	s := &d.tables.strict
	for rank := int32(-1); ; {
		if rank = d.firstStrict(rank); rank == noRule {
			break
		}
		if decision, acts := d.strictRule(rank); acts {
			return decision
		}
	}
	if s.unread[1] {
		return Decision{Verdict: Deny, Why: whyUnread}
	}
	return Decision{Why: whyNoMatch}
}

// firstStrict returns the first rule behind after that acts.
func (d *decider) firstStrict(after int32) int32 {
	if d.client.number.IsValid() {
		if v := d.tables.view(d.daemon.text); v != nil && v.usable(d) {
			return v.first(d, after)
		}
	}
	for rank := after + 1; rank < int32(len(d.tables.strict.rules)); rank++ {
		if d.acts(rank) {
			return rank
		}
	}
	return noRule
}

// searchStrict tries the rules that the client's address and name lead to.
func (d *decider) searchStrict(s *search) {
	s.net(d.client.number.WithZone(""))
	switch {
	case d.client.state == NameFailed:
		s.try(s.v.doubts)
	case d.client.state == NameKnown && !s.v.names.empty():
		s.text(&s.v.names, d.client.name.text)
	}
}

// actsStrict says whether a rule decides. A rule that only may match does so
// if it refuses.
func (d *decider) actsStrict(rank int32) bool {
	s := &d.tables.strict
	t := d.strictMatch(s.rules[rank])
	return t == yes || t == maybe && s.refuses[rank]
}

// strictRule carries out a rule that acts. An aclexec may then say that it
// doesn't.
func (d *decider) strictRule(rank int32) (decision Decision, acts bool) {
	s := &d.tables.strict
	r, file := s.rules[rank], Allow
	if rank >= s.denies {
		file = Deny
	}
	k := candidate{rule: r, file: file, verdict: r.Verdict(file)}
	if d.strictMatch(r) == yes {
		return d.act(&k)
	}
	k.verdict = Deny
	return Decision{Verdict: Deny, Rule: r, Why: why(&k, maybe)}, true
}

// decidesByCommand says whether a command may refuse the client. Where it is
// not sure that the rule matches, the command is not run.
func decidesByCommand(r *Rule) bool {
	for _, o := range r.Options {
		if o.Name == "twist" || o.Name == "aclexec" {
			return true
		}
	}
	return false
}

// faulty says whether an option can't be carried out, whoever the client is. It
// may have been meant to refuse: so does libwrap.
func faulty(options []compatOption) bool {
	return slices.ContainsFunc(options, func(o compatOption) bool { return o.fault != "" })
}

// strictMatch says whether the rule is about the request.
func (d *decider) strictMatch(r *Rule) truth {
	if r.Broken {
		for _, term := range r.Daemons.Terms {
			for i := range term.Patterns {
				if d.strictDaemonName(&term.Patterns[i]) != no {
					return maybe
				}
			}
		}
		return no
	}
	daemons := evalLazily(&r.Daemons, d.strictDaemon, nil)
	if daemons == no {
		return no
	}
	return daemons.and(evalLazily(&r.Clients, d.strictClient, (*Client).Numeric))
}

// evalLazily works out a list from left to right, and asks for no more than it
// must: looking at a pattern may mean to look up a name. Within a term, those
// that are cheap come first.
//
// What is known of the value so far is that it is between low and high, and
// that the rest of the list, negated or not, may move it between them.
func evalLazily[P any](l *List[P], worth func(*P) truth, cheap func(*P) bool) truth {
	low, high, negated := no, yes, false
	for i := range l.Terms {
		t := evalTerm(l.Terms[i].Patterns, worth, cheap)
		if negated {
			low = min(high, max(low, t.not()))
		} else {
			high = max(low, min(high, t))
		}
		negated = !negated
		if low == high {
			return low
		}
	}
	if negated {
		return high
	}
	return low
}

func evalTerm[P any](patterns []P, worth func(*P) truth, cheap func(*P) bool) truth {
	t := no
	for i := range patterns {
		if cheap == nil || cheap(&patterns[i]) {
			t = t.or(worth(&patterns[i]))
		}
		if t == yes {
			return yes
		}
	}
	for i := range patterns {
		if cheap == nil || t == yes {
			return t
		}
		if !cheap(&patterns[i]) {
			t = t.or(worth(&patterns[i]))
		}
	}
	return t
}

func (d *decider) strictDaemonName(p *Daemon) truth {
	switch p.Kind {
	case DaemonPort:
		return p.match(nil, d.request.Server.Addr.Port())
	case DaemonAll, DaemonKnown, DaemonInvalid:
		return p.match(nil, 0)
	}
	return truthOf(p.matchName(d.daemon.text))
}

func (d *decider) strictDaemon(p *Daemon) truth {
	t := d.strictDaemonName(p)
	if t == no || p.At == nil {
		return t
	}
	return t.and(d.strictHost(p.At, &d.server))
}

func (d *decider) strictClient(p *Client) truth {
	t := d.strictHost(&p.Host, &d.client)
	if t == no || p.anyUser() {
		return t
	}
	return t.and(d.strictUser(p.User.Text))
}

// strictHost compares numbers with numbers and names with names.
func (d *decider) strictHost(h *Host, s *side) truth {
	switch {
	case h.Kind == HostAll:
		return yes
	case h.Kind == HostInvalid:
		return maybe
	case h.Kind == HostFile:
		return d.strictFile(h, s)
	case !h.Kind.Numeric():
		return d.strictHostName(h, s)
	case !s.number.IsValid():
		return maybe
	}
	return h.match(s.number)
}

// strictFile tries the patterns of a file.
func (d *decider) strictFile(h *Host, s *side) truth {
	list := d.tables.strict.patterns[h.Text]
	if !list.sure {
		return maybe
	}
	t := no
	for i := range list.hosts {
		if t = t.or(d.strictHost(&list.hosts[i], s)); t == yes {
			return t
		}
	}
	return t
}

// strictHostName tries a pattern for names. A name that was not looked up, or
// could not be, may be any; one that is not confirmed is none.
func (d *decider) strictHostName(h *Host, s *side) truth {
	name := d.hostName(s).text
	switch {
	case h.Kind == HostUnknown && !s.number.IsValid():
		return yes
	case h.Kind == HostKnown && !s.number.IsValid():
		return no
	case s.state == NameFailed:
		return maybe
	}
	switch h.Kind {
	case HostUnknown:
		return truthOf(s.state == NameNone)
	case HostParanoid:
		return truthOf(s.state == NameParanoid)
	case HostNetgroup:
		if s.state == NameKnown && d.environment.InNetgroup == nil {
			return maybe
		}
		return truthOf(s.state == NameKnown && d.environment.InNetgroup(h.Text[1:], name))
	}
	return truthOf(s.state == NameKnown && h.matchName(name))
}

// matchName compares a pattern for names with a name that is known.
func (h *Host) matchName(name string) bool {
	switch h.Kind {
	case HostKnown:
		return true
	case HostLocal:
		return strings.IndexByte(name, '.') < 0
	case HostGlob:
		return matchGlob(h.Text, name)
	case HostSuffix:
		return len(name) > len(h.Text) && hasSuffixFold(name, h.Text)
	case HostPrefix:
		return hasPrefixFold(name, h.Text)
	}
	return equalFold(name, h.Text)
}

// strictUser tries a pattern for users.
func (d *decider) strictUser(pattern string) truth {
	name := d.userName().text
	switch {
	case d.userState == NameFailed:
		return maybe
	case equalFold(pattern, "UNKNOWN"):
		return truthOf(d.userState == NameNone)
	case d.userState == NameNone:
		return no
	case equalFold(pattern, "KNOWN"):
		return yes
	}
	kind, _ := daemonKind(pattern)
	if kind == DaemonInvalid || kind == DaemonPort {
		kind = DaemonName // a user may be called anything
	}
	p := Daemon{Kind: kind, Name: pattern}
	return truthOf(p.matchName(name))
}

// act carries out what belongs to the decision, and lists the rest.
//
// An aclexec that fails refuses in hosts.allow, as hosts_options(5) has it. In
// hosts.deny the rule then does not match, unless it says deny: there the
// command picks whom to refuse.
func (d *decider) act(k *candidate) (decision Decision, acts bool) {
	options := d.tables.strict.options[k.rule]
	decision = Decision{Verdict: k.verdict, Rule: k.rule, Why: why(k, yes)}
	if len(options) == 0 {
		return decision, true
	}
	d.texts()
	d.actions, d.failed = nil, false
	switch result := d.run(options); {
	case d.failed && k.file == Deny && options[len(options)-1].kind != ActDeny:
		return Decision{}, false
	case d.failed:
		decision.Verdict, decision.Why = Deny, whyAclExec
	case result == jumpExit || d.refusal("") != "":
		decision.Verdict, decision.Why = Deny, whyFault
	}
	decision.Actions = d.actions
	return decision, true
}
