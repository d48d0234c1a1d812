// Package oncrpc reads and writes the messages of ONC RPC version 2, RFC 5531:
// call and reply headers, credentials, and the record marking of streams.
//
// Parsing works in place: a Call or Reply aliases the bytes it was read from.
// Writing appends to the caller's slice. Neither allocates, and no function
// here looks past the message that it was given.
package oncrpc

import (
	"errors"

	"rpcward/xdr"
)

// Version is the RPC protocol version. RFC 5531, Section 9 (rpcvers).
const Version = 2

// Message types. RFC 5531, Section 9 (msg_type).
const (
	msgCall  = 0 // CALL
	msgReply = 1 // REPLY
)

// Reply states. RFC 5531, Section 9 (reply_stat).
const (
	MsgAccepted uint32 = 0 // MSG_ACCEPTED
	MsgDenied   uint32 = 1 // MSG_DENIED
)

// AcceptStat is the outcome of an accepted call. RFC 5531, Section 9 (accept_stat).
type AcceptStat uint32

// The outcomes of an accepted call.
const (
	Success      AcceptStat = 0 // SUCCESS
	ProgUnavail  AcceptStat = 1 // PROG_UNAVAIL
	ProgMismatch AcceptStat = 2 // PROG_MISMATCH
	ProcUnavail  AcceptStat = 3 // PROC_UNAVAIL
	GarbageArgs  AcceptStat = 4 // GARBAGE_ARGS
	SystemErr    AcceptStat = 5 // SYSTEM_ERR
)

// Why a call was denied. RFC 5531, Section 9 (reject_stat).
const (
	RPCMismatch uint32 = 0 // RPC_MISMATCH
	AuthError   uint32 = 1 // AUTH_ERROR
)

// AuthStat is why authentication failed. RFC 5531, Section 9 (auth_stat).
type AuthStat uint32

// The reasons for which a call can be denied by AUTH_ERROR.
const (
	AuthOK           AuthStat = 0 // AUTH_OK
	AuthBadCred      AuthStat = 1 // AUTH_BADCRED
	AuthRejectedCred AuthStat = 2 // AUTH_REJECTEDCRED
	AuthBadVerf      AuthStat = 3 // AUTH_BADVERF
	AuthRejectedVerf AuthStat = 4 // AUTH_REJECTEDVERF
	AuthTooWeak      AuthStat = 5 // AUTH_TOOWEAK
	AuthInvalidResp  AuthStat = 6 // AUTH_INVALIDRESP
	AuthFailed       AuthStat = 7 // AUTH_FAILED
)

// Errors of ParseCall and ParseReply. None of them has an answer on the wire.
var (
	ErrNotCall  = errors.New("oncrpc: not a call")
	ErrNotReply = errors.New("oncrpc: not a reply")
	ErrVersion  = errors.New("oncrpc: not RPC version 2")
	ErrHeader   = errors.New("oncrpc: broken message header")
)

// Call is a call message. RFC 5531, Section 9 (call_body).
type Call struct {
	XID       uint32
	Program   uint32
	Version   uint32
	Procedure uint32
	Cred      OpaqueAuth
	Verf      OpaqueAuth
	Args      []byte // the rest of the message
}

// ParseCall reads a call from the whole of msg. The Call aliases msg.
func ParseCall(msg []byte) (Call, error) {
	r := xdr.NewReader(msg)
	c := Call{XID: r.Uint32()}
	direction, rpcvers := r.Uint32(), r.Uint32()
	c.Program, c.Version, c.Procedure = r.Uint32(), r.Uint32(), r.Uint32()
	c.Cred, c.Verf = readAuth(&r), readAuth(&r)
	switch {
	case r.Err() != nil:
		return Call{}, ErrHeader
	case direction != msgCall:
		return Call{}, ErrNotCall
	case rpcvers != Version:
		return Call{}, ErrVersion
	}
	c.Args = r.Rest()
	return c, nil
}

// AppendCall appends the call c, its arguments included.
func AppendCall(b []byte, c *Call) []byte {
	b = xdr.AppendUint32(b, c.XID)
	b = xdr.AppendUint32(b, msgCall)
	b = xdr.AppendUint32(b, Version)
	b = xdr.AppendUint32(b, c.Program)
	b = xdr.AppendUint32(b, c.Version)
	b = xdr.AppendUint32(b, c.Procedure)
	b = appendAuth(b, c.Cred)
	b = appendAuth(b, c.Verf)
	return append(b, c.Args...)
}

// AcceptedSize is the size in bytes of what AppendAccepted writes; no answer
// with a result is shorter.
const AcceptedSize = 24

// AppendAccepted appends the header of an accepted reply with a null verifier.
// After Success the caller appends the results. RFC 5531, Section 9
// (accepted_reply); for ProgMismatch use AppendProgMismatch.
func AppendAccepted(b []byte, xid uint32, stat AcceptStat) []byte {
	b = xdr.AppendUint32(b, xid)
	b = xdr.AppendUint32(b, msgReply)
	b = xdr.AppendUint32(b, MsgAccepted)
	b = xdr.AppendUint32(b, uint32(AuthNone))
	b = xdr.AppendUint32(b, 0)
	return xdr.AppendUint32(b, uint32(stat))
}

// AppendProgMismatch appends an accepted reply that tells the lowest and the
// highest version of the program that this server supports.
func AppendProgMismatch(b []byte, xid, low, high uint32) []byte {
	b = AppendAccepted(b, xid, ProgMismatch)
	b = xdr.AppendUint32(b, low)
	return xdr.AppendUint32(b, high)
}

// AuthErrorSize is the size in bytes of what AppendAuthError writes.
const AuthErrorSize = 20

// AppendAuthError appends a denied reply. RFC 5531, Section 9 (rejected_reply).
func AppendAuthError(b []byte, xid uint32, why AuthStat) []byte {
	b = xdr.AppendUint32(b, xid)
	b = xdr.AppendUint32(b, msgReply)
	b = xdr.AppendUint32(b, MsgDenied)
	b = xdr.AppendUint32(b, AuthError)
	return xdr.AppendUint32(b, uint32(why))
}

// Reply is a reply message. RFC 5531, Section 9 (reply_body).
type Reply struct {
	XID       uint32
	Stat      uint32     // MsgAccepted or MsgDenied
	Verf      OpaqueAuth // when accepted
	Accept    AcceptStat // when accepted
	Reject    uint32     // when denied: RPCMismatch or AuthError
	Auth      AuthStat   // when denied by AuthError
	Low, High uint32     // versions, after ProgMismatch and RPCMismatch
	Results   []byte     // the rest of the message, after Success
}

// ParseReply reads a reply from the whole of msg. The Reply aliases msg.
func ParseReply(msg []byte) (Reply, error) {
	r := xdr.NewReader(msg)
	p := Reply{XID: r.Uint32()}
	direction := r.Uint32()
	p.Stat = r.Uint32()
	switch p.Stat {
	case MsgAccepted:
		p.readAccepted(&r)
	case MsgDenied:
		p.readDenied(&r)
	default:
		return Reply{}, ErrHeader
	}
	switch {
	case r.Err() != nil:
		return Reply{}, ErrHeader
	case direction != msgReply:
		return Reply{}, ErrNotReply
	}
	if p.Stat == MsgAccepted && p.Accept == Success {
		p.Results = r.Rest()
	}
	return p, nil
}

func (p *Reply) readAccepted(r *xdr.Reader) {
	p.Verf = readAuth(r)
	p.Accept = AcceptStat(r.Uint32())
	if p.Accept == ProgMismatch {
		p.Low, p.High = r.Uint32(), r.Uint32()
	}
}

func (p *Reply) readDenied(r *xdr.Reader) {
	p.Reject = r.Uint32()
	if p.Reject == RPCMismatch {
		p.Low, p.High = r.Uint32(), r.Uint32()
		return
	}
	p.Auth = AuthStat(r.Uint32())
}
