package hostsaccess

import (
	"fmt"
	"slices"
	"strings"
)

// Surroundings is what Check asks about the machine that the files are for. A
// function that is nil is not asked, and what it would tell not reported.
type Surroundings struct {
	// ReadFile reads a pattern file, as os.ReadFile does.
	ReadFile func(path string) ([]byte, error)
	// Ignores says why the daemon of that name never reads the two files; ""
	// if it reads them, or if that is not known.
	Ignores func(daemon string) string
}

// Check reports all that is wrong with the two files, or does not mean what it
// seems to, for whatever service they are about. A nil file has no rules. Each
// consequence says what becomes of clients of services that use libwrap, since
// that, unlike Compile, never says a word.
//
// The findings come in the order of the files, those of pattern files behind
// those of the file that names them.
func Check(allow, deny *File, s Surroundings) []Diagnostic {
	c := &checker{surroundings: s, shadowed: shadows(allow, deny)}
	var all []Diagnostic
	for i, f := range []*File{allow, deny} {
		if f == nil {
			continue
		}
		c.file, c.role, c.told = f, Allow+Verdict(i), map[string]bool{}
		c.found, c.elsewhere = findings{}, findings{}
		c.parsed()
		for _, r := range f.Rules {
			c.rule(r)
		}
		all = append(all, c.found.all(f.Name)...)
		all = append(all, c.elsewhere.list...)
	}
	return all
}

// checker looks at one file after the other.
type checker struct {
	surroundings Surroundings
	shadowed     map[*Rule]shadow

	file      *File
	role      Verdict         // Allow for hosts.allow, Deny for hosts.deny
	told      map[string]bool // what is said once in a file
	last      *Rule           // the last one that refuses was asked about
	lastSays  bool
	found     findings
	elsewhere findings // in pattern files
}

// add keeps a finding about a rule. It does not break the rule: that is for
// Parse to say, for all who use the file.
func (c *checker) add(r *Rule, s Severity, code Code, at Pos, message, consequence, hint string) {
	d := Diagnostic{File: c.file.Name, Pos: at, Severity: s, Code: code, Message: message, Consequence: consequence, Hint: hint}
	c.found.add(d).Rule = r
}

// parsed takes over what Parse found, and says what comes of it.
func (c *checker) parsed() {
	for _, d := range append(slices.Clone(c.file.Diagnostics), c.file.lineEnds()...) {
		d.Consequence = c.consequence(&d)
		r := d.Rule
		d.Rule = nil
		c.found.add(d).Rule = r
	}
}

// lineEnds reports CR LF at the ends of lines, once. It is harmless until a
// line ends in a backslash, which Parse then reports.
func (f *File) lineEnds() []Diagnostic {
	first := strings.Index(f.Source, "\r\n")
	if first < 0 || slices.ContainsFunc(f.Diagnostics, func(d Diagnostic) bool { return d.Code == CarriageReturn }) {
		return nil
	}
	d := Diagnostic{
		File: f.Name, Pos: Pos{1, 1}, Severity: Info, Code: CarriageReturn,
		Message: "lines end in CR LF", Consequence: "they read the same, save that a backslash in front of it continues no line", Hint: "save the file with plain newlines",
	}
	d.Pos.Line += int32(strings.Count(f.Source[:first], "\n"))
	d.Pos.Column += int32(first - strings.LastIndexByte(f.Source[:first], '\n') - 1)
	for at := first; at >= 0; {
		d.Fix = append(d.Fix, Edit{Offset: at, End: at + 1})
		next := strings.Index(f.Source[at+1:], "\r\n")
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return []Diagnostic{d}
}

// depth counts the EXCEPTs in front of what stands at p.
func (r *Rule) depth(p Pos) int {
	n := 0
	behind := func(except Pos) {
		if except != (Pos{}) && except.before(p) {
			n++
		}
	}
	for _, t := range r.Daemons.Terms {
		behind(t.Except)
	}
	if first := r.firstClient(); first != (Pos{}) && !p.before(first) {
		n = 0
	}
	for _, t := range r.Clients.Terms {
		behind(t.Except)
	}
	return n
}

// refuses says whether a rule refuses whom it matches. There may be very many
// findings about a rule of very many options: the answer is kept.
func (c *checker) refuses(r *Rule) bool {
	if r != c.last {
		c.last, c.lastSays = r, r.Verdict(c.role) == Deny
	}
	return c.lastSays
}

// consequence says what comes of what libwrap makes of a finding of Parse.
func (c *checker) consequence(d *Diagnostic) string {
	if d.Libwrap == StopsFile {
		return c.stops()
	}
	if d.Rule == nil {
		return d.Consequence
	}
	refuses := c.refuses(d.Rule)
	if d.Code == OnlyIPv6 {
		return onlyIPv6(refuses != (d.Rule.depth(d.Pos)%2 == 1))
	}
	if d.Code == UnbracketedIPv6 && !refuses && d.Pos != d.Rule.firstClient() {
		// The patterns in front of it still match, and then the option is wrong.
		d.Libwrap = RefuseAll
	}
	return purpose{refuses: refuses, excepted: d.Rule.depth(d.Pos)%2 == 1}.spoiled(d)
}

// firstClient is the place of the first client pattern.
func (r *Rule) firstClient() Pos {
	if len(r.Clients.Terms) == 0 || len(r.Clients.Terms[0].Patterns) == 0 {
		return Pos{}
	}
	return r.Clients.Terms[0].Patterns[0].start()
}

func (c *checker) stops() string {
	if c.role == Deny {
		return "libwrap stops here: it refuses everybody whom no rule above concerns, whatever this line says"
	}
	return "libwrap stops here: this line and all below it let nobody in"
}

func onlyIPv6(refuses bool) string {
	if refuses {
		return "every IPv4 client gets in"
	}
	return "no IPv4 client gets in by it"
}

// purpose is what a pattern stands in its rule for.
type purpose struct{ refuses, excepted bool }

// wholeLine are the findings that concern a line, not a pattern in it.
var wholeLine = map[Code]bool{
	MissingSeparator: true, EmptyList: true, ByteOrderMark: true, CommentContinued: true, SwappedFields: true, NulByte: true,
}

// spoiled says what comes of a mistake in a pattern with that purpose.
func (p purpose) spoiled(d *Diagnostic) string {
	how := "libwrap"
	if d.Reading != "" {
		how += " reads it as " + d.Reading
	}
	switch d.Libwrap {
	case NeverMatch:
		return p.neverMatches(how, d)
	case WiderMatch:
		return how + ": this line " + p.widens(d.Meets)
	case RefuseAll:
		if d.Reading != "" {
			how += ", and"
		}
		return how + " refuses everybody whom this line matches" + p.despite()
	}
	if d.Reading != "" {
		return how
	}
	return d.Consequence
}

func (p purpose) neverMatches(how string, d *Diagnostic) string {
	line := wholeLine[d.Code]
	switch {
	case line && d.Reading == "":
		how += " passes over the line"
	case d.Reading == "":
		how += " never matches it"
	default:
		how += ", which matches nobody"
	}
	how += ": this line "
	switch {
	case p.refuses && p.excepted && !line:
		return how + "refuses whom it should spare"
	case p.excepted && !line:
		return how + "lets in whom it should keep out"
	case p.refuses && meansAll(d, line):
		return how + "lets everybody in"
	case p.refuses:
		return how + "lets in everybody whom it should refuse"
	}
	return how + "lets nobody in"
}

// meansAll says whether everybody was meant by what libwrap never matches.
func meansAll(d *Diagnostic, line bool) bool {
	return d.Code == DeadMask && strings.Contains(d.Message, "/0") || line && d.Rule != nil && whom(d.Rule) == everybody
}

func (p purpose) widens(whom string) string {
	if whom == "" {
		whom = "more clients than it names"
	}
	switch {
	case p.refuses && p.excepted:
		return "spares " + whom
	case p.excepted:
		return "keeps out " + whom
	case p.refuses:
		return "refuses " + whom
	}
	return "lets in " + whom
}

func (p purpose) despite() string {
	if p.refuses {
		return ", and carries out none of its options"
	}
	return ", although it should let them in"
}

// rule looks at what only the whole tells. Of a broken rule Parse has told all
// that is sure.
func (c *checker) rule(r *Rule) {
	if r.Broken {
		return
	}
	if s, ok := c.shadowed[r]; ok {
		c.found.add(s.diagnostic(c.file.Name, r))
	}
	c.options(r)
	for i := range r.Daemons.Terms {
		for j := range r.Daemons.Terms[i].Patterns {
			d := &r.Daemons.Terms[i].Patterns[j]
			c.daemon(r, d)
			if d.At != nil {
				c.host(r, d.At, i)
			}
		}
	}
	for i := range r.Clients.Terms {
		for j := range r.Clients.Terms[i].Patterns {
			c.host(r, &r.Clients.Terms[i].Patterns[j].Host, i)
		}
	}
}

// options reports options that do something else than they seem to.
func (c *checker) options(r *Rule) {
	for i := range r.Options {
		o := &r.Options[i]
		switch {
		case o.Name == "allow" && c.role == Deny:
			c.add(r, Warning, AllowInDeny, o.Pos, "option allow in the file that refuses",
				"this line lets in "+whom(r)+", although it stands in hosts.deny", "move the rule to hosts.allow, or remove the option")
		case o.Name == "aclexec":
			c.add(r, Warning, CommandDecides, o.Pos, "option aclexec lets a command decide, in Debian's libwrap only", c.aclexec(),
				"write the clients down")
		case o.Name == "user" || o.Name == "group":
			c.add(r, Warning, OptionNoEffect, o.Pos, "option "+o.Name+" does nothing in Debian's libwrap",
				"the service keeps the rights that it was started with", "set the user where the service is started")
		}
	}
}

func (c *checker) aclexec() string {
	if c.role == Deny {
		return "when the command fails, no rule of hosts.deny counts any more: everybody gets in"
	}
	return "when the command fails, no rule of hosts.allow counts any more"
}

const everybody = "everybody"

// meetsClients says that the clients of the rule are met.
func (d *Diagnostic) meetsClients() *Diagnostic {
	if d.Rule != nil {
		d.Meets = whom(d.Rule)
	}
	return d
}

// whom names the clients of a rule.
func whom(r *Rule) string {
	if len(r.Clients.Terms) == 1 {
		for _, p := range r.Clients.Terms[0].Patterns {
			if p.Host.Kind == HostAll && p.anyUser() {
				return everybody
			}
		}
	}
	return "whom it names"
}

// daemon reports names of daemons that do not read the files, or not by that name.
func (c *checker) daemon(r *Rule, d *Daemon) {
	name := strings.ToLower(d.Name)
	if d.Kind != DaemonName || c.told[name] {
		return
	}
	switch why := c.ignores(d.Name); {
	case name == "portmap" && !r.names("rpcbind"):
		c.told[name] = true
		c.add(r, Info, PortmapName, d.Pos, "rpcbind asks for the name rpcbind; rpcward and the old portmap also for portmap",
			"where rpcbind is the port mapper, "+c.passedOver(r), `write "portmap rpcbind"`)
	case why != "":
		c.told[name] = true
		severity := Info
		if c.role == Deny {
			severity = Warning
		}
		c.add(r, severity, NoAccessControl, d.Pos, quote(d.Name)+" "+why, c.passedOver(r), "protect it by the firewall, or by its own configuration")
	}
}

func (c *checker) ignores(daemon string) string {
	if c.surroundings.Ignores == nil {
		return ""
	}
	return c.surroundings.Ignores(daemon)
}

// passedOver says what a line does for a service that it does not reach.
func (c *checker) passedOver(r *Rule) string {
	if c.refuses(r) {
		return "this line refuses nobody: everybody gets in"
	}
	return "this line lets nobody in"
}

// names says whether the daemon list has a pattern for that name.
func (r *Rule) names(name string) bool {
	for _, t := range r.Daemons.Terms {
		for i := range t.Patterns {
			if t.Patterns[i].match([]string{name}, 0) == yes {
				return true
			}
		}
	}
	return false
}

// host reports patterns that a client gets round, and reads pattern files.
func (c *checker) host(r *Rule, h *Host, depth int) {
	refuses := c.refuses(r) != (depth%2 == 1)
	switch h.Kind {
	case HostFile:
		c.patternFile(r, h, depth)
	case HostName, HostSuffix, HostPrefix, HostGlob, HostLocal, HostKnown:
		if refuses && !c.reported(h.Pos) {
			c.add(r, Warning, NameRefusal, h.Pos, fmt.Sprintf("%v refuses by the name of the client", quote(h.Text)),
				"whoever has no name, or one of more than 127 bytes, or whose DNS does not answer, gets in",
				"write addresses, or refuse ALL and let in whom you know")
		}
	}
}

// reported says whether Parse has found something at that place.
func (c *checker) reported(at Pos) bool {
	return slices.ContainsFunc(c.file.Diagnostics, func(d Diagnostic) bool { return d.Pos == at })
}
