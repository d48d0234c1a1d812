package hostsaccess

import (
	"strconv"
	"strings"
)

// compatExpansion is the size of the buffer that libwrap expands options in.
const compatExpansion = 8192

// harmless says whether a byte of an expansion means nothing to a shell.
// libwrap turns all others into "_".
func harmless(c byte) bool {
	return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'z' || strings.IndexByte("!@%-_=+:,./", c) >= 0
}

func isHarmless(s string) bool {
	for i := range len(s) {
		if !harmless(s[i]) {
			return false
		}
	}
	return true
}

// sanitized returns a copy of s with "_" for bytes that are not harmless.
func sanitized(s string) string {
	b := []byte(s)
	for i := range b {
		if !harmless(b[i]) {
			b[i] = '_'
		}
	}
	return string(b)
}

// expand is percent_x: it expands s, and says whether the result fits into a
// buffer of that size.
//
// What it replaces in a name, it replaces in the request, where later rules
// and expansions see it: libwrap cleans the request's own string.
func (d *decider) expand(s string, size int) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+1 < len(s) {
			i++
			b.WriteString(d.letter(s[i]))
		} else {
			b.WriteByte(s[i])
		}
		if b.Len() >= size-1 {
			return "", false
		}
	}
	return b.String(), true
}

// letter expands one %<letter>, hosts_access(5), "% EXPANSIONS".
func (d *decider) letter(c byte) string {
	switch c {
	case 'a':
		return d.client.cleanAddr()
	case 'A':
		return d.server.cleanAddr()
	case 'c':
		return d.clientInfo()
	case 'd':
		return d.daemon.clean()
	case 'h':
		return d.client.cleanInfo()
	case 'H':
		return d.server.cleanInfo()
	case 'n':
		d.hostName(&d.client)
		return d.client.name.clean()
	case 'N':
		d.hostName(&d.server)
		return d.server.name.clean()
	case 'p':
		return strconv.Itoa(d.request.PID)
	case 'r':
		return strconv.Itoa(int(d.request.Client.Addr.Port()))
	case 'R':
		return strconv.Itoa(int(d.request.Server.Addr.Port()))
	case 's':
		return d.serverInfo()
	case 'u':
		d.userName()
		return d.user.clean()
	case '%':
		return "%"
	}
	return ""
}

// clean replaces what could mean something to a shell, for good.
func (s *subject) clean() string {
	if !isHarmless(s.text) {
		*s = subjectOf(sanitized(s.text))
	}
	return s.text
}

func (s *side) cleanAddr() string {
	if !isHarmless(s.addr.text()) {
		s.addr.setText(sanitized(s.addr.text()))
	}
	return s.addr.text()
}

// info is eval_hostinfo: the name if it is known already, or the address.
func (s *side) info() string {
	if s.named && s.name.isKnown() {
		return s.name.text
	}
	return s.addr.text()
}

func (s *side) cleanInfo() string {
	if s.named && s.name.isKnown() {
		return s.name.clean()
	}
	return s.cleanAddr()
}

// clientInfo is eval_client: user@host, or host alone.
func (d *decider) clientInfo() string {
	if !d.userKnown() || d.userName().is(unknown) {
		return d.client.cleanInfo()
	}
	return sanitized(d.user.text + "@" + d.client.info())
}

// serverInfo is eval_server: daemon@host, or daemon alone.
func (d *decider) serverInfo() string {
	if host := d.server.info(); !equalFold(host, unknown) {
		return sanitized(d.daemon.text + "@" + host)
	}
	return d.daemon.clean()
}
