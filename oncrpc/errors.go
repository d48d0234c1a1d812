package oncrpc

import "strconv"

// ReplyError is a reply that says that the call was not carried out. Its words
// are those which RPC tools have printed since Sun's: scripts look for them.
type ReplyError struct {
	Stat      uint32     // MsgAccepted or MsgDenied
	Accept    AcceptStat // when accepted: not Success
	Reject    uint32     // when denied
	Auth      AuthStat   // when denied by AuthError
	Low, High uint32     // versions, after ProgMismatch and RPCMismatch
}

// Err returns nil if p carries results, otherwise a *ReplyError.
func (p *Reply) Err() error {
	if p.Stat == MsgAccepted && p.Accept == Success {
		return nil
	}
	return &ReplyError{p.Stat, p.Accept, p.Reject, p.Auth, p.Low, p.High}
}

// Status names the outcome without its details, as clnt_sperrno(3) does.
func (e *ReplyError) Status() string {
	if e.Stat == MsgDenied {
		if e.Reject == RPCMismatch {
			return "RPC: Incompatible versions of RPC"
		}
		return "RPC: Authentication error"
	}
	switch e.Accept {
	case ProgUnavail:
		return "RPC: Program unavailable"
	case ProgMismatch:
		return "RPC: Program/version mismatch"
	case ProcUnavail:
		return "RPC: Procedure unavailable"
	case GarbageArgs:
		return "RPC: Server can't decode arguments"
	case SystemErr:
		return "RPC: Remote system error"
	default:
		return "RPC: Failed (unspecified error)"
	}
}

// Error adds the details to Status, as clnt_sperror(3) does.
func (e *ReplyError) Error() string {
	denied := e.Stat == MsgDenied
	switch {
	case denied && e.Reject != RPCMismatch:
		return e.Status() + "; why = " + e.Auth.String()
	case denied, e.Accept == ProgMismatch:
		return e.Status() + "; low version = " + strconv.FormatUint(uint64(e.Low), 10) +
			", high version = " + strconv.FormatUint(uint64(e.High), 10)
	default:
		return e.Status()
	}
}

// WrongVersion reports whether a caller may try another version of the same
// program: the server does not have this one, or reads its arguments otherwise.
func (e *ReplyError) WrongVersion() bool {
	return e.Stat == MsgAccepted &&
		(e.Accept == ProgMismatch || e.Accept == ProgUnavail || e.Accept == GarbageArgs)
}

var authWords = [...]string{
	AuthOK:           "Authentication OK",
	AuthBadCred:      "Invalid client credential",
	AuthRejectedCred: "Server rejected credential",
	AuthBadVerf:      "Invalid client verifier",
	AuthRejectedVerf: "Server rejected verifier",
	AuthTooWeak:      "Client credential too weak",
	AuthInvalidResp:  "Invalid server verifier",
	AuthFailed:       "Failed (unspecified error)",
}

// String returns the reason in the words of clnt_sperror(3).
func (s AuthStat) String() string {
	if int64(s) < int64(len(authWords)) {
		return authWords[s]
	}
	return "(unknown authentication error - " + strconv.Itoa(int(int32(s))) + ")"
}
