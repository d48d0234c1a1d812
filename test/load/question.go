package load

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Question is a call and the reply that it must get. Both begin with the
// transaction id, which the load fills in.
type Question struct {
	Call []byte
	Want []byte // nil: any reply will do
}

// right reports whether a reply is the wanted one, its transaction id aside.
func (q *Question) right(reply []byte) bool {
	return q.Want == nil || len(reply) == len(q.Want) && string(reply[4:]) == string(q.Want[4:])
}

// Asker gives out questions. What it returns is valid until the next call.
type Asker interface{ Next() Question }

// Rotation asks the same questions over and over.
type Rotation struct {
	Questions []Question
	next      int
}

// Next implements Asker.
func (r *Rotation) Next() Question {
	if r.next++; r.next >= len(r.Questions) {
		r.next = 0
	}
	return r.Questions[r.next]
}

// Registration is the i-th of the registrations that a registry is filled with:
// programs of one version, each over UDP and TCP on a port of its own.
type Registration int

// FirstProgram begins the range of programs for users, RFC 5531, Section 8.4.
const FirstProgram = 0x20000000

// Mapping is the registration as version 2 has it.
func (r Registration) Mapping() rpcbind.Mapping {
	m := rpcbind.Mapping{Program: FirstProgram + uint32(r)/2, Version: 1, Prot: rpcbind.ProtUDP, Port: 1024 + uint32(r)/2%60000}
	if r%2 == 1 {
		m.Prot = rpcbind.ProtTCP
	}
	return m
}

// RPCB is the registration as versions 3 and 4 have it.
func (r Registration) RPCB() rpcbind.RPCB[string] {
	m := r.Mapping()
	netid := rpcbind.UDP
	if m.Prot == rpcbind.ProtTCP {
		netid = rpcbind.TCP
	}
	return rpcbind.RPCB[string]{
		Program: m.Program, Version: m.Version, NetID: netid.String(),
		Addr: uaddr(netip.IPv4Unspecified(), m.Port), Owner: "superuser",
	}
}

func uaddr(addr netip.Addr, port uint32) string {
	return fmt.Sprintf("%v.%d.%d", addr, port>>8, port&255)
}

// call encodes a call of the port mapper.
func call(version uint32, proc rpcbind.Proc, args []byte) []byte {
	return oncrpc.AppendCall(nil, &oncrpc.Call{Program: rpcbind.Program, Version: version, Procedure: uint32(proc), Args: args})
}

func success(results []byte) []byte {
	return append(oncrpc.AppendAccepted(nil, 0, oncrpc.Success), results...)
}

// GetPort asks for a registration by version 2.
func GetPort(r Registration) Question {
	m := r.Mapping()
	want := success(xdr.AppendUint32(nil, m.Port))
	m.Port = 0
	return Question{call(rpcbind.Version2, rpcbind.ProcGetAddr, rpcbind.AppendMapping(nil, m)), want}
}

// GetAddr asks for a registration by version 4; server is the address that the
// call goes to, which the answer names.
func GetAddr(r Registration, server netip.Addr) Question {
	m := r.RPCB()
	want := success(xdr.AppendString(nil, uaddr(server, r.Mapping().Port)))
	m.Addr, m.Owner = uaddr(server, uint32(rpcbind.Port)), ""
	return Question{call(rpcbind.Version4, rpcbind.ProcGetAddr, rpcbind.AppendRPCB(nil, &m)), want}
}

// Set registers, and Unset takes back, by version 4.
func Set(r Registration) Question   { return change(rpcbind.ProcSet, r) }
func Unset(r Registration) Question { return change(rpcbind.ProcUnset, r) }

func change(proc rpcbind.Proc, r Registration) Question {
	m := r.RPCB()
	return Question{call(rpcbind.Version4, proc, rpcbind.AppendRPCB(nil, &m)), success(xdr.AppendBool(nil, true))}
}

// Sets asks to register one after the other, from Next on, each Step-th.
type Sets struct{ From, Step Registration }

// Next implements Asker.
func (s *Sets) Next() Question {
	q := Set(s.From)
	s.From += s.Step
	return q
}

// entriesOf reads a reply to version 4's DUMP.
func entriesOf(reply []byte) ([]rpcbind.RPCB[string], error) {
	p, err := oncrpc.ParseReply(reply)
	if err != nil {
		return nil, err
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	r := xdr.NewReader(p.Results)
	list := rpcbind.ReadRPCBs(&r)
	return list, r.Err()
}

func putXID(b []byte, xid uint32) { binary.BigEndian.PutUint32(b, xid) }
func xidOf(b []byte) uint32       { return binary.BigEndian.Uint32(b) }
