package hostsaccess

import (
	"net/netip"
)

// decider is one decision under way. It holds what is known of the request by
// now, in a copy: libwrap writes into the request as it goes.
type decider struct {
	tables      *Tables
	environment *Environment
	request     *Request

	daemon         subject
	user           subject
	userState      NameState
	userRead       bool // user and userState are set
	client, server side
	identTimeout   int
	actions        []Action
	failed         bool  // aclexec, in this decision or before
	crashed        bool  // libwrap would have, by now
	found          int32 // what the view gave, or unsearched
}

// side is one end of the connection.
type side struct {
	endpoint *Endpoint
	number   netip.Addr // IPv4-mapped is IPv4
	named    bool       // the name was looked up, or given
	state    NameState
	name     subject
	addr     addressSubject // set by texts
}

// begin copies what the request says.
func (d *decider) begin(t *Tables, r *Request) {
	d.tables, d.environment, d.request, d.found = t, &t.environment, r, unsearched
	d.daemon = subjectOf(cutLong(r.Daemon))
	if d.daemon.text == "" {
		d.daemon = subjectOf(unknown)
	}
	d.client.begin(&r.Client)
	d.server.begin(&r.Server)
}

func (s *side) begin(e *Endpoint) {
	s.endpoint, s.number = e, e.Addr.Addr().Unmap()
	if e.Name == "" {
		return
	}
	s.named, s.name = true, subjectOf(cutLong(e.Name))
	switch {
	case equalFold(e.Name, unknown):
		s.state = NameNone
	case equalFold(e.Name, paranoid) || len(e.Name) > stringLength:
		s.state = NameParanoid
	default:
		s.state = NameKnown
	}
}

// texts says what the addresses are as text, for those who compare or print them.
func (d *decider) texts() {
	d.client.setText(d.tables.mode)
	d.server.setText(d.tables.mode)
}

func (s *side) setText(m Mode) {
	a := s.number
	if m == Compat {
		a = s.endpoint.Addr.Addr()
	}
	switch text := cutLong(s.endpoint.Text); {
	case text != "":
		s.addr.setText(text)
	case a.IsValid():
		s.addr.setAddr(a)
	default:
		s.addr.setText(unknown)
	}
}

// connected says whether the socket address is known, libwrap's sin.
func (e *Endpoint) connected() bool { return e.Addr.Addr().IsValid() || e.Addr.Port() != 0 }

// hostName is libwrap's eval_hostname: it looks the name up if need be.
func (d *decider) hostName(s *side) subject {
	if s.named {
		return s.name
	}
	s.named, s.name = true, subjectOf(unknown)
	a := s.endpoint.Addr.Addr()
	if d.request.Resolver == nil || !a.IsValid() {
		return s.name
	}
	name, state := d.request.Resolver.HostName(a)
	if state == NameKnown && len(name) > stringLength {
		state = NameParanoid // libwrap finds that what it kept of the name does not lead back
	}
	switch s.state = state; state {
	case NameKnown:
		s.name = subjectOf(name)
	case NameParanoid:
		s.name = subjectOf(paranoid)
	}
	return s.name
}

// userKnown says whether the user is known, be it as unknown, without asking.
func (d *decider) userKnown() bool { return d.userRead || cutLong(d.request.User) != "" }

// userName is libwrap's eval_user: it asks for the user if need be.
func (d *decider) userName() subject {
	if d.userRead {
		return d.user
	}
	d.userRead, d.user = true, subjectOf(unknown)
	r := d.request
	if given := cutLong(r.User); given != "" {
		d.setUser(given)
		return d.user
	}
	if r.Resolver == nil || r.Datagram || !r.Client.connected() || !r.Server.connected() {
		return d.user
	}
	d.userState = NameNone
	if name := cutLong(r.Resolver.UserName(r.Client.Addr, r.Server.Addr, d.identTimeout)); name != "" {
		d.setUser(name)
	}
	return d.user
}

func (d *decider) setUser(name string) {
	d.user, d.userState = subjectOf(name), NameKnown
	if equalFold(name, unknown) {
		d.userState = NameNone
	}
}

// acts says whether the rule of that rank decides.
func (d *decider) acts(rank int32) bool {
	if d.tables.mode == Strict {
		return d.actsStrict(rank)
	}
	return d.matchRule(d.tables.compatRule(rank))
}

// search tries the rules that what is known of the client leads to.
func (d *decider) search(s *search) {
	if d.tables.mode == Strict {
		d.searchStrict(s)
		return
	}
	d.searchCompat(s)
}
