package policy

import (
	"fmt"
	"strings"

	"rpcward/hostsaccess"
)

// How much of a policy a summary tells.
const (
	summaryRules   = 4
	summaryClients = 60 // bytes for each rule
)

// Summary says in plain words whom the policy answers, on one line of bounded
// length: "this host and 192.168.1.0/24 (hosts.allow:3)".
func (p *Policy) Summary() string {
	switch {
	case p.matcher == nil:
		return "this host only (no usable policy)"
	case p.unmatched.Verdict == Answer:
		return "every host that no rule refuses (by default)"
	case !p.matcher.Named():
		return "this host only (no rule names the port mapper)"
	}
	var told []string
	more := 0
	for r := range p.matcher.Openers() {
		if len(told) == summaryRules {
			more++
			continue
		}
		told = append(told, fmt.Sprintf("%s (%v)", clients(r), r))
	}
	if len(told) == 0 {
		return "this host only"
	}
	s := "this host and " + strings.Join(told, ", ")
	if more > 0 {
		s += fmt.Sprintf(", and the clients of %d more rules", more)
	}
	return s
}

// clients words the client list of a rule that grants. Of its first term it
// leaves out what can never match, such as host names.
func clients(r *hostsaccess.Rule) string {
	var terms []string
	left := summaryClients
	for i, t := range r.Clients.Terms {
		var words []string
		for _, c := range t.Patterns {
			if i == 0 && !c.Numeric() {
				continue
			}
			word := c.Token().Text
			if c.Host.Kind == hostsaccess.HostAll {
				word = "every host"
			}
			if left -= len(word); left < 0 {
				words = append(words, "...")
				break
			}
			words = append(words, word)
		}
		terms = append(terms, strings.Join(words, ", "))
		if left < 0 {
			break
		}
	}
	return strings.Join(terms, " except ")
}
