package hostsaccess

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says how bad a finding is.
type Severity uint8

// The severities.
const (
	Info    Severity = iota // worth knowing, nothing is wrong
	Warning                 // the rule acts, perhaps not as it seems to
	Error                   // what the rule means is not known
)

// String returns "info", "warning" or "error".
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	}
	return "info"
}

// Effect says what libwrap, by which other services read the files, makes of
// the piece of a rule that a finding is about.
type Effect uint8

// The effects. None of them is ever reported by libwrap to whoever is at the
// terminal; most are not reported at all.
const (
	AsWritten  Effect = iota // the same as this package
	NeverMatch               // the line is passed over, or the pattern never matches
	WiderMatch               // it matches more clients than are written
	RefuseAll                // whoever the rule matches is refused, in either file
	StopsFile                // the rest of the file is not read; hosts.deny then refuses everybody
)

// Edit replaces Source[Offset:End] of a File.
type Edit struct {
	Offset, End int
	Text        string
}

// Code names a kind of finding. Codes stay the same from release to release.
type Code string

// The findings of Parse.
const (
	MissingSeparator  Code = "missing-separator"  // no ":" between daemons and clients
	EmptyList         Code = "empty-list"         // no pattern, or none before or after an EXCEPT
	UnbalancedBracket Code = "unbalanced-bracket" // "[" without "]" or the other way round
	UnbracketedIPv6   Code = "unbracketed-ipv6"   // 2001:db8::1 outside brackets
	HostBits          Code = "host-bits"          // 192.0.2.1/24
	PartialAddress    Code = "partial-address"    // 10.1.2 or 10/8
	BadAddress        Code = "bad-address"        // 10.1.2.300, [10.1.2.3]
	BadMask           Code = "bad-mask"           // /33, /junk
	DeadMask          Code = "dead-mask"          // 0.0.0.0/0, 192.0.2.1/255.255.255.255
	AddressGlob       Code = "address-glob"       // 10.*
	LongName          Code = "long-name"          // a host name that libwrap cuts off
	BadPattern        Code = "bad-pattern"        // bytes that no name has
	MappedAddress     Code = "mapped-address"     // [::ffff:192.0.2.1]
	OnlyIPv6          Code = "only-ipv6"          // [::]/0 is not every host
	SwappedFields     Code = "swapped-fields"     // an address where a daemon belongs
	CommentInRule     Code = "comment-in-rule"    // "#" after the first column
	CommentContinued  Code = "comment-continued"  // a backslash ends a comment line
	ByteOrderMark     Code = "byte-order-mark"    // U+FEFF at the start
	CarriageReturn    Code = "carriage-return"    // CR other than in a CRLF line end
	NulByte           Code = "nul-byte"           // NUL
	MissingNewline    Code = "missing-newline"    // last line does not end
	LongLine          Code = "long-line"          // more than libwrap reads
	UnknownOption     Code = "unknown-option"     // not in hosts_options(5)
	OptionValue       Code = "option-value"       // missing, superfluous or wrong
	OptionPlace       Code = "option-place"       // must be the last one
	EmptyOption       Code = "empty-option"       // ":" with nothing after it
)

// The findings of Compile, about rules that name the service.
const (
	NamePattern Code = "name-pattern" // needs a look-up that is never made
	UserPattern Code = "user-pattern" // needs an ident query that is never made
	RunsCommand Code = "runs-command" // spawn, twist, aclexec, user, group
	NeverActs   Code = "never-acts"   // earlier rules decide for all its clients
	SlowRules   Code = "slow-rules"   // many rules that must be tried one by one
	// more than a client's address decides, and only that is seen
	BeyondAddress Code = "beyond-address"
)

// The findings of Check, about the two files as a whole.
const (
	AllowInDeny     Code = "allow-in-deny"     // ": allow" in hosts.deny
	Shadowed        Code = "shadowed"          // earlier rules decide for all its clients
	NameRefusal     Code = "name-refusal"      // refuses by a name that a client need not have
	CommandDecides  Code = "command-decides"   // aclexec
	OptionNoEffect  Code = "option-no-effect"  // user, group
	PortmapName     Code = "portmap-name"      // portmap without rpcbind
	NoAccessControl Code = "no-access-control" // the daemon never reads these files
	NotAFile        Code = "not-a-file"        // a directory in the place of a file
	Unreadable      Code = "unreadable"        // the file cannot be read
	PatternFile     Code = "pattern-file"      // missing, or no list of patterns
	PatternFileLoop Code = "pattern-file-loop" // includes itself
)

// Omitted stands for the findings beyond the first thousand.
const Omitted Code = "omitted"

// Diagnostic is one finding about a file.
type Diagnostic struct {
	File        string
	Pos         Pos // zero when it concerns the whole file
	Severity    Severity
	Code        Code
	Message     string // what is wrong
	Consequence string // what happens because of it
	Hint        string // what to write instead; may be empty
	Rule        *Rule  // the rule it concerns; nil when it concerns none

	Libwrap Effect // what other services make of it
	Reading string // how libwrap reads it, where that is not plain; may be empty
	Meets   string // whom a WiderMatch then matches; "" when that is not known
	Fix     []Edit // mends it; nil where a person must say what was meant
}

// reads says what libwrap makes of it, and how it reads it.
func (d *Diagnostic) reads(e Effect, how string) *Diagnostic {
	d.Libwrap, d.Reading = e, how
	return d
}

// meets says whom libwrap's reading matches.
func (d *Diagnostic) meets(whom string) *Diagnostic {
	d.Meets = whom
	return d
}

// write gives the one right text in place of t.
func (d *Diagnostic) write(t Token, text string) *Diagnostic {
	return d.edit(Edit{t.Offset, t.End, text})
}

func (d *Diagnostic) edit(edits ...Edit) *Diagnostic {
	d.Fix = edits
	return d
}

// Place returns "file:line:column", as far as known.
func (d Diagnostic) Place() string {
	if d.Pos.Line == 0 {
		return d.File
	}
	return fmt.Sprintf("%s:%d:%d", d.File, d.Pos.Line, d.Pos.Column)
}

// ComparePlaces orders findings about one file as they stand in it.
func ComparePlaces(a, b Diagnostic) int {
	return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
}

// String returns place, severity and message on one line.
func (d Diagnostic) String() string {
	return d.Place() + ": " + d.Severity.String() + ": " + d.Message
}

// maxFindings bounds what a file of garbage costs in memory.
const maxFindings = 1000

// findings collects diagnostics up to a bound.
type findings struct {
	most    int // 0 is maxFindings
	list    []Diagnostic
	omitted int
	worst   Severity // of those omitted
}

// add keeps d and returns it, to be said more of at once.
func (f *findings) add(d Diagnostic) *Diagnostic {
	if d.Severity == Error && d.Rule != nil {
		d.Rule.Broken = true
	}
	if len(f.list) >= cmp.Or(f.most, maxFindings) {
		f.omitted++
		f.worst = max(f.worst, d.Severity)
		return &d
	}
	f.list = append(f.list, d)
	return &f.list[len(f.list)-1]
}

// all returns the findings in the order of the file, with a last one for those
// left out.
func (f *findings) all(file string) []Diagnostic {
	slices.SortStableFunc(f.list, ComparePlaces)
	if f.omitted > 0 {
		f.list = append(f.list, Diagnostic{
			File: file, Severity: f.worst, Code: Omitted,
			Message:     fmt.Sprintf("%d more findings", f.omitted),
			Consequence: "they are not shown, but they count",
		})
		f.omitted = 0
	}
	return f.list
}
