package differential

import (
	"bytes"
	"slices"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Setup is how both port mappers were started.
type Setup struct {
	Denied   bool // hosts.deny refuses all but the inside, loopback too if rpcbind has it so
	Forward  bool // -r
	Insecure bool // -i
}

// Peer is one of the port mappers under test.
type Peer interface {
	// Ask sends another step and returns what became of it.
	Ask(s Step) Outcome
	// List returns what is registered, as version 4's DUMP tells root.
	List() []rpcbind.RPCB[string]
}

// Case is one step with its two outcomes, and what may explain that they differ.
type Case struct {
	Setup Setup
	Step  Step
	Route *Route

	Stock, Ours   Outcome // as explained so far
	stock, ours   Peer
	Names         []string    // of the differences that were met
	call          oncrpc.Call // as rpcbind decodes it
	parsed        bool
	askedBuffered bool
	askedShorter  bool
}

// NewCase returns the case of a step that both have answered.
func NewCase(setup Setup, s Step, stock, ours Peer, so, oo Outcome) *Case {
	c := &Case{Setup: setup, Step: s, Route: &Routes[s.Route], Stock: so, Ours: oo, stock: stock, ours: ours}
	msg := s.Msg
	if c.buffered() {
		msg = asBuffered(msg)
	}
	var err error
	c.call, err = oncrpc.ParseCall(msg)
	c.parsed = err == nil
	return c
}

// buffered reports whether rpcbind saw more than was sent.
func (c *Case) buffered() bool { return c.Step.Malformed && c.Route.Datagram() }

// Explain reports whether the outcomes are the same, or differ as the table
// allows; Names has the entries that it took.
func (c *Case) Explain() bool {
	for range len(table) {
		if c.same() {
			return true
		}
		if !c.explainOnce() {
			return false
		}
	}
	return c.same()
}

func (c *Case) explainOnce() bool {
	for i := range table {
		if d := &table[i]; d.reconcile != nil && d.reconcile(c) {
			c.Names = append(c.Names, d.Name)
			return true
		}
	}
	return false
}

// Quiet returns the differences after which the registrations may differ,
// although the answers do not.
func (c *Case) Quiet() []string {
	var names []string
	for i := range table {
		if d := &table[i]; d.quiet != nil && !slices.Contains(c.Names, d.Name) && d.quiet(c) {
			names = append(names, d.Name)
		}
	}
	return names
}

// settle says that the whole difference is explained.
func (c *Case) settle() bool {
	c.Stock = c.Ours
	return true
}

func (c *Case) same() bool {
	if c.Stock.Closed != c.Ours.Closed || c.Stock.Fragments != c.Ours.Fragments {
		return false
	}
	return bytes.Equal(c.Stock.Reply, c.Ours.Reply) || c.sameTime()
}

// sameTime compares the answers of GETTIME, which are given one after the other.
func (c *Case) sameTime() bool {
	if !c.is(3, rpcbind.ProcGetTime) && !c.is(4, rpcbind.ProcGetTime) {
		return false
	}
	s, sok := success(&c.Stock)
	o, ook := success(&c.Ours)
	if !sok || !ook || len(s) != 4 || len(o) != 4 {
		return false
	}
	sr, or := xdr.NewReader(s), xdr.NewReader(o)
	return sr.Uint32()-or.Uint32()+2 <= 4
}

// is reports whether the call is that procedure of that version.
func (c *Case) is(version uint32, p rpcbind.Proc) bool {
	return c.parsed && c.call.Program == rpcbind.Program && c.call.Version == version && rpcbind.Proc(c.call.Procedure) == p
}

// proc returns the procedure, if the call is one of the port mapper's.
func (c *Case) proc() (rpcbind.Proc, bool) {
	last := map[uint32]rpcbind.Proc{2: rpcbind.ProcCallIt, 3: rpcbind.ProcTAddr2UAddr, 4: rpcbind.ProcGetStat}
	p := rpcbind.Proc(c.call.Procedure)
	high, ok := last[c.call.Version]
	return p, c.parsed && c.call.Program == rpcbind.Program && ok && p <= high
}

// isAny reports whether the call is one of these procedures, of any version.
func (c *Case) isAny(list ...rpcbind.Proc) bool {
	p, ok := c.proc()
	for _, q := range list {
		if ok && p == q {
			return true
		}
	}
	return false
}

// Changes reports whether the call may change registrations.
func (c *Case) Changes() bool { return c.isAny(rpcbind.ProcSet, rpcbind.ProcUnset) }

// success returns the results of a successful reply.
func success(o *Outcome) ([]byte, bool) {
	r, err := oncrpc.ParseReply(o.Reply)
	return r.Results, err == nil && r.Stat == oncrpc.MsgAccepted && r.Accept == oncrpc.Success
}

// accepted reports whether o is an accepted reply with that status.
func accepted(o *Outcome, stat oncrpc.AcceptStat) bool {
	r, err := oncrpc.ParseReply(o.Reply)
	return err == nil && r.Stat == oncrpc.MsgAccepted && r.Accept == stat
}

// authError reports whether o is an AUTH_ERROR for that reason.
func authError(o *Outcome, why oncrpc.AuthStat) bool {
	r, err := oncrpc.ParseReply(o.Reply)
	return err == nil && r.Stat == oncrpc.MsgDenied && r.Reject == oncrpc.AuthError && r.Auth == why
}

func silent(o *Outcome) bool { return o.Reply == nil && !o.Closed }

// answers reports whether o is a boolean answer of that value.
func answers(o *Outcome, v bool) bool {
	res, ok := success(o)
	r := xdr.NewReader(res)
	return ok && len(res) == 4 && r.Bool() == v
}

// text returns the string that o answers.
func text(o *Outcome) (string, bool) {
	res, ok := success(o)
	r := xdr.NewReader(res)
	s := r.Opaque(bufferSize)
	return string(s), ok && r.Err() == nil && len(r.Rest()) == 0
}

// complete reports whether b has all arguments of the call.
func (c *Case) complete(b []byte) bool {
	r := xdr.NewReader(b)
	switch p, _ := c.proc(); p {
	case rpcbind.ProcSet, rpcbind.ProcUnset, rpcbind.ProcGetAddr, rpcbind.ProcGetVersAddr, rpcbind.ProcGetAddrList:
		if c.call.Version == rpcbind.Version2 {
			rpcbind.ReadMapping(&r)
		} else {
			rpcbind.ReadRPCB(&r)
		}
	case rpcbind.ProcCallIt, rpcbind.ProcIndirect:
		rpcbind.ReadRemoteCall(&r)
	case rpcbind.ProcUAddr2TAddr:
		rpcbind.ReadString(&r)
	case rpcbind.ProcTAddr2UAddr:
		r.Uint32()
		r.Opaque(rpcbind.MaxString)
	}
	return r.Err() == nil
}

// Change is what SET and UNSET name, and GETADDR and its like ask for.
type Change struct {
	Program, Version uint32
	NetID, Addr      string // as sent; of version 2, what its numbers mean
	Prot, Port       uint32 // version 2
}

// change decodes the arguments.
func (c *Case) change() Change {
	r := xdr.NewReader(c.call.Args)
	if c.call.Version == rpcbind.Version2 {
		m := rpcbind.ReadMapping(&r)
		return Change{Program: m.Program, Version: m.Version, Prot: m.Prot, Port: m.Port, NetID: rpcbind.FromProt(m.Prot).String()}
	}
	m := rpcbind.ReadRPCB(&r)
	return Change{Program: m.Program, Version: m.Version, NetID: string(m.NetID), Addr: string(m.Addr)}
}

// askOurs replaces our outcome by that of the same call in another form.
func (c *Case) askOurs(msg []byte) bool {
	s := c.Step
	s.Msg, s.Malformed = msg, false
	c.Ours = c.ours.Ask(s)
	return true
}
