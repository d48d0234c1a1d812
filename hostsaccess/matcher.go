package hostsaccess

import (
	"iter"
	"math"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Verdict is what the two files say about a client.
type Verdict uint8

// The verdicts. What to do with NoRule is not for this package to say:
// hosts_access(5) grants, a careful service refuses.
const (
	NoRule Verdict = iota // no rule matches
	Allow                 // the first rule that matches grants
	Deny                  // the first rule that matches refuses
)

// String returns "no rule", "allow" or "deny".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	}
	return "no rule"
}

// Decision is a verdict with its reason.
type Decision struct {
	Verdict Verdict
	Rule    *Rule  // the rule that decided; nil if none did
	Why     string // the same words for log, explain and audit

	// Actions are the options of the rule, in order, for the caller to carry
	// out. A Matcher gives none: its rules with such options refuse.
	Actions []Action
}

// Granted says whether the client gets in by the rules of hosts_access(5), which
// let in whom no rule is about.
func (d Decision) Granted() bool { return d.Verdict != Deny }

// The reasons. They are constants, so that a decision costs no memory.
const (
	whyAllow       = "matched hosts.allow"
	whyDeny        = "matched hosts.deny"
	whyAllowInDeny = "matched hosts.deny, option allow"
	whyDenyInAllow = "matched hosts.allow, option deny"
	whyCommand     = "matched a rule that would run a command or change the user"
	whyDoubtAllow  = "may match a refusing rule in hosts.allow: names and users are never looked up"
	whyDoubtDeny   = "may match hosts.deny: names and users are never looked up"
	whyBroken      = "a wrong rule may have meant this client"
	whyNoMatch     = "no rule matched"
	whyUnnamed     = "no rule names the service"
	whyNoAddress   = "the client's address is not known"
	whyFault       = "an option of the rule can't be carried out"
	whyCrash       = "a pattern file includes itself: libwrap reads on until it crashes"
	whyExit        = "an option expands to more than libwrap can hold: it ends the program here"
	whyUnread      = "hosts.deny can't be read"
	whyAclExec     = "the command of option aclexec failed"
	whyCut         = "libwrap can't read hosts.deny to its end"
)

// why words the decision of a rule that matches for sure, or maybe.
func why(k *candidate, t truth) string {
	switch {
	case k.rule.Broken:
		return whyBroken
	case k.verdict == Allow && k.file == Deny:
		return whyAllowInDeny
	case k.verdict == Allow:
		return whyAllow
	case t == maybe && k.file == Allow:
		return whyDoubtAllow
	case t == maybe:
		return whyDoubtDeny
	case k.command != nil:
		return whyCommand
	case k.file == Allow:
		return whyDenyInAllow
	}
	return whyDeny
}

// Matcher decides for one service. Get one from Compile; the zero Matcher
// has no rules. It is immutable and safe for concurrent use.
type Matcher struct {
	table    bart.Table[int32] // the client's address -> index in outcomes
	outcomes []outcome
	side     []sideRule // by rank
	none     Decision
	named    bool
	broken   []*Rule
	openers  []*Rule
}

// outcome is a decision, and where its rule stands among all rules.
type outcome struct {
	rule    *Rule
	why     string
	rank    int32
	verdict Verdict
}

func (o *outcome) decision() Decision { return Decision{Verdict: o.verdict, Rule: o.rule, Why: o.why} }

// noRank is behind every rule.
const noRank = math.MaxInt32

// sideRule is a rule that looks at more than the client's address without
// scope, so that no table of prefixes can hold it.
type sideRule struct {
	gates       List[gate]
	clients     *List[Client]
	sure, maybe int32 // outcomes
}

// Decide says what the files say about a client at address client that called
// the service at address local. Local need not be known; then rules for one
// address of this host, daemon@address, may match. Decide does not allocate.
func (m *Matcher) Decide(client, local netip.Addr) Decision {
	if !client.IsValid() {
		return Decision{Verdict: Deny, Why: whyNoAddress}
	}
	if len(m.outcomes) == 0 {
		return Decision{Why: whyUnnamed}
	}
	client = client.Unmap()
	i, _ := m.table.Lookup(client)
	best := &m.outcomes[i]
	if len(m.side) > 0 {
		best = m.decideSide(best, client, local.Unmap())
	}
	return best.decision()
}

// decideSide looks for a rule of the side list in front of the best one.
func (m *Matcher) decideSide(best *outcome, client, local netip.Addr) *outcome {
	for i := range m.side {
		s := &m.side[i]
		o := &m.outcomes[s.sure]
		if o.rank > best.rank {
			break
		}
		switch t := s.match(client, local); {
		case t == yes:
			return o
		case t == maybe && o.verdict == Deny:
			return &m.outcomes[s.maybe]
		}
	}
	return best
}

func (s *sideRule) match(client, local netip.Addr) truth {
	t := eval(&s.gates, func(g *gate) truth { return g.open(local) })
	if t == no {
		return no
	}
	return t.and(eval(s.clients, func(c *Client) truth { return c.match(client) }))
}

// Named says whether any rule is about the service, or may be.
func (m *Matcher) Named() bool { return m.named }

// Broken returns the rules about the service that have errors.
func (m *Matcher) Broken() iter.Seq[*Rule] { return slices.Values(m.broken) }

// Openers returns the rules that grant and that some client gets to.
func (m *Matcher) Openers() iter.Seq[*Rule] { return slices.Values(m.openers) }
