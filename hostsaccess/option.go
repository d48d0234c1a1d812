package hostsaccess

import (
	"slices"
	"strconv"
	"strings"
)

// Option is one ": option" of a rule, hosts_options(5). Values are checked and
// kept; of all options only allow and deny are ever carried out here.
type Option struct {
	Token
	Name  string // in lower case; "" when there is none
	Value string // with "\:" turned into ":"
}

// argument says whether an option takes a value.
type argument uint8

const (
	needsNone argument = iota
	mayHave
	needsOne
)

// optionRule is what hosts_options(5) says of an option.
type optionRule struct {
	argument argument
	last     bool                    // must be the last of the rule
	runs     bool                    // acts on this process or starts another
	valid    func(value string) bool // nil for any
	shape    string                  // what valid wants
}

// optionRules lists libwrap's option table, options.c.
var optionRules = map[string]optionRule{
	"allow":     {last: true},
	"deny":      {last: true},
	"severity":  {argument: needsOne, valid: validSeverity, shape: "level or facility.level as in syslog.conf(5)"},
	"spawn":     {argument: needsOne, runs: true},
	"twist":     {argument: needsOne, last: true, runs: true},
	"aclexec":   {argument: needsOne, runs: true},
	"keepalive": {},
	"linger":    {argument: needsOne, valid: numberFrom(0), shape: "a number of seconds"},
	"rfc931":    {argument: mayHave, valid: numberFrom(1), shape: "a number of seconds above 0"},
	"nice":      {argument: mayHave, valid: validInteger, shape: "a number"},
	"umask":     {argument: needsOne, valid: validUmask, shape: "an octal number up to 0777"},
	"user":      {argument: needsOne, runs: true},
	"group":     {argument: needsOne, runs: true},
	"setenv":    {argument: needsOne},
	"banners":   {argument: needsOne},
}

func validInteger(s string) bool {
	_, err := strconv.ParseInt(s, 10, 32)
	return err == nil
}

func numberFrom(least int64) func(string) bool {
	return func(s string) bool {
		n, err := strconv.ParseInt(s, 10, 32)
		return err == nil && n >= least
	}
}

func validUmask(s string) bool {
	n, err := strconv.ParseUint(s, 8, 16)
	return err == nil && n <= 0o777
}

// The words that libwrap knows; authpriv, warn, error and others are refused by it.
var (
	facilities = []string{"kern", "user", "mail", "daemon", "auth", "lpr", "news", "uucp", "cron",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}
	levels = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
)

func validSeverity(s string) bool {
	s = strings.ToLower(s)
	facility, level, two := strings.Cut(s, ".")
	if !two {
		return slices.Contains(levels, s)
	}
	return slices.Contains(facilities, facility) && slices.Contains(levels, level)
}

// options reads ": option : option" from text[i:], behind the first colon.
func (p *parser) options(i int) {
	text := strings.TrimRight(p.line.text, " \t\r")
	i = min(i, len(text))
	for {
		end := optionEnd(text, i)
		p.rule.Options = append(p.rule.Options, p.option(i, end))
		if end == len(text) {
			break
		}
		i = end + 1
	}
	for n, o := range p.rule.Options {
		if optionRules[o.Name].last && n+1 < len(p.rule.Options) {
			p.error(OptionPlace, o.Pos, "option "+o.Name+" must be the last one", "move it to the end of the rule").reads(RefuseAll, "")
		}
	}
}

// optionEnd returns the place of the colon that ends the option at text[i].
func optionEnd(text string, i int) int {
	for ; i < len(text); i++ {
		if text[i] == ':' {
			return i
		}
		if text[i] == '\\' && i+1 < len(text) && text[i+1] == ':' {
			i++
		}
	}
	return i
}

// option reads the option in text[start:end].
func (p *parser) option(start, end int) Option {
	const space = " \t\r\v\f"
	text := p.line.text
	for start < end && strings.IndexByte(space, text[start]) >= 0 {
		start++
	}
	for start < end && strings.IndexByte(space, text[end-1]) >= 0 {
		end--
	}
	o := Option{Token: p.line.token(start, end)}
	plain := strings.ReplaceAll(o.Text, `\:`, ":")
	n := strings.IndexAny(plain, space+"=")
	if n < 0 {
		n = len(plain)
	}
	o.Name = strings.ToLower(plain[:n])
	value := strings.TrimLeft(plain[n:], space)
	value = strings.TrimPrefix(value, "=")
	o.Value = strings.TrimLeft(value, space)
	p.checkOption(&o)
	return o
}

// checkOption reports an option that libwrap would refuse the client for.
func (p *parser) checkOption(o *Option) {
	rule, known := optionRules[o.Name]
	switch {
	case o.Text == "":
		p.error(EmptyOption, o.Pos, `no option after ":"`, `remove the ":"`).reads(RefuseAll, "").edit(p.withoutColon(o)...)
	case !known && strings.HasPrefix(o.Name, "("):
		p.error(UnknownOption, o.Pos, "a bare shell command is not an option", "write spawn in front of it, or better in a rule for other services alone").reads(RefuseAll, "")
	case !known:
		p.error(UnknownOption, o.Pos, "unknown option "+quote(o.Name), `options are described in hosts_options(5); write "\:" for a colon in a value`).reads(RefuseAll, "")
	case rule.argument == needsOne && o.Value == "":
		p.error(OptionValue, o.Pos, "option "+o.Name+" needs a value", "write "+o.Name+" VALUE").reads(RefuseAll, "")
	case rule.argument == needsNone && o.Value != "":
		p.error(OptionValue, o.Pos, "option "+o.Name+" takes no value", "write "+o.Name).reads(RefuseAll, "")
	case o.Value != "" && rule.valid != nil && !rule.valid(o.Value):
		p.error(OptionValue, o.Pos, quote(o.Value)+" is no value for option "+o.Name, "write "+rule.shape).reads(RefuseAll, "")
	}
}

// withoutColon removes an empty option at the end of a rule and those in front
// of it that are empty too, with their colons.
func (p *parser) withoutColon(o *Option) []Edit {
	if o.Offset < p.rule.End {
		return nil
	}
	at := o.Offset
	for n := len(p.rule.Options); ; n-- {
		before := strings.TrimRight(p.file.Source[:at], " \t\r\v\f")
		if !strings.HasSuffix(before, ":") {
			return nil // the line is continued in between
		}
		at = len(before) - 1
		if n == 0 || p.rule.Options[n-1].Text != "" {
			break
		}
	}
	return []Edit{{len(strings.TrimRight(p.file.Source[:at], " \t")), o.End, ""}}
}

// runs returns the first option of the rule that a resident service must not
// carry out: commands, and a change of user.
func (r *Rule) runs() *Option {
	for i := range r.Options {
		if optionRules[r.Options[i].Name].runs {
			return &r.Options[i]
		}
	}
	return nil
}
