package differential

import (
	"fmt"
	"net/netip"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// Place is the host that a call is made from.
type Place uint8

// The places of a lab.Net.
const (
	Server   Place = iota // the port mapper's own host
	Inside                // a client that the policy opens to
	Stranger              // one that it does not name
)

// Route is a way to the port mapper: it decides what rights a caller has.
type Route struct {
	Network    string // "udp", "tcp" or "unix"
	From       Place
	Source     netip.Addr // of an IP route
	Target     netip.Addr
	Privileged bool   // from a port below 1024
	UID        uint32 // over a unix socket
	Unproven   bool   // the source never comes over TCP
}

// Datagram reports whether r has no connections.
func (r *Route) Datagram() bool { return r.Network == "udp" }

// NetID is the transport that the port mapper sees.
func (r *Route) NetID() rpcbind.NetID {
	switch {
	case r.Network == "unix":
		return rpcbind.Local
	case r.Network == "udp" && r.Target.Is4():
		return rpcbind.UDP
	case r.Network == "udp":
		return rpcbind.UDP6
	case r.Target.Is4():
		return rpcbind.TCP
	}
	return rpcbind.TCP6
}

// String describes r: "udp 10.99.0.2 to 10.99.0.1 from a privileged port".
func (r *Route) String() string {
	if r.Network == "unix" {
		return fmt.Sprintf("unix as user %d", r.UID)
	}
	s := fmt.Sprintf("%s %v to %v", r.Network, r.Source, r.Target)
	if r.Privileged {
		s += " from a privileged port"
	}
	return s
}

var (
	loop4 = netip.MustParseAddr("127.0.0.1")
	other = netip.MustParseAddr("127.0.0.2")
	loop6 = netip.IPv6Loopback()
)

// Addresses of the inside client that never come over TCP.
var (
	Unproven4 = netip.MustParseAddr("10.99.0.3")
	Unproven6 = netip.MustParseAddr("fd99::3")
)

// Routes are all ways to call. The first is root's, with all rights.
var Routes = routes()

func routes() []Route {
	list := []Route{
		{Network: "unix", UID: 0},
		{Network: "unix", UID: 1000},
		{Network: "unix", UID: 1001},
	}
	for _, r := range []Route{
		{From: Server, Source: loop4, Target: loop4},
		{From: Server, Source: loop6, Target: loop6},
		{From: Server, Source: other, Target: other},
		{From: Server, Source: lab.ServerIP, Target: lab.ServerIP},
		{From: Server, Source: lab.ServerIP6, Target: lab.ServerIP6},
		{From: Inside, Source: lab.InsideIP, Target: lab.ServerIP},
		{From: Inside, Source: lab.InsideIP6, Target: lab.ServerIP6},
		{From: Stranger, Source: lab.StrangerIP, Target: lab.ServerWAN},
		{From: Stranger, Source: lab.StrangerIP6, Target: lab.ServerWAN6},
	} {
		for _, r.Privileged = range []bool{true, false} {
			for _, r.Network = range []string{"udp", "tcp"} {
				list = append(list, r)
			}
		}
	}
	return append(list,
		Route{Network: "udp", From: Inside, Source: Unproven4, Target: lab.ServerIP, Unproven: true},
		Route{Network: "udp", From: Inside, Source: Unproven6, Target: lab.ServerIP6, Unproven: true},
	)
}

// Framing is how a message is cut into record marking fragments on a stream.
type Framing uint8

// The framings. All but the first two break the record marking standard or a
// limit, and so end the connection.
const (
	Whole      Framing = iota // one last fragment
	Cut                       // several fragments
	Empty                     // an empty fragment before the last
	Endless                   // the header claims more than a call may have
	Incomplete                // the header claims more than is sent
	Open                      // no last fragment
	numFramings
)

var framingNames = [numFramings]string{"whole", "cut", "with an empty fragment", "with an endless header", "incomplete", "without a last fragment"}

// Step is one message on its way to both port mappers.
type Step struct {
	Route   int // index into Routes
	Framing Framing
	Msg     []byte
	// Malformed: the message may end before its items do. Over UDP it is sent
	// after one that fills the receiver's buffer with known bytes.
	Malformed bool
	// Fresh asks for a new connection.
	Fresh bool
}

// String describes s so that it can be read and sent again.
func (s *Step) String() string {
	r := &Routes[s.Route]
	how := ""
	if !r.Datagram() && s.Framing != Whole {
		how = ", " + framingNames[s.Framing]
	}
	if s.Malformed {
		how += ", malformed"
	}
	return fmt.Sprintf("%v%s: %s\n\t%s", r, how, describe(s.Msg), hex(s.Msg))
}

func describe(msg []byte) string {
	c, err := oncrpc.ParseCall(msg)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("program %d version %d procedure %d, flavor %d, %d bytes of arguments %q", c.Program, c.Version, c.Procedure, c.Cred.Flavor, len(c.Args), c.Args[:min(len(c.Args), longest)])
}

// longest is how much of a message is shown, in bytes.
const longest = 400

func hex(b []byte) string {
	if len(b) > longest {
		return fmt.Sprintf("%x...", b[:longest])
	}
	return fmt.Sprintf("%x", b)
}

// recordMark appends a fragment header, RFC 5531, Section 11.
func recordMark(b []byte, n int, last bool) []byte {
	v := uint32(n)
	if last {
		v |= 1 << 31
	}
	return xdr.AppendUint32(b, v)
}

// frame appends the message of s as it goes over a stream. ends tells that the
// receiver must wait for more than it gets: the sender has to end the stream.
func (s *Step) frame(b []byte) (framed []byte, ends bool) {
	m := s.Msg
	switch s.Framing {
	case Cut:
		first, second := len(m)/3, len(m)/2
		b = append(recordMark(b, first, false), m[:first]...)
		b = append(recordMark(b, second-first, false), m[first:second]...)
		return append(recordMark(b, len(m)-second, true), m[second:]...), false
	case Empty:
		return append(recordMark(recordMark(b, 0, false), len(m), true), m...), false
	case Endless:
		return append(recordMark(b, 1<<30, true), m...), true
	case Incomplete:
		return append(recordMark(b, len(m)+100, true), m...), true
	case Open:
		return append(recordMark(b, len(m), false), m...), true
	default:
		return append(recordMark(b, len(m), true), m...), false
	}
}

// Outcome is what became of a message.
type Outcome struct {
	Reply     []byte // nil if there was none
	Fragments int    // that the reply came in, over a stream
	Closed    bool   // the connection was closed
}

// String describes o.
func (o *Outcome) String() string {
	s := "silence"
	if o.Reply != nil {
		s = fmt.Sprintf("%d bytes %s", len(o.Reply), hex(o.Reply))
	}
	if o.Fragments > 1 {
		s += fmt.Sprintf(" in %d fragments", o.Fragments)
	}
	if o.Closed {
		s += ", then the end of the connection"
	}
	return s
}

// bufferSize is the size in bytes of rpcbind's buffer for datagrams.
const bufferSize = 9000

// poison fills that buffer. It is a call that is met with silence, for its RPC
// version, and goes on with bytes that make long strings and unknown numbers.
var poison = func() []byte {
	b := make([]byte, bufferSize)
	for i := range b {
		b[i] = 0xff
	}
	copy(b, []byte{
		0xfd, 0xff, 0xff, 0xff, // xid
		0, 0, 0, 0, // CALL
		0, 0, 0, 3, // RPC version 3
	})
	return b
}()

// asBuffered is msg as rpcbind finds it in its buffer after poison.
func asBuffered(msg []byte) []byte {
	b := append([]byte(nil), msg[:min(len(msg), bufferSize)]...)
	return append(b, poison[len(b):]...)
}
