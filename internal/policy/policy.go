// Package policy decides whether a call to the port mapper is answered.
//
// A Policy is an immutable value made from hosts.allow and hosts.deny. This
// host is always answered; its Channel says that a call is this host's, never
// an address in a rule. Other hosts are answered when hosts.allow matches,
// refused when hosts.deny matches and, unless told otherwise, refused when
// nothing matches.
//
// Decide is safe for concurrent use, does not allocate, and looks nothing up.
// The package touches no file and no socket; internal/policyfile reads the
// files and keeps the policy in force.
package policy

import (
	"fmt"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/rpcbind"
)

// Verdict says what becomes of a call.
type Verdict uint8

// The verdicts. The zero value is the safe one.
const (
	Refuse Verdict = iota // silence or an authentication error
	Answer                // full service
)

// String returns "refuse" or "answer".
func (v Verdict) String() string {
	if v == Answer {
		return "answer"
	}
	return "refuse"
}

// Decision is a verdict with its reason. The log, explain, the status page and
// the audit print the same Why.
type Decision struct {
	Verdict Verdict
	Listed  bool              // a rule grants it, not merely a default
	Rule    *hostsaccess.Rule // the rule that decided; nil if none did
	Why     string
}

// Default says what happens to a network client that no rule matches.
type Default uint8

// The defaults.
const (
	Closed Default = iota // refused
	Allow                 // answered, as hosts_access(5) says
)

// String returns "closed" or "allow", as the command line spells them.
func (d Default) String() string {
	if d == Allow {
		return "allow"
	}
	return "closed"
}

// Options are what the command line adds to the two files.
type Options struct {
	Default Default
}

// Names are what the port mapper is called in the daemon lists of the files:
// the names of its old and new implementations, and ours. All mean one thing.
var Names = []string{"portmap", "rpcbind", "rpcward"}

// The reasons that do not come from a rule.
const (
	whyThisHost  = "this host"
	whyBuiltIn   = "no usable policy: only this host is answered"
	whyUnnamed   = "no rule names the port mapper: only this host is answered"
	whyUnmatched = "no rule matched: closed until opened"
	whyDefault   = "no rule matched: answered by default"
)

// Policy says whom to answer. The zero Policy answers this host only.
type Policy struct {
	matcher   *hostsaccess.Matcher // nil in the zero policy
	unmatched Decision             // when the files say nothing
}

// BuiltIn is the policy in force before any file could be read: this host only.
func BuiltIn() *Policy { return &Policy{} }

// New makes a policy out of the two files; a nil file has no rules. A mistake
// in a rule about the port mapper, or about all services, makes the pair
// unusable: New then returns a *RuleError and no policy. The diagnostics tell
// all that was found; mistakes in rules about other services are warnings.
func New(allow, deny *hostsaccess.File, o Options) (*Policy, []hostsaccess.Diagnostic, error) {
	m, found := hostsaccess.Compile(allow, deny, hostsaccess.Options{Names: Names, Port: rpcbind.Port})
	all := diagnostics(m, found, allow, deny)
	if err := ruleError(m, all); err != nil {
		return nil, all, err
	}
	p := &Policy{matcher: m, unmatched: Decision{Verdict: Refuse, Why: whyUnmatched}}
	switch {
	case o.Default == Allow:
		p.unmatched = Decision{Verdict: Answer, Why: whyDefault}
	case !m.Named():
		p.unmatched.Why = whyUnnamed
	}
	return p, all, nil
}

// Decide says whether a call from o is answered, and why.
func (p *Policy) Decide(o *Origin) Decision {
	switch o.Channel {
	case Claimed, Loopback, Unix:
		return Decision{Verdict: Answer, Why: whyThisHost}
	}
	if p.matcher == nil {
		return Decision{Verdict: Refuse, Why: whyBuiltIn}
	}
	d := p.matcher.Decide(o.Source.Addr(), o.Local.Addr())
	switch d.Verdict {
	case hostsaccess.Allow:
		return Decision{Verdict: Answer, Listed: true, Rule: d.Rule, Why: d.Why}
	case hostsaccess.Deny:
		return Decision{Verdict: Refuse, Rule: d.Rule, Why: d.Why}
	}
	return p.unmatched
}

// RuleError says that a rule about the port mapper has a mistake, so that it
// is not known what the files mean.
type RuleError struct {
	Rule   *hostsaccess.Rule // the first such rule
	Place  string            // file:line:column of the mistake
	Reason string            // what is wrong with it
	Hint   string            // what to write instead; may be empty
	More   int               // how many more such rules there are
}

// Error returns place and reason.
func (e *RuleError) Error() string {
	s := e.Place + ": " + e.Reason
	if e.More > 0 {
		s += fmt.Sprintf(" (and %d more wrong rules)", e.More)
	}
	return s
}

// ruleError returns a *RuleError if a rule about the port mapper is broken.
func ruleError(m *hostsaccess.Matcher, found []hostsaccess.Diagnostic) error {
	var e *RuleError
	for r := range m.Broken() {
		if e != nil {
			e.More++
			continue
		}
		e = &RuleError{Rule: r, Place: fmt.Sprintf("%s:%d:%d", r.File, r.Pos.Line, r.Pos.Column), Reason: "the rule has errors"}
		for _, d := range found {
			if d.Rule == r && d.Severity == hostsaccess.Error {
				e.Place, e.Reason, e.Hint = d.Place(), d.Message, d.Hint
				break
			}
		}
	}
	if e == nil {
		return nil
	}
	return e
}

// diagnostics gathers what was found about both files, as it concerns the
// port mapper.
func diagnostics(m *hostsaccess.Matcher, compiled []hostsaccess.Diagnostic, files ...*hostsaccess.File) []hostsaccess.Diagnostic {
	ours := make(map[*hostsaccess.Rule]bool)
	for r := range m.Broken() {
		ours[r] = true
	}
	var all []hostsaccess.Diagnostic
	for _, f := range files {
		if f == nil {
			continue
		}
		for _, d := range f.Diagnostics {
			if d.Severity == hostsaccess.Error && !ours[d.Rule] {
				d.Severity = hostsaccess.Warning
				d.Consequence = "the rule is not about the port mapper, so this changes nothing here; other services may read it wrongly"
			}
			all = append(all, d)
		}
		all = append(all, lookalikes(f)...)
	}
	return append(all, compiled...)
}

// Lookalike is a daemon name that nothing answers to, but that seems to mean
// the port mapper.
const Lookalike hostsaccess.Code = "lookalike-name"

var lookalike = map[string]bool{
	"portmapper": true, "sunrpc": true, "rpc": true, "rpc.bind": true, "rpc.portmap": true, "rpc.rpcbind": true,
	"rpcbind.socket": true, "rpcbind.service": true,
}

// IsLookalike says whether a daemon's name seems to mean the port mapper and
// does not.
func IsLookalike(name string) bool { return lookalike[strings.ToLower(name)] }

// mostLookalikes bounds the findings of lookalikes.
const mostLookalikes = 100

// lookalikes reports daemons that seem to mean the port mapper and do not.
func lookalikes(f *hostsaccess.File) []hostsaccess.Diagnostic {
	var found []hostsaccess.Diagnostic
	for _, r := range f.Rules {
		for _, t := range r.Daemons.Terms {
			for _, d := range t.Patterns {
				if IsLookalike(d.Name) && len(found) < mostLookalikes {
					found = append(found, hostsaccess.Diagnostic{
						File: r.File, Pos: d.Pos, Severity: hostsaccess.Warning, Code: Lookalike, Rule: r,
						Message:     fmt.Sprintf("%q does not name the port mapper", d.Name),
						Consequence: "the rule does not concern it", Hint: "write portmap or rpcbind",
					})
				}
			}
		}
	}
	return found
}
