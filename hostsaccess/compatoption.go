package hostsaccess

import (
	"fmt"
	"strings"
)

// compatOption is one field of a rule's options, with what is wrong with it no
// matter who the client is.
type compatOption struct {
	name, value string
	hasValue    bool
	kind        ActionKind
	fault       string
}

// compatOptionTable is libwrap's option_table.
var compatOptionTable = map[string]struct {
	kind           ActionKind
	needs, may     bool // take a value
	last, expanded bool
}{
	"user":      {kind: ActUser, needs: true},
	"group":     {kind: ActGroup, needs: true},
	"umask":     {kind: ActUmask, needs: true},
	"linger":    {kind: ActLinger, needs: true},
	"keepalive": {kind: ActKeepAlive},
	"spawn":     {kind: ActSpawn, needs: true, expanded: true},
	"twist":     {kind: ActTwist, needs: true, expanded: true, last: true},
	"aclexec":   {kind: ActAclExec, needs: true, expanded: true},
	"rfc931":    {kind: ActIdent, may: true},
	"setenv":    {kind: ActSetEnv, needs: true, expanded: true},
	"nice":      {kind: ActNice, may: true},
	"severity":  {kind: ActSeverity, needs: true},
	"allow":     {kind: ActAllow, last: true},
	"deny":      {kind: ActDeny, last: true},
	"banners":   {kind: ActBanner, needs: true},
}

// compatOptions cuts the third field into options, as get_field does.
func compatOptions(s string) []compatOption {
	var all []compatOption
	for s != "" {
		var field strings.Builder
		for ; s != "" && s[0] != ':'; s = s[1:] {
			if strings.HasPrefix(s, `\:`) {
				s = s[1:]
			}
			field.WriteByte(s[0])
		}
		s = strings.TrimPrefix(s, ":")
		all = append(all, compatOptionOf(field.String(), s == ""))
	}
	return all
}

// compatBlanks separate the words of an option, libwrap's whitespace.
const compatBlanks = " \t\r\n"

// compatOptionOf reads "name", "name value" and "name = value".
func compatOptionOf(field string, last bool) (o compatOption) {
	field = chop(field)
	n := strings.IndexAny(field, "="+compatBlanks)
	if n < 0 {
		n = len(field)
	}
	o.name = field[:n]
	value := strings.TrimLeft(field[n:], compatBlanks)
	if rest, equals := strings.CutPrefix(value, "="); equals {
		value = strings.TrimLeft(rest, compatBlanks)
	}
	o.value, o.hasValue = value, value != ""
	rule, known := compatOptionTable[lowerASCII(o.name)]
	o.kind = rule.kind
	switch {
	case o.name == "":
		o.fault = "missing option name"
	case !known:
		o.fault = fmt.Sprintf(`bad option name: "%s"`, o.name)
	case !o.hasValue && rule.needs:
		o.fault = fmt.Sprintf(`option "%s" requires value`, o.name)
	case o.hasValue && !rule.needs && !rule.may:
		o.fault = fmt.Sprintf(`option "%s" requires no value`, o.name)
	case rule.last && !last:
		o.fault = fmt.Sprintf(`option "%s" must be at end`, o.name)
	}
	return o
}

// chop strips blanks as isspace(3) knows them.
func chop(s string) string { return strings.Trim(s, " \t\n\v\f\r") }

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// run is process_options.
func (d *decider) run(options []compatOption) compatResult {
	for i := range options {
		o := &options[i]
		a := Action{Kind: o.kind, Name: o.name, Argument: o.value}
		if o.fault != "" {
			a.Kind, a.Fault = ActNone, o.fault
			d.actions = append(d.actions, a)
			return jumpDeny
		}
		if compatOptionTable[lowerASCII(o.name)].expanded {
			expanded, ok := d.expand(o.value, compatExpansion)
			if !ok {
				d.actions = append(d.actions, Action{Name: o.name, Fault: "expansion too long"})
				return jumpExit
			}
			a.Argument = chop(expanded)
		}
		a.Value = a.Argument
		result := d.execute(&a)
		d.actions = append(d.actions, a)
		if result != tableYes || d.failed && d.tables.mode == Strict {
			return result
		}
	}
	return tableYes
}

// execute works out what an option does, and does what belongs to the decision.
func (d *decider) execute(a *Action) compatResult {
	switch a.Kind {
	case ActAllow:
		return jumpAllow
	case ActDeny:
		return jumpDeny
	case ActTwist:
		if h := d.request.History; h != nil && h.Decisions > 0 {
			a.Fault = "twist option in resident process"
			return jumpDeny
		}
		return jumpTwist
	case ActAclExec:
		d.failed = d.request.AclExec == nil || !d.request.AclExec(a.Value)
		if d.failed {
			a.Number = 1
		}
	case ActIdent:
		d.ident(a)
	case ActBanner:
		if !d.banner(a) {
			return jumpExit
		}
	default:
		d.value(a)
	}
	if a.Fault != "" {
		return jumpDeny
	}
	return tableYes
}

// ident is rfc931_option: a timeout stays for later questions.
func (d *decider) ident(a *Action) {
	if a.Value != "" {
		n, ok := scanInt(a.Value)
		if !ok || n <= 0 {
			a.Fault = fmt.Sprintf(`bad rfc931 timeout: "%s"`, a.Value)
			return
		}
		a.Number, d.identTimeout = n, n
	}
	d.userName()
}

// value reads the value of an option that has nothing to do with the client.
func (d *decider) value(a *Action) {
	switch a.Kind {
	case ActUmask:
		n, ok := scanUint(a.Value, 8)
		a.Number = int(n)
		a.faultUnless(ok && n <= 0o777, `bad umask value: "%s"`, a.Value)
	case ActLinger:
		n, ok := scanInt(a.Value)
		a.Number = n
		a.faultUnless(ok && n >= 0, `bad linger value: "%s"`, a.Value)
	case ActNice:
		a.Number = 10
		if a.Value != "" {
			n, ok := scanInt(a.Value)
			a.Number = n
			a.faultUnless(ok, `bad nice value: "%s"`, a.Value)
		}
	case ActSetEnv:
		a.setEnv()
	case ActSeverity:
		a.severity()
	case ActUser:
		a.user(d.environment)
	case ActGroup:
		a.faultUnless(has(d.environment.HasGroup, a.Value), `unknown group: "%s"`, a.Value)
	}
}

func (a *Action) faultUnless(ok bool, format, value string) {
	if !ok {
		a.Fault = fmt.Sprintf(format, value)
	}
}

// setEnv is setenv_option. setenv(3) refuses a name that is empty or holds "=".
func (a *Action) setEnv() {
	n := strings.IndexAny(a.Value, compatBlanks)
	if n < 0 {
		n = len(a.Value)
	}
	a.Variable = chop(a.Value[:n])
	a.Value = chop(a.Value[min(n+1, len(a.Value)):])
	if a.Variable == "" || strings.Contains(a.Variable, "=") {
		a.Fault = "memory allocation failure"
	}
}

// syslogFacilities and syslogLevels number the words of option severity, syslog.h.
var (
	syslogFacilities = map[string]int{"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
		"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23}
	syslogLevels = map[string]int{"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
)

// severity is severity_option.
func (a *Action) severity() {
	facility, level, two := CompatSplit(a.Value, '.')
	if !two {
		facility, level = "", facility
	}
	const format = `bad syslog facility or severity: "%s"`
	f, known := syslogFacilities[lowerASCII(facility)]
	a.faultUnless(known || !two, format, facility)
	if a.Fault == "" {
		var n int
		n, known = syslogLevels[lowerASCII(level)]
		a.faultUnless(known, format, level)
		a.Number = f<<3 | n
	}
}

// user is user_option, "user" or "user.group".
func (a *Action) user(e *Environment) {
	name, group, two := CompatSplit(a.Value, '.')
	if two {
		a.faultUnless(has(e.HasGroup, group), `unknown group: "%s"`, group)
	}
	if a.Fault == "" {
		a.faultUnless(has(e.HasUser, name), `unknown user: "%s"`, name)
	}
	a.Value, a.Group = name, group
}

// banner is banners_option: the file with the daemon's name, % expanded, with
// CR LF at the ends of lines.
func (d *decider) banner(a *Action) bool {
	read := d.environment.ReadFile
	if read == nil {
		return true
	}
	data, err := read(a.Value + "/" + d.daemon.text)
	if err != nil {
		return true
	}
	var ok bool
	a.Output, ok = d.bannerText(string(data))
	return ok
}

// bannerLine is the size of the buffer that libwrap reads banners with.
const bannerLine = 8191

func (d *decider) bannerText(s string) (out []byte, ok bool) {
	for strings.HasPrefix(s, "\x00") {
		out, s = append(out, 0), s[1:]
	}
	r := compatReader{src: s}
	for line := r.fgets(bannerLine); line != ""; line = r.fgets(bannerLine) {
		line, _, _ = strings.Cut(line, "\x00")
		if text, _, found := CompatSplit(line, '\n'); found {
			line = text + "\r\n"
		}
		expanded, ok := d.expand(line, 2*compatExpansion)
		if !ok {
			return out, false
		}
		out = append(out, expanded...)
	}
	return out, true
}
