package hostsaccess

import (
	"net/netip"
	"strings"
)

// compatTable is a file as Debian's libwrap 7.6.q reads it. What each step of
// this reading is, and where libwrap differs from its manual, was seen by
// running it; test/libwrap compares the two.
type compatTable struct {
	rules []compatRule
	cut   string // why libwrap doesn't read the table to its end; "" if it does
	notes []Diagnostic
}

// compatRule is a line with a ":".
type compatRule struct {
	rule    *Rule
	daemons List[compatDaemon]
	clients List[compatClient]
	options []compatOption
}

// warn notes what libwrap logs when it comes by.
func (t *compatTable) warn(file string, line int32, code Code, message string) {
	t.notes = append(t.notes, Diagnostic{File: file, Pos: Pos{Line: line}, Severity: Warning, Code: code, Message: message})
}

// stop ends the table.
func (t *compatTable) stop(file string, line int32, code Code, why string) {
	t.cut = why
	t.warn(file, line, code, why)
}

// parseCompat reads a table. It finds no mistakes: to libwrap everything means
// something.
func parseCompat(s *Source, e *Environment) *compatTable {
	t := &compatTable{}
	switch s.State {
	case TableUnreadable:
		t.stop(s.Name, 0, Unreadable, "cannot open "+s.Name)
		return t
	case TableMissing, TableDirectory:
		return t
	}
	p := compatParser{e}
	r := compatReader{src: string(s.Data)}
	for {
		line, ok := r.next()
		if !ok {
			return t
		}
		if line[len(line)-1] != '\n' {
			t.stop(s.Name, r.line, LongLine, "missing newline or line too long")
			return t
		}
		t.line(&p, s.Name, line, &r)
	}
}

func (t *compatTable) line(p *compatParser, name, line string, r *compatReader) {
	if line[0] == '#' || isBlank(line) {
		return
	}
	daemons, clients, options, hasOptions, ok := compatFields(line)
	if !ok {
		t.warn(name, r.line, MissingSeparator, `missing ":" separator`)
		return
	}
	rule := &Rule{File: name, LastLine: r.line}
	rule.Token = Token{Text: line[:len(line)-1], Pos: Pos{Line: r.first, Column: 1}}
	k := compatRule{rule: rule, daemons: compatList(daemons, p.daemon), clients: compatList(clients, p.client)}
	if hasOptions {
		k.options = compatOptions(options)
	}
	t.rules = append(t.rules, k)
}

func isBlank(line string) bool {
	for i := range len(line) {
		switch line[i] {
		case ' ', '\t', '\r', '\n':
		default:
			return false
		}
	}
	return true
}

// outcome of one table, or of an option that jumps out of it.
type compatResult uint8

const (
	tableNo compatResult = iota
	tableYes
	tableError
	jumpAllow
	jumpDeny
	jumpTwist // libwrap has become another program
	jumpExit  // libwrap ends the process
	jumpCrash // libwrap overflows its stack
)

// decideCompat is hosts_access.
func (t *Tables) decideCompat(r *Request) Decision {
	var d decider
	d.begin(t, r)
	d.texts()
	if r.History != nil {
		d.failed = r.History.AclExecFailed
	}
	verdict, rule, why := d.decideCompat()
	if h := r.History; h != nil {
		h.Decisions++
		h.AclExecFailed = d.failed
	}
	return Decision{Verdict: verdict, Rule: rule, Why: why, Actions: d.actions}
}

func (d *decider) decideCompat() (verdict Verdict, rule *Rule, why string) {
	rule, result := d.table(0)
	switch result {
	case tableYes, jumpAllow, jumpTwist:
		return Allow, rule, whyAllow
	case jumpDeny:
		return Deny, rule, d.refusal(whyDenyInAllow)
	case jumpExit:
		return Deny, rule, whyExit
	case jumpCrash:
		return Deny, rule, whyCrash
	}
	rule, result = d.table(1)
	switch result {
	case tableYes, jumpTwist:
		return Deny, rule, whyDeny
	case jumpAllow:
		return Allow, rule, whyAllowInDeny
	case jumpDeny:
		return Deny, rule, d.refusal(whyDeny)
	case jumpExit:
		return Deny, rule, whyExit
	case jumpCrash:
		return Deny, rule, whyCrash
	case tableError:
		return Deny, nil, whyCut
	}
	return NoRule, nil, whyNoMatch
}

// refusal is why, unless an option was at fault.
func (d *decider) refusal(why string) string {
	if n := len(d.actions); n > 0 && d.actions[n-1].Fault != "" {
		return whyFault
	}
	return why
}

// compatRule returns the rule of that rank, counted through both tables.
func (t *Tables) compatRule(rank int32) *compatRule {
	if n := int32(len(t.compat[0].rules)); rank >= n {
		return &t.compat[1].rules[rank-n]
	}
	return &t.compat[0].rules[rank]
}

// find returns the rule of table number n that matches first, if any.
func (d *decider) find(n int) *compatRule {
	if d.found == unsearched {
		d.found = d.firstCompat()
	}
	switch allows := int32(len(d.tables.compat[0].rules)); {
	case d.found == noView:
	case d.found == noRule || (d.found >= allows) != (n == 1):
		return nil
	default:
		return d.tables.compatRule(d.found)
	}
	for i := range d.tables.compat[n].rules {
		k := &d.tables.compat[n].rules[i]
		if matches := d.matchRule(k); matches || d.crashed {
			return k
		}
	}
	return nil
}

// What stands for a rank until the view was asked, and if it can't be.
const (
	unsearched = -1
	noView     = -2
)

// firstCompat asks the view.
func (d *decider) firstCompat() int32 {
	if d.tables.compatLoops || strings.IndexByte(d.client.name.text, ':') >= 0 {
		return noView
	}
	v := d.tables.view(d.daemon.text)
	if v == nil || !v.usable(d) {
		return noView
	}
	return v.first(d, -1)
}

// searchCompat tries the rules that the client's address and name lead to.
func (d *decider) searchCompat(s *search) {
	address := &d.client.addr
	switch address.parse(d.environment.HasInterface); {
	case address.quad != noAddress:
		s.net(addr4(address.quad))
	case address.is6:
		s.net(netip.AddrFrom16(address.addr))
	}
	if !s.v.texts.empty() {
		s.text(&s.v.texts, address.plain())
	}
	if !s.v.names.empty() {
		s.text(&s.v.names, d.hostName(&d.client).plain())
	}
}

// table is table_match.
func (d *decider) table(n int) (*Rule, compatResult) {
	k := d.find(n)
	switch {
	case k == nil && d.tables.compat[n].cut != "":
		return nil, tableError
	case k == nil:
		return nil, tableNo
	case d.crashed:
		return k.rule, jumpCrash
	case len(k.options) == 0:
		return k.rule, tableYes
	}
	if result := d.run(k.options); result != tableYes {
		return k.rule, result
	}
	if d.failed {
		d.found = noView    // the options may have changed the request
		return nil, tableNo // of the whole table: no further line is read
	}
	return k.rule, tableYes
}

func (d *decider) matchRule(k *compatRule) bool {
	return compatEval(&k.daemons, d.matchDaemon) && compatEval(&k.clients, d.matchClient)
}

// matchDaemon is server_match.
func (d *decider) matchDaemon(p *compatDaemon) bool {
	switch {
	case !p.isPort:
		if !d.matchString(&p.name, d.daemon) {
			return false
		}
	case !d.request.Server.connected() || p.port != d.request.Server.Addr.Port():
		return false
	}
	return p.at == nil || d.matchHost(p.at, &d.server)
}

// matchClient is client_match.
func (d *decider) matchClient(p *compatClient) bool {
	return d.matchHost(&p.host, &d.client) && (p.user == nil || d.matchString(p.user, d.userName()))
}

// matchHost is host_match.
func (d *decider) matchHost(p *compatHost, s *side) bool {
	switch p.kind {
	case compatNetgroup:
		name := d.hostName(s)
		return d.environment.InNetgroup != nil && d.environment.InNetgroup(p.text.text, strings.Clone(name.text))
	case compatFile:
		return d.matchFile(d.tables.compatFiles[p.text.text], s)
	case compatKnown:
		name := d.hostName(s)
		return !equalFold(s.addr.text(), unknown) && name.isKnown()
	case compatLocal:
		name := d.hostName(s)
		return strings.IndexByte(name.text, '.') < 0 && name.isKnown()
	case compatLoop:
		d.crashed = true // a file takes 8 kB of stack, and a process has 8 MB
		return true
	case compatMasked:
		return p.mask.match(&s.addr, d.environment.HasInterface)
	}
	return d.matchAddress(&p.text, &s.addr) || p.name && d.matchString(&p.text, d.hostName(s))
}

// matchFile is hostfile_match. The files are without files in them.
func (d *decider) matchFile(hosts []compatHost, s *side) bool {
	for i := range hosts {
		if d.matchHost(&hosts[i], s) {
			return true
		}
	}
	return false
}
