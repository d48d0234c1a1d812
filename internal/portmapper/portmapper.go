// Package portmapper answers calls to the port mapper, RFC 1833: one message
// in, one reply out, from a snapshot of the registry and the policy in force.
//
// The order is fixed: the policy decides, the rate of the caller's prefix is
// kept, and only then is anything else looked at. That holds for every program,
// version and procedure and for what is no call, so that no answer of any kind
// goes round the gate.
//
// A Worker belongs to one goroutine. Looking up, and refusing, take no lock
// and allocate nothing; SET and UNSET wait until the registry has saved them.
// The package opens no socket and reads no clock: a Host tells it what it must
// know of the machine.
package portmapper

import (
	"net/netip"

	"rpcward/internal/policy"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Host is what a Mapper asks of the machine it runs on.
type Host interface {
	// HasAddr reports whether addr is a unicast address of this host.
	HasAddr(addr netip.Addr) bool
	// Knows is HasAddr for look-ups: its answer may be a second old, and costs
	// nothing for each.
	Knows(addr netip.Addr) bool
	// Bound reports whether a socket of transport n is bound to ap's port, on
	// ap's address or on all.
	Bound(n rpcbind.NetID, ap netip.AddrPort) bool
	// Now is the time in seconds since 1970-01-01 UTC.
	Now() int64
}

// Observer is told what a Mapper did, for logs and counters. Its methods must
// not block. The arguments are valid during the call only.
type Observer interface {
	// Refused tells of a call that the policy refused; c is zero for what is no
	// call at all.
	Refused(o *policy.Origin, c *oncrpc.Call, d policy.Decision)
	// Limited tells of a call over the rate of its source prefix, whatever
	// becomes of it: silence, a later answer, or none but this note.
	Limited(o *policy.Origin, c *oncrpc.Call)
	// Declined tells of a SET or UNSET that came from somewhere it may not.
	Declined(o *policy.Origin, c *oncrpc.Call)
	// IndirectDenied tells of a call for another program that may not be forwarded.
	IndirectDenied(o *policy.Origin, target *rpcbind.RemoteCall)
	// Answered tells of a call to the port mapper that the policy allowed.
	Answered(o *policy.Origin, c *oncrpc.Call)
	// NotSaved tells of a change that was refused since it could not be saved.
	NotSaved(err error)
}

// Options are fixed for the life of a Mapper. The zero value is the secure one.
type Options struct {
	// InsecureLocal lets unprivileged ports of this host SET and UNSET over IP,
	// all under the owner "unknown".
	InsecureLocal bool
	// InsecureRemote lets hosts that the policy allows SET and UNSET (rpcbind -i).
	InsecureRemote bool
	// Forward says which calls CALLIT, BCAST and INDIRECT forward; nil means none.
	Forward *ForwardList
	// Rates limit how many calls of a source prefix are answered.
	Rates policy.Rates
}

// Mapper holds what all workers share.
type Mapper struct {
	registry  *registry.Registry
	policy    func() *policy.Policy
	host      Host
	observer  Observer
	options   Options
	limiter   *policy.Limiter
	validated validatedTable
	stats     Stats
}

// New returns a Mapper. current returns the policy in force, it is called once
// for each message.
func New(r *registry.Registry, current func() *policy.Policy, h Host, obs Observer, opt Options) *Mapper {
	return &Mapper{
		registry: r, policy: current, host: h, observer: obs, options: opt,
		limiter: policy.NewLimiter(opt.Rates), validated: newValidatedTable(),
	}
}

// Policy returns the policy in force.
func (m *Mapper) Policy() *policy.Policy { return m.policy() }

// Decide tells what the policy in force says to o.
func (m *Mapper) Decide(o *policy.Origin) policy.Decision { return m.policy().Decide(o) }

// Outcome says what the transport does after a message.
type Outcome uint8

// Outcomes of Worker.Answer.
const (
	Silence Outcome = iota // send nothing
	Refused                // send nothing: the policy refuses the source of a datagram
	Reply                  // send the reply
	HangUp                 // not RPC: send nothing, close a stream
	Forward                // hand Worker.Forwarded to the forwarder
	Part                   // over a stream: send the beginning of a reply, Worker.Continue goes on
)

// maxDatagram is the longest reply in bytes over UDP; peers have no room for a
// longer one (libtirpc's UDPMSGSIZE and RPC_MAXDATASIZE are 8800 and 9000).
const maxDatagram = 8800

// partSize is about how many bytes of a long list are made at once over a
// stream, so that whoever reads slowly holds no more.
const partSize = 8800

// Worker answers one message at a time.
type Worker struct {
	m    *Mapper
	snap *registry.Snapshot

	call   oncrpc.Call
	origin *policy.Origin
	// listed: a rule in hosts.allow opened the door for this caller.
	listed bool
	// size is the length of the call in bytes.
	size int
	// remote is the call in the call, of CALLIT and its kin; it stands here so
	// that an Observer can be shown it without an allocation.
	remote rpcbind.RemoteCall

	// place is how far DUMP has come.
	place registry.Place

	// Forwarded describes the call to forward after the outcome Forward. It
	// aliases the message.
	Forwarded Forwarding

	// Pause waits for that many nanoseconds, at most policy.MaxWait. Where it is
	// set, by whoever holds up nobody else, a call over the rate of its source
	// prefix is answered when it is due.
	Pause func(nanoseconds int64)
}

// NewWorker returns a worker of m.
func (m *Mapper) NewWorker() *Worker { return &Worker{m: m} }

// Answer answers msg, which came from o, and appends the reply to buf.
// It keeps neither msg nor o, except in Forwarded and for Continue.
func (w *Worker) Answer(buf, msg []byte, o *policy.Origin) ([]byte, Outcome) {
	var err error
	w.origin, w.size = o, len(msg)
	d := w.m.policy().Decide(o)
	w.call, err = oncrpc.ParseCall(msg)
	switch {
	case d.Verdict != policy.Answer:
		return w.refuse(buf, d, err == nil)
	case err != nil:
		return buf, HangUp
	}
	if !w.due(d.Listed) {
		return buf, w.holdBack()
	}
	w.listed = d.Listed
	w.snap = w.m.registry.Snapshot()
	if o.Channel == policy.Network && !o.NetID.Datagram() && d.Listed {
		w.m.validated.mark(o.Source.Addr(), w.m.host.Now())
	}
	start := len(buf)
	buf, outcome := w.dispatch(buf)
	if outcome == Reply && o.NetID.Datagram() {
		buf = w.fit(buf, start)
	}
	return w.done(buf, outcome)
}

// Continue appends more of a reply of which a part was made. The registry is
// still as it was at the call.
func (w *Worker) Continue(buf []byte) ([]byte, Outcome) {
	return w.done(w.dumpOn(buf))
}

// done lets go of the snapshot when the reply is complete: a connection may be
// idle for long, and snapshots are not small.
func (w *Worker) done(buf []byte, outcome Outcome) ([]byte, Outcome) {
	if outcome != Part {
		w.snap = nil
	}
	return buf, outcome
}

// refuse answers strangers: over UDP nothing, for the source may be forged;
// over TCP an error that ends their waiting.
func (w *Worker) refuse(buf []byte, d policy.Decision, isCall bool) ([]byte, Outcome) {
	if w.m.observer != nil {
		w.m.observer.Refused(w.origin, &w.call, d)
	}
	switch {
	case w.origin.NetID.Datagram():
		return buf, Refused
	case !isCall:
		return buf, HangUp
	}
	return oncrpc.AppendAuthError(buf, w.call.XID, oncrpc.AuthTooWeak), Reply
}

// due takes an answer out of the caller's rate, waits for it to be due if there
// is a Pause, and reports whether it may be given. This host has no limit.
func (w *Worker) due(listed bool) bool {
	if w.thisHost() {
		return true
	}
	patience := int64(0)
	if w.Pause != nil && !w.m.limiter.LogOnly() {
		patience = policy.MaxWait
	}
	wait, ok := w.m.limiter.Take(w.origin, listed, patience)
	if ok && wait == 0 {
		return true
	}
	if w.m.observer != nil {
		w.m.observer.Limited(w.origin, &w.call)
	}
	if ok {
		w.Pause(wait)
	}
	return ok || w.m.limiter.LogOnly()
}

// holdBack is what callers over their rate get: over UDP nothing, for the source
// may be forged. The source of a stream is proved, so its calls wait for their
// turn; one that would have to wait too long is told by the end of its connection.
func (w *Worker) holdBack() Outcome {
	if w.origin.NetID.Datagram() {
		return Silence
	}
	return HangUp
}

// limit is the longest reply in bytes that this caller may get: over UDP a
// network client never gets more than it sent, unless a rule lists it and it
// has completed a TCP exchange lately, which proves that the address is its own.
func (w *Worker) limit() int {
	switch {
	case !w.origin.NetID.Datagram():
		return int(^uint(0) >> 1)
	case w.thisHost():
		return maxDatagram
	case w.listed && w.m.validated.has(w.origin.Source.Addr(), w.m.host.Now()):
		return maxDatagram
	}
	return min(w.size, maxDatagram)
}

// thisHost reports whether what is sent back stays on this host. That decides
// what the caller is told; what it may change is decided by its channel alone.
func (w *Worker) thisHost() bool {
	return w.origin.Channel != policy.Network
}

// fit replaces a reply that is too long for its datagram.
func (w *Worker) fit(buf []byte, start int) []byte {
	n := len(buf) - start
	if n <= w.size && n <= maxDatagram {
		return buf
	}
	switch limit := w.limit(); {
	case n <= limit:
		return buf
	case limit < maxDatagram:
		return oncrpc.AppendAuthError(buf[:start], w.call.XID, oncrpc.AuthTooWeak)
	default:
		return oncrpc.AppendAccepted(buf[:start], w.call.XID, oncrpc.SystemErr)
	}
}

// dispatch checks the header in the order that RFC 5531, Section 9 gives.
func (w *Worker) dispatch(buf []byte) ([]byte, Outcome) {
	c := &w.call
	if why := c.CheckCred(); why != oncrpc.AuthOK {
		return oncrpc.AppendAuthError(buf, c.XID, why), Reply
	}
	switch {
	case c.Program != rpcbind.Program:
		return oncrpc.AppendAccepted(buf, c.XID, oncrpc.ProgUnavail), Reply
	case c.Version < rpcbind.Version2 || c.Version > rpcbind.Version4:
		return oncrpc.AppendProgMismatch(buf, c.XID, rpcbind.Version2, rpcbind.Version4), Reply
	case rpcbind.Proc(c.Procedure) > lastProc(c.Version):
		return oncrpc.AppendAccepted(buf, c.XID, oncrpc.ProcUnavail), Reply
	}
	w.m.stats.countCall(c.Version, c.Procedure)
	if p := rpcbind.Proc(c.Procedure); p == rpcbind.ProcSet || p == rpcbind.ProcUnset {
		return w.change(buf)
	}
	w.answered()
	return w.procedure(buf)
}

func (w *Worker) answered() {
	if w.m.observer != nil {
		w.m.observer.Answered(w.origin, &w.call)
	}
}

func lastProc(version uint32) rpcbind.Proc {
	switch version {
	case rpcbind.Version2:
		return rpcbind.ProcCallIt
	case rpcbind.Version3:
		return rpcbind.ProcTAddr2UAddr
	}
	return rpcbind.ProcGetStat
}

func (w *Worker) procedure(buf []byte) ([]byte, Outcome) {
	v2 := w.call.Version == rpcbind.Version2
	switch rpcbind.Proc(w.call.Procedure) {
	case rpcbind.ProcNull:
		return w.success(buf), Reply
	case rpcbind.ProcGetAddr:
		if v2 {
			return w.getPort(buf)
		}
		return w.getAddr(buf, w.snap.Lookup)
	case rpcbind.ProcGetVersAddr:
		return w.getAddr(buf, w.snap.Exact)
	case rpcbind.ProcDump:
		w.place = 0
		return w.dumpOn(w.success(buf))
	case rpcbind.ProcCallIt, rpcbind.ProcIndirect:
		return w.callIt(buf)
	case rpcbind.ProcGetTime:
		return xdr.AppendUint32(w.success(buf), uint32(w.m.host.Now())), Reply
	case rpcbind.ProcUAddr2TAddr:
		return w.uaddr2taddr(buf)
	case rpcbind.ProcTAddr2UAddr:
		return w.taddr2uaddr(buf)
	case rpcbind.ProcGetAddrList:
		return w.getAddrList(buf)
	default: // ProcGetStat, the last one
		return w.m.stats.append(w.success(buf)), Reply
	}
}

func (w *Worker) success(buf []byte) []byte {
	return oncrpc.AppendAccepted(buf, w.call.XID, oncrpc.Success)
}

func (w *Worker) garbage(buf []byte) ([]byte, Outcome) {
	return oncrpc.AppendAccepted(buf, w.call.XID, oncrpc.GarbageArgs), Reply
}
