package hostsaccess

import (
	"strconv"
	"strings"
)

// splitAt cuts word at its first "@" behind the first byte: a leading "@" is
// part of the name (libwrap's split_at(tok + 1, '@')).
func splitAt(word string) (before, after int, found bool) {
	if word == "" {
		return 0, 0, false
	}
	i := strings.IndexByte(word[1:], '@')
	if i < 0 {
		return len(word), len(word), false
	}
	return i + 1, i + 2, true
}

// sub returns t.Text[i:] as a token. A token is rarely continued over lines;
// then the place is that of the whole.
func (t Token) sub(i int) Token {
	if t.End-t.Offset != len(t.Text) {
		return Token{Text: t.Text[i:], Pos: t.Pos, Offset: t.Offset, End: t.End}
	}
	return Token{Text: t.Text[i:], Pos: Pos{t.Pos.Line, t.Pos.Column + int32(i)}, Offset: t.Offset + i, End: t.End}
}

// upTo returns t.Text[:i] as a token, as sub does.
func (t Token) upTo(i int) Token {
	if t.End-t.Offset == len(t.Text) {
		t.End = t.Offset + i
	}
	t.Text = t.Text[:i]
	return t
}

// daemon reads one pattern of a daemon list.
func (p *parser) daemon(t Token) Daemon {
	before, after, found := splitAt(t.Text)
	d := Daemon{Token: t, Name: t.Text[:before]}
	if found {
		at := p.host(t.sub(after))
		d.At = &at
	}
	d.Kind, d.Port = daemonKind(d.Name)
	switch {
	case d.Kind == DaemonInvalid:
		p.error(BadPattern, t.Pos, quote(t.Text)+" is not the name of a daemon", "write the name of the program, its RPC program number, or a port number up to 65535")
	case looksLikeAddress(d.Name):
		p.error(SwappedFields, t.Pos, quote(t.Text)+" is an address where the daemon belongs", `write "daemons : clients"`)
	}
	return d
}

// daemonKind classifies the name in the order of libwrap's
// daemon_or_port_match and string_match.
func daemonKind(name string) (DaemonKind, uint16) {
	switch {
	case !strings.ContainsFunc(name, notDigit):
		return daemonNumber(name)
	case strings.ContainsFunc(name, notDaemonByte):
		return DaemonInvalid, 0
	case strings.ContainsAny(name, "*?"):
		return DaemonGlob, 0
	case name[0] == '.':
		return DaemonSuffix, 0
	case strings.EqualFold(name, "ALL"):
		return DaemonAll, 0
	case strings.EqualFold(name, "KNOWN"):
		return DaemonKnown, 0
	case name[len(name)-1] == '.':
		return DaemonPrefix, 0
	}
	return DaemonName, 0
}

// The program numbers of RPC, RFC 5531, Section 8.4: Sun's own and IANA's, the
// users' and the transient ones. The few below are no services.
const (
	firstProgram = 100000
	lastProgram  = 0x5fffffff
)

// daemonNumber classifies a number. libwrap knows only ports; a program number,
// too large for one, never matches there.
func daemonNumber(name string) (DaemonKind, uint16) {
	n, err := strconv.ParseUint(name, 10, 32)
	switch {
	case err == nil && n <= 0xffff:
		return DaemonPort, uint16(n)
	case err == nil && n >= firstProgram && n <= lastProgram && name[0] != '0':
		return DaemonName, 0
	}
	return DaemonInvalid, 0
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// notDaemonByte is true of what no file name of a daemon is likely to hold.
func notDaemonByte(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("\\#[]\"'`", r)
}

// looksLikeAddress reports a name that can only be meant as a client.
func looksLikeAddress(name string) bool {
	address, _, _ := strings.Cut(name, "/")
	return strings.Contains(address, ".") && strings.Trim(address, "0123456789.") == "" && address != "."
}

// match says whether the pattern names a service that goes by these names, all
// of them meaning one thing, and listens on port (0 when not known).
func (d *Daemon) match(names []string, port uint16) truth {
	switch d.Kind {
	case DaemonAll, DaemonKnown:
		return yes
	case DaemonPort:
		if port == 0 {
			return maybe
		}
		return truthOf(d.Port == port)
	case DaemonInvalid:
		return maybe
	}
	for _, name := range names {
		if d.matchName(name) {
			return yes
		}
	}
	return no
}

func (d *Daemon) matchName(name string) bool {
	switch d.Kind {
	case DaemonGlob:
		return matchGlob(d.Name, name)
	case DaemonSuffix:
		return len(name) > len(d.Name) && strings.EqualFold(name[len(name)-len(d.Name):], d.Name)
	case DaemonPrefix:
		return len(name) >= len(d.Name) && strings.EqualFold(name[:len(d.Name)], d.Name)
	}
	return strings.EqualFold(d.Name, name)
}

// matchGlob matches the whole of s, in any case; "*" is any run of bytes and
// "?" any one byte. It goes back to the last "*" only, so it needs at most
// len(pattern)*len(s) steps where libwrap's recursion needs exponentially many.
func matchGlob(pattern, s string) bool {
	star, resume := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, resume = i, j
			i++
		case i < len(pattern) && (pattern[i] == '?' || lower(pattern[i]) == lower(s[j])):
			i++
			j++
		case star >= 0:
			resume++
			i, j = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// quote quotes a piece of a file for a message, and keeps it short.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
