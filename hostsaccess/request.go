package hostsaccess

import (
	"net/netip"
	"strings"
)

// Request is one call for a service, as far as its receiver knows it. The
// fields are those of libwrap's request_info.
type Request struct {
	Daemon   string // the name that daemon lists are compared with
	Client   Endpoint
	Server   Endpoint
	User     string // the client's user; "" when nobody was asked yet
	PID      int    // for %p
	Datagram bool   // ident is about streams: nobody is asked about datagrams

	// Resolver is asked for names and users that rules need and that are not
	// in the request. nil: nobody is asked, ever.
	Resolver Resolver
	// AclExec runs the command of an aclexec option and says whether it ended
	// well. nil: the command can't be run, which refuses.
	AclExec func(command string) bool
	// History connects the decisions of one process. nil: this is the only one.
	History *History
}

// Endpoint is one side of a connection.
type Endpoint struct {
	Addr netip.AddrPort // the zero value when not known
	Name string         // host name, "unknown" or "paranoid"; "" when nobody was asked yet

	// Text is the address as hosts_ctl(3) is given it, for Compat, which
	// compares text. "" stands for Addr as glibc prints it.
	Text string
}

// EndpointOf returns the endpoint at a net.Addr of TCP or UDP. That of any
// other, such as a unix socket's, is not known.
func EndpointOf(a interface{ Network() string }) (e Endpoint) {
	if of, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		e.Addr = of.AddrPort()
	}
	return e
}

// History is what the decisions of one process leave behind for the next.
// libwrap keeps it in global variables. It is not safe for concurrent use.
type History struct {
	Decisions int // made before; a process that has made one is resident and can't twist

	// AclExecFailed is set by Compat alone: in libwrap, an aclexec that failed
	// makes all rules with options fail, until another one ends well.
	AclExecFailed bool
}

// Resolver looks up what is not in the packet. Decide asks at most once for
// each name and for the user, and only if a rule depends on it. How long that
// may take, and for how long answers are kept, is the resolver's to say.
type Resolver interface {
	// HostName returns the name of the host at addr. The name must have been
	// confirmed: looking it up gave addr.
	HostName(addr netip.Addr) (string, NameState)
	// UserName asks the ident server of the client (RFC 1413), and waits that
	// many seconds at most, 0 for its own default. "" means no answer.
	UserName(client, server netip.AddrPort, seconds int) string
}

// NameState says what came of looking up a host name.
type NameState uint8

// The states. Only Strict tells the first two apart.
const (
	NameFailed   NameState = iota // the look-up failed: the host may have a name
	NameNone                      // the host has no name
	NameParanoid                  // the host has a name that does not lead back to it
	NameKnown                     // the name is confirmed
)

// Environment is what rules can ask of the machine. A nil function answers
// nothing: no file, no netgroup, no interface, but any user and group.
type Environment struct {
	// ReadFile reads pattern files and banners. os.ReadFile will do.
	ReadFile func(name string) ([]byte, error)
	// InNetgroup is innetgr(3) for a host.
	InNetgroup func(group, host string) bool
	// HasInterface says whether a scope such as eth0 is an interface.
	HasInterface func(name string) bool
	// HasUser and HasGroup say whether the options user and group can succeed.
	HasUser, HasGroup func(name string) bool
}

func has(known func(string) bool, name string) bool { return known == nil || known(name) }

// The words that libwrap uses for what is not known and what is not believed.
const (
	unknown  = "unknown"
	paranoid = "paranoid"
)

// stringLength is libwrap's STRING_LENGTH less the final NUL: what it keeps of
// a name, an address or a user.
const stringLength = 127

// cutLong cuts s as libwrap does; a NUL ends a C string.
func cutLong(s string) string {
	if len(s) > stringLength {
		s = s[:stringLength]
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return s[:i]
	}
	return s
}
