package hostsaccess

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// File is a parsed access control file. Its tokens are pieces of Source, in
// order, so that comments and layout can be recovered from what lies between.
type File struct {
	Name        string // as given to Parse, normally the path
	Source      string
	Lines       []Line // logical lines, in order, together all of Source
	Rules       []*Rule
	Diagnostics []Diagnostic
}

// LineKind says what a logical line is.
type LineKind uint8

// The kinds of logical lines, hosts_access(5), "ACCESS CONTROL RULES".
const (
	BlankLine LineKind = iota
	CommentLine
	RuleLine
)

// Line is a logical line: physical lines joined where one ends in a backslash.
type Line struct {
	Kind        LineKind
	Offset, End int     // in Source, with all line ends
	Rules       []*Rule // one for a RuleLine; those that a comment swallowed
}

// Pos is a place in a file; both count from 1, columns count bytes.
// The zero value is no place.
type Pos struct{ Line, Column int32 }

func (p Pos) before(q Pos) bool { return p.Line < q.Line || p.Line == q.Line && p.Column < q.Column }

// Token is a piece of a file. Text is Source[Offset:End], save that the line
// ends of a continuation inside the token are left out.
type Token struct {
	Text        string
	Pos         Pos
	Offset, End int
}

// Rule is one line "daemons : clients [: option]...".
type Rule struct {
	Token           // the whole rule, without the blanks around it
	File     string // name of the file
	LastLine int32  // last physical line: the number that libwrap reports

	Daemons List[Daemon]
	Clients List[Client]
	Options []Option

	// Broken is set when an error was reported for the rule. It then counts
	// as one that may match every client: what it meant is not known.
	Broken bool
}

// Verdict is what the rule says when it matches: what its option allow or deny
// says, or else what its file does, Allow for hosts.allow and Deny for hosts.deny.
func (r *Rule) Verdict(file Verdict) Verdict {
	for i := len(r.Options) - 1; i >= 0; i-- {
		switch r.Options[i].Name {
		case "allow":
			return Allow
		case "deny":
			return Deny
		}
	}
	return file
}

// String returns the file's base name and line, "hosts.allow:3".
func (r *Rule) String() string {
	return fmt.Sprintf("%s:%d", filepath.Base(r.File), r.Pos.Line)
}

// List is a daemon or client list. The terms stand between the EXCEPTs:
// "a b EXCEPT c EXCEPT d" is {a b}, {c}, {d} and means (a or b) but not (c but
// not d). No terms, or an empty first one, match nothing.
type List[P any] struct{ Terms []Term[P] }

// Term is a run of patterns between two EXCEPTs.
type Term[P any] struct {
	Except   Pos // of the EXCEPT in front of it; zero in front of the first term
	Patterns []P
}

// DaemonKind says how a daemon pattern names a service.
type DaemonKind uint8

// The kinds of daemon patterns, hosts_access(5), "PATTERNS".
const (
	DaemonInvalid DaemonKind = iota // reported; may match
	DaemonAll                       // ALL
	DaemonKnown                     // KNOWN, true of every service that has a name
	DaemonName                      // rpcbind, or an RPC program number: 100005
	DaemonGlob                      // rpc*
	DaemonSuffix                    // .d
	DaemonPrefix                    // rpc.
	DaemonPort                      // 111, the port that the service listens on
)

// Daemon is one pattern of a daemon list: process or process@host.
type Daemon struct {
	Token
	Kind DaemonKind
	Name string // without @host
	Port uint16 // of a DaemonPort
	At   *Host  // address of this host that the client used; nil for any
}

// HostKind says how a pattern describes a host.
type HostKind uint8

// The kinds of host patterns, hosts_access(5), "PATTERNS" and "WILDCARDS".
const (
	HostInvalid   HostKind = iota // reported; may match
	HostAll                       // ALL
	HostAddr                      // 192.0.2.1, [2001:db8::1], [fe80::1%eth0]
	HostNetPrefix                 // 192.0.2.
	HostNetwork                   // 192.0.2.0/24, 192.0.2.0/255.255.255.0, [2001:db8::]/32
	HostMask                      // 10.0.0.3/255.0.0.255, a mask with holes
	HostName                      // www.example.com
	HostSuffix                    // .example.com
	HostPrefix                    // www. (the start of a name)
	HostGlob                      // www*.example.com
	HostLocal                     // LOCAL, a name without a dot
	HostKnown                     // KNOWN
	HostUnknown                   // UNKNOWN
	HostParanoid                  // PARANOID
	HostFile                      // /etc/trusted-hosts
	HostNetgroup                  // @trusted
)

var hostKinds = [...]string{
	HostInvalid: "invalid pattern", HostAll: "wildcard ALL", HostAddr: "address", HostNetPrefix: "network prefix",
	HostNetwork: "network", HostMask: "address with mask", HostName: "host name", HostSuffix: "domain",
	HostPrefix: "start of a host name", HostGlob: "host name with wildcards", HostLocal: "wildcard LOCAL",
	HostKnown: "wildcard KNOWN", HostUnknown: "wildcard UNKNOWN", HostParanoid: "wildcard PARANOID",
	HostFile: "pattern file", HostNetgroup: "netgroup",
}

// String names the kind as a person would.
func (k HostKind) String() string {
	if int(k) < len(hostKinds) {
		return hostKinds[k]
	}
	return fmt.Sprintf("HostKind(%d)", uint8(k))
}

// Numeric says whether an address alone decides if the pattern matches.
func (k HostKind) Numeric() bool { return k >= HostAll && k <= HostMask }

// Host is a pattern for a host.
type Host struct {
	Token
	Kind   HostKind
	Prefix netip.Prefix // of a HostAddr, HostNetPrefix or HostNetwork; IPv4-mapped is IPv4
	Zone   string       // scope of an IPv6 pattern, "" for any
	Addr   [4]byte      // of a HostMask, IPv4: what address&Mask must be
	Mask   [4]byte      // of a HostMask
}

// Client is one pattern of a client list: host or user@host.
type Client struct {
	User *Token // nil when only the host counts
	Host Host
}

// Token returns the pattern as a whole.
func (c *Client) Token() Token {
	if c.User == nil {
		return c.Host.Token
	}
	t := *c.User
	t.Text, t.End = t.Text+"@"+c.Host.Text, c.Host.End
	return t
}

// start is where the pattern starts.
func (c *Client) start() Pos {
	if c.User != nil {
		return c.User.Pos
	}
	return c.Host.Pos
}
